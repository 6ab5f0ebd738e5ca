"""Metrics of texts, and measures that compute them: the one system of `evaluate` and `lab`.

A measure scores one text per pair. A pair without a text, because none was written or a rule
refused it, counts as an empty text in every metric; coverage is the share of pairs with a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xrec.evaluate.intervals import Estimate, mean_interval

Floats = NDArray[np.float64]
PairIds = tuple[str, str]
"""user_id and item_id."""


@dataclass(frozen=True)
class Metric:
    """A figure of texts, as tables show it (docs/metrics.md).

    label: with the unit. better: the direction, empty if neither is better. is_share: whether the
    values are 0 and 1, so that the mean is a share. group, meaning: in the report of an evaluation.
    """

    name: str
    label: str
    digits: int = 3
    better: str = "higher"
    is_share: bool = False
    group: str = ""
    meaning: str = ""

    def estimate(self, values: Floats | float, users: Sequence[str]) -> Estimate:
        """Return the mean of values (N,) of pairs with its interval; NaN marks pairs without one.

        A single number, which belongs to all texts together, has no interval.
        """
        column = np.asarray(values, dtype=np.float64)
        if column.ndim == 0:
            return Estimate(float(column))
        there = np.isfinite(column)
        known = column[there].astype(np.bool_) if self.is_share else column[there]
        return mean_interval(known, [users[index] for index in np.flatnonzero(there)])


Score = Callable[[Sequence[str]], Sequence[Floats | float]]
"""Returns the values (N,) of each metric for N texts, or one number for all texts together."""


@dataclass(frozen=True)
class Measure:
    """Metrics that are computed together; `load` loads what they need, and returns their score."""

    metrics: tuple[Metric, ...]
    load: Callable[[], Score]


def visible(text: str | None) -> str:
    """Return the text, or "" if readers would see nothing, such as a zero-width space alone."""
    text = text or ""
    is_seen = any(character.isprintable() and not character.isspace() for character in text)
    return text if is_seen else ""


def has_text(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Return which texts are not empty, (N,)."""
    return np.array([bool(text) for text in texts], dtype=np.bool_)
