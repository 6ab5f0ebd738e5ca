"""The aspects that texts name, and how well they are those that the references name."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xrec.checks import AspectNames

K = 10


def named_aspects(text: str, finder: AspectNames) -> list[str]:
    """Return the aspects that the text names, each once, in order."""
    return list(dict.fromkeys(named.name for named in finder.find(text)))


def against_reference(named: Sequence[str], wanted: Sequence[str]) -> NDArray[np.float64]:
    """Return precision, recall and NDCG@10, (3,), of the aspects `named`, the first one first.

    All are 0 if nothing is named, and NaN if the reference names nothing that could be found.
    """
    if not wanted:
        return np.full(3, np.nan)
    right = np.array([name in wanted for name in named], dtype=np.float64)
    discounts = 1 / np.log2(np.arange(2, K + 2))
    ideal = discounts[: len(wanted)].sum()
    return np.array(
        [
            right.mean() if len(named) else 0,
            right.sum() / len(wanted),
            right[:K] @ discounts[: min(len(named), K)] / ideal,
        ]
    )
