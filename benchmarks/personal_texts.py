"""What is measured of a run's texts: pair by pair, couple by couple, and over all of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from benchmarks.personal_data import Indices, Pairs, Run
from xrec.checks import AspectNames
from xrec.lab.measures.aspects import against_reference, named_aspects
from xrec.lab.measures.specificity import share_nearer
from xrec.lab.measures.tf_idf import TfIdf, text_words, without_words

NUM_TEXTS, _NUM_DRAWS = 100, 50
SPECIFICITY, UNTITLED = "specificity", "specificity without titles"
SPECIFICITY_IN_ITEM = "within the item"
MATCHED, NDCG_GAIN = "2 x 2 within the item", "NDCG@10, own minus crossed"
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

    def __init__(self, pairs: Pairs, finder: AspectNames | None):
        self._pairs = pairs
        self._finder = finder
        self._tf_idf = TfIdf(pairs.references)
        self._title_words = [frozenset(text_words(title)) for title in pairs.titles]
        self._untitled = self._without_titles(pairs.references)
        self._wanted = [named_aspects(text, finder) for text in pairs.references] if finder else []

    def measure(self, run: Run) -> Measured:
        """Return the figures of a run."""
        texts = [text or "" for text in run.texts]
        similarities = self._tf_idf.similarities(texts, self._pairs.references)
        untitled = self._tf_idf.similarities(self._without_titles(texts), self._untitled)
        similarities[~run.there] = untitled[~run.there] = np.nan
        return Measured(
            {**self._specificity(run, similarities, untitled), **self._aspects(run)},
            {MATCHED: self._matched(run, similarities), **self._gain(run)},
            variety([text for text in run.texts if text is not None]),
        )

    def _without_titles(self, texts: Sequence[str]) -> list[str]:
        """The texts of the pairs, each without the words of its item's title."""
        return list(map(without_words, texts, self._title_words))

    def _specificity(self, run: Run, similarities: Values, untitled: Values) -> dict[str, Values]:
        shares = {}
        for name, nearness, others in (
            (SPECIFICITY, similarities, self._pairs.other),
            (UNTITLED, untitled, self._pairs.other),
            (SPECIFICITY_IN_ITEM, similarities, self._pairs.other_of_item),
        ):
            copies = np.flatnonzero(run.copied_from >= 0)
            compared = others.copy()
            compared[copies, run.copied_from[copies]] = False
            shares[name] = np.where(run.there, share_nearer(nearness, compared), np.nan)
        return shares

    def _matched(self, run: Run, similarities: Values) -> Values:
        """Return which couples are matched right; none of which one text is the other's reference.

        Such a copy is wrong by itself.
        """
        return np.where(self._are_copies(run), np.nan, matched(similarities, self._pairs.couples))

    def _are_copies(self, run: Run) -> NDArray[np.bool_]:
        first, second = self._pairs.couples.T
        found: NDArray[np.bool_] = (run.copied_from[first] == second) | (
            run.copied_from[second] == first
        )
        return found

    def _aspects(self, run: Run) -> dict[str, Values]:
        if self._finder is None:
            return {}
        rows = np.full((len(run.texts), 4), np.nan)
        for row, (text, wanted) in enumerate(zip(run.texts, self._wanted, strict=True)):
            if text is not None:
                named = named_aspects(text, self._finder)
                rows[row] = [len(named), *against_reference(named, wanted)]
        return dict(zip((NUM_ASPECTS, PRECISION, RECALL, NDCG), rows.T, strict=True))

    def _gain(self, run: Run) -> dict[str, Values]:
        """Return how much better the texts of couples name the own reference's aspects, (C,).

        Own is each text with its own reference, crossed with that of the other user of the item.
        """
        if self._finder is None:
            return {}
        named = [None if text is None else named_aspects(text, self._finder) for text in run.texts]

        def ndcg(row: int, other: int) -> float:
            found = named[row]
            return np.nan if found is None else against_reference(found, self._wanted[other])[2]

        gains = np.array(
            [
                (ndcg(a, a) + ndcg(b, b) - ndcg(a, b) - ndcg(b, a)) / 2
                for a, b in self._pairs.couples
            ],
            dtype=np.float64,
        )
        return {NDCG_GAIN: np.where(self._are_copies(run), np.nan, gains)}


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


def distinct_words(texts: Sequence[str], num_texts: int = 100) -> float:
    """How many distinct words `num_texts` of the texts have, on average over all ways to draw them.

    So the figures of more and of fewer texts can be compared (rarefaction, Hurlbert 1971):
    the sum over words of 1 - C(N - df, n) / C(N, n), where df of the N texts hold the word. Words
    are Unicode's, in any case. Raises ValueError for fewer than `num_texts` texts.
    """
    if not 0 < num_texts <= len(texts):
        raise ValueError(f"{len(texts)} texts; expected {num_texts} or more, and one at least")
    found = Counter(word for text in texts for word in set(text_words(text)))
    without = len(texts) - np.array(list(found.values()), dtype=np.float64)
    without = without[without >= num_texts]  # other words are in any draw
    missed = np.exp(
        _log_ways(without, num_texts) - _log_ways(np.array(float(len(texts))), num_texts)
    )
    return len(found) - float(missed.sum())


def frequent_words_share(texts: Sequence[str], num_words: int = 100) -> float:
    """Share of all words of the texts that are one of the `num_words` most frequent, 0 to 1.

    It is higher the fewer the texts, so compare it of equal numbers of texts. 0 without words.
    """
    counts = Counter(word for text in texts for word in text_words(text))
    frequent = sum(count for _, count in counts.most_common(num_words))
    return frequent / max(1, counts.total())


def _log_ways(of: NDArray[np.float64], num_drawn: int) -> NDArray[np.float64]:
    """ln C(of, num_drawn)."""
    ways: NDArray[np.float64] = (
        gammaln(of + 1) - gammaln(of - num_drawn + 1) - gammaln(float(num_drawn) + 1)
    )
    return ways
