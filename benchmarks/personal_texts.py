"""What is measured of a run's texts: pair by pair, couple by couple, and over all of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.personal_aspects import AspectFinder, against_reference
from benchmarks.personal_data import Indices, Pairs, Run
from xrec.evaluate.text_metrics import distinct_words, frequent_words_share, share_nearer
from xrec.evaluate.tf_idf import TfIdf

NUM_TEXTS, _NUM_DRAWS = 100, 50
SPECIFICITY, SPECIFICITY_IN_ITEM = "specificity", "within the item"
MATCHED = "2 x 2 within the item"
NUM_ASPECTS, PRECISION, RECALL, NDCG = "aspects named", "precision", "recall", "NDCG@10"
DISTINCT, FREQUENT = "distinct words of 100 texts", "share of the 100 most frequent words"
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A run's figures by name: (N,) of pairs, (C,) of couples, NaN where there is none; totals."""

    of_pairs: Mapping[str, Values]
    of_couples: Mapping[str, Values]
    totals: Mapping[str, float]


class Yardstick:
    """Measures runs by the references of `pairs`; aspects only if there is a finder of them."""

    def __init__(self, pairs: Pairs, finder: AspectFinder | None):
        self._pairs = pairs
        self._finder = finder
        self._tf_idf = TfIdf(pairs.references)
        self._wanted = [finder.names(text) for text in pairs.references] if finder else []

    def measure(self, run: Run) -> Measured:
        """Return the figures of a run."""
        similarities = self._tf_idf.similarities(
            [text or "" for text in run.texts], self._pairs.references
        )
        similarities[~run.there] = np.nan
        return Measured(
            {**self._specificity(run, similarities), **self._aspects(run)},
            {MATCHED: self._matched(run, similarities)},
            variety([text for text in run.texts if text is not None]),
        )

    def _specificity(self, run: Run, similarities: Values) -> dict[str, Values]:
        shares = {}
        for name, others in (
            (SPECIFICITY, self._pairs.other),
            (SPECIFICITY_IN_ITEM, self._pairs.other_of_item),
        ):
            copies = np.flatnonzero(run.copied_from >= 0)
            compared = others.copy()
            compared[copies, run.copied_from[copies]] = False
            shares[name] = np.where(run.there, share_nearer(similarities, compared), np.nan)
        return shares

    def _matched(self, run: Run, similarities: Values) -> Values:
        """Return which couples are matched right; none of which one text is the other's reference.

        Such a copy is wrong by itself.
        """
        first, second = self._pairs.couples.T
        is_copy = (run.copied_from[first] == second) | (run.copied_from[second] == first)
        return np.where(is_copy, np.nan, matched(similarities, self._pairs.couples))

    def _aspects(self, run: Run) -> dict[str, Values]:
        if self._finder is None:
            return {}
        rows = np.full((len(run.texts), 4), np.nan)
        for row, (text, wanted) in enumerate(zip(run.texts, self._wanted, strict=True)):
            if text is not None:
                named = self._finder.names(text)
                rows[row] = [len(named), *against_reference(named, wanted)]
        return dict(zip((NUM_ASPECTS, PRECISION, RECALL, NDCG), rows.T, strict=True))


def matched(similarities: Values, couples: Indices) -> Values:
    """Return 1 for each couple whose texts are matched to the right references, (C,); ties 0.5.

    Right is the match with the larger sum of similarities (N, N), of texts with references.
    """
    first, second = couples.T
    own = similarities[first, first] + similarities[second, second]
    crossed = similarities[first, second] + similarities[second, first]
    right = (own > crossed) + 0.5 * (own == crossed)
    return np.where(np.isnan(own + crossed), np.nan, right)


def variety(texts: list[str]) -> dict[str, float]:
    """Return the figures of words of 100 texts, over draws; none for fewer texts."""
    if len(texts) < NUM_TEXTS:
        return {}
    rng = np.random.default_rng(0)
    shares = [
        frequent_words_share([texts[row] for row in rng.permutation(len(texts))[:NUM_TEXTS]])
        for _ in range(_NUM_DRAWS)
    ]
    return {DISTINCT: distinct_words(texts, NUM_TEXTS), FREQUENT: float(np.mean(shares))}
