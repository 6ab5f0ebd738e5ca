"""What is measured of a run's texts: pair by pair, and couple by couple."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.personal_data import Indices, Pairs, Texts
from xrec.checks import AspectNames
from xrec.lab.measures.specificity import TfIdf, share_below, text_words, without_words
from xrec.lab.measures.statements import against_reference, named_aspects

SPECIFICITY, UNTITLED = "specificity", "specificity without titles"
SPECIFICITY_IN_ITEM = "within the item"
MATCHED, NDCG_GAIN = "2 x 2 within the item", "NDCG@10, own minus crossed"
NUM_ASPECTS, PRECISION, RECALL, NDCG = "aspects named", "precision", "recall", "NDCG@10"
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A run's figures by name: (N,) of pairs, (C,) of couples, NaN where there is none."""

    of_pairs: Mapping[str, Values]
    of_couples: Mapping[str, Values]


class Yardstick:
    """Measures texts by the references of `pairs`; aspects only if there is a finder of them."""

    def __init__(self, pairs: Pairs, finder: AspectNames | None):
        self._pairs = pairs
        self._finder = finder
        self._tf_idf = TfIdf(pairs.references)
        self._title_words = [frozenset(text_words(title)) for title in pairs.titles]
        self._untitled = self._without_titles(pairs.references)
        self._wanted = [named_aspects(text, finder) for text in pairs.references] if finder else []

    def measure(self, texts: Texts) -> Measured:
        """The figures of the texts of one run."""
        shown = [text or "" for text in texts]
        similarities = self._tf_idf.similarities(shown, self._pairs.references)
        untitled = self._tf_idf.similarities(self._without_titles(shown), self._untitled)
        missing = np.array([text is None for text in texts])
        similarities[missing] = np.nan
        shares = {
            name: np.where(missing, np.nan, share_below(np.diagonal(nearness), nearness, others))
            for name, nearness, others in (
                (SPECIFICITY, similarities, self._pairs.other),
                (UNTITLED, untitled, self._pairs.other),
                (SPECIFICITY_IN_ITEM, similarities, self._pairs.other_of_item),
            )
        }
        found = {MATCHED: matched(similarities, self._pairs.couples)}
        if self._finder is None:
            return Measured(shares, found)
        named = [None if text is None else named_aspects(text, self._finder) for text in texts]
        return Measured({**shares, **self._aspects(named)}, {**found, NDCG_GAIN: self._gain(named)})

    def _without_titles(self, texts: Sequence[str]) -> list[str]:
        """The texts of the pairs, each without the words of its item's title."""
        return list(map(without_words, texts, self._title_words))

    def _aspects(self, named: Sequence[list[str] | None]) -> dict[str, Values]:
        rows = np.full((len(named), 4), np.nan)
        for row, (found, wanted) in enumerate(zip(named, self._wanted, strict=True)):
            if found is not None:
                rows[row] = [len(found), *against_reference(found, wanted)]
        return dict(zip((NUM_ASPECTS, PRECISION, RECALL, NDCG), rows.T, strict=True))

    def _gain(self, named: Sequence[list[str] | None]) -> Values:
        """How much better the texts of couples name the own reference's aspects, (C,).

        Own is each text with its own reference, crossed with that of the other user of the item.
        """

        def ndcg(row: int, other: int) -> float:
            found = named[row]
            return np.nan if found is None else against_reference(found, self._wanted[other])[2]

        gains = [
            (ndcg(a, a) + ndcg(b, b) - ndcg(a, b) - ndcg(b, a)) / 2 for a, b in self._pairs.couples
        ]
        return np.array(gains, dtype=np.float64)


def matched(similarities: Values, couples: Indices) -> Values:
    """1 for each couple whose texts are matched to the right references, (C,); ties 0.5.

    Right is the match with the larger sum of similarities (N, N), of texts with references.
    """
    first, second = couples.T
    own = similarities[first, first] + similarities[second, second]
    crossed = similarities[first, second] + similarities[second, first]
    right = (own > crossed) + 0.5 * (own == crossed)
    return np.where(np.isnan(own + crossed), np.nan, right)
