"""xrec writes, for every recommendation, why this user would like this item.

Data moves one way, through artifacts: dataset -> graph -> adapter -> explanations -> evaluation.
Each arrow is a job (`xrec/jobs/`), each noun a folder with a `manifest.json` written last, or a
table whose manifest is in the commit that published it.

The names in `__all__` are the public interface; everything else may change without notice. They are
imported when they are used: reading a table needs neither torch nor Ray.
"""

import importlib
from typing import TYPE_CHECKING

from xrec.version import __version__

if TYPE_CHECKING:
    from xrec.adapter.artifact import TrainedAdapter
    from xrec.backfill.lookup import read_explanations
    from xrec.data import Dataset, open_dataset
    from xrec.generate.explainer import Explainer
    from xrec.serve.client import Client
    from xrec.serve.messages import PairRequest
    from xrec.text.writers import load_explainer

__all__ = [
    "Client",
    "Dataset",
    "Explainer",
    "PairRequest",
    "TrainedAdapter",
    "__version__",
    "load_explainer",
    "open_dataset",
    "read_explanations",
]

_MODULES = {
    "Client": "xrec.serve.client",
    "Dataset": "xrec.data",
    "Explainer": "xrec.generate.explainer",
    "PairRequest": "xrec.serve.messages",
    "TrainedAdapter": "xrec.adapter.artifact",
    "load_explainer": "xrec.text.writers",
    "open_dataset": "xrec.data",
    "read_explanations": "xrec.backfill.lookup",
}


def __getattr__(name: str) -> object:
    """Return a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
