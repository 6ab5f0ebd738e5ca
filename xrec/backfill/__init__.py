"""Explains many pairs: pairs in, a table of explanations out.

A backfill is a bulk run (xrec.bulk) whose task explains pairs. This package has what is special
about it: where pairs come from (pairs), what texts depend on (identity), what an actor does with
pairs (task, explain), the run itself with its metrics (plan, driver), what a reader gets (reader,
lookup), and the report.
"""

import importlib
from typing import TYPE_CHECKING

from xrec.backfill.reader import read, read_explanations, read_failed

if TYPE_CHECKING:
    from xrec.backfill.driver import finish, has_work, run_backfill
    from xrec.backfill.pairs import pair_batches, pairs_listing
    from xrec.backfill.plan import open_backfill
    from xrec.backfill.task import EXPLANATIONS

__all__ = [
    "EXPLANATIONS",
    "finish",
    "has_work",
    "open_backfill",
    "pair_batches",
    "pairs_listing",
    "read",
    "read_explanations",
    "read_failed",
    "run_backfill",
]

_MODULES = {
    "EXPLANATIONS": "task",
    "finish": "driver",
    "has_work": "driver",
    "open_backfill": "plan",
    "pair_batches": "pairs",
    "pairs_listing": "pairs",
    "run_backfill": "driver",
}


def __getattr__(name: str) -> object:
    """What a run needs, with which torch and Ray are imported; a reader needs neither."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
