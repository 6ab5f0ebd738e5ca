"""What a measure of texts is, and what is said of one.

A measure of pairs looks at one pair at a time: its text, its reference, and what was known before.
So the pairs of a contestant may be scored in any chunks, by any number of processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from xrec.lab.measures.contestant_texts import ContestantTexts

Floats = NDArray[np.float64]
PAIR_COLUMNS = ("user_id", "item_id", "text")
"""The columns of `Measures.of_pairs` that are no metrics."""


@dataclass(frozen=True)
class MetricInfo:
    """A metric in words: label with unit, meaning, which values are better, digits to show.

    better: None where neither is.
    """

    name: str
    label: str
    better: Literal["higher", "lower"] | None
    meaning: str
    digits: int = 3


class PairMeasure(Protocol):
    """One or more metrics of each pair."""

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """Each metric's values, (N,); NaN where the metric is not defined for the pair."""
        ...
