"""What is scored, what a measure of it is, and what is said of one.

A measure of pairs looks at one pair at a time: its text, its reference, and what was known before.
So the pairs of an entry may be scored in any chunks, by any number of processes. A pair without a
text, because none was written or a rule refused it, counts as an empty text in every metric. How
many have one is the coverage, the first figure of every table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xrec.data import HeldOutPair

Floats = NDArray[np.float64]
PAIR_COLUMNS = ("user_id", "item_id", "text")
"""The columns of `score_table` that are no metrics."""
PairIds = tuple[str, str]
"""user_id and item_id."""


@dataclass(frozen=True, eq=False)
class ScoredTexts:
    """N held-out pairs and the text of each, "" where there is none."""

    pairs: tuple[HeldOutPair, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, pairs: Sequence[HeldOutPair], texts: Mapping[PairIds, str | None]) -> "ScoredTexts":
        """The texts of the pairs; texts of other pairs are passed over."""
        found = [texts.get(pair.ids) or "" for pair in pairs]
        # A reader sees no blank, and nothing like a zero-width space.
        seen = (any(sign.isprintable() and not sign.isspace() for sign in text) for text in found)
        shown = (text if is_seen else "" for text, is_seen in zip(found, seen, strict=True))
        return cls(tuple(pairs), tuple(shown))

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def references(self) -> list[str]:
        return [pair.reference for pair in self.pairs]

    @cached_property
    def has_text(self) -> NDArray[np.bool_]:
        """(N,) whether there is a text."""
        return np.array([bool(text) for text in self.texts], dtype=np.bool_)


@dataclass(frozen=True)
class MetricInfo:
    """A metric in a table: its label with unit, and how many digits are shown (docs/metrics.md)."""

    name: str
    label: str
    digits: int = 3


PairMeasure = Callable[[ScoredTexts], Mapping[str, Floats]]
"""The values of one or more metrics, (N,); NaN where a metric is not defined for the pair."""


def by_pair(
    texts: ScoredTexts,
    infos: Sequence[MetricInfo],
    values: Callable[[HeldOutPair, str], Sequence[float]],
) -> dict[str, Floats]:
    """What a PairMeasure returns, of the values of all `infos` for a pair and its text."""
    rows = [values(pair, text) for pair, text in zip(texts.pairs, texts.texts, strict=True)]
    columns = np.array(rows, dtype=np.float64).reshape(-1, len(infos)).T
    return dict(zip((info.name for info in infos), columns, strict=True))
