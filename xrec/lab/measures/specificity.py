"""Is a text nearer to its own reference than to those of others?

Likeness is the cosine of TF-IDF: words weigh more the fewer references have them. `specificity`
compares with all other pairs: a text that would do for any pair has 0.5. `specificity_untitled`
does so without the words of titles: what an item is called is told to some entries, and no reason.
`specificity_in_item` compares with other users of the same item: what is true of the item, whoever
reads it, brings nothing there.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrec.data import HeldOutPair
from xrec.data.language import words
from xrec.lab.measures.measure import Floats, MetricInfo, ScoredTexts

_ROWS = 256  # compared with all references at a time
Sparse = Any  # scipy.sparse.csr_matrix, which has no types


class Specificity:
    """Compares with the references of `pairs`, which hold all pairs that will be scored.

    titles: of the items of `pairs`, in their order, empty where an item has none.
    """

    infos = (
        MetricInfo("specificity", "Specificity"),
        MetricInfo("specificity_untitled", "Specificity without titles"),
        MetricInfo("specificity_in_item", "Specificity within the item"),
    )

    def __init__(self, pairs: Sequence[HeldOutPair], titles: Sequence[str]) -> None:
        self._references = [pair.reference for pair in pairs]
        self._title_words = [frozenset(text_words(title)) for title in titles]
        self._untitled = list(map(without_words, self._references, self._title_words))
        self._tf_idf = TfIdf(self._references)
        self._places = {pair.ids: place for place, pair in enumerate(pairs)}
        self._items = np.array([pair.item_index for pair in pairs])

    def of_pairs(self, texts: ScoredTexts) -> Mapping[str, Floats]:
        """See PairMeasure; `specificity_in_item` is NaN where the item has no other pair."""
        own = np.array([self._places[pair.ids] for pair in texts.pairs], dtype=np.int64)
        starts = range(0, len(own), _ROWS)
        blocks = [
            self._block(texts.texts[start : start + _ROWS], own[start : start + _ROWS])
            for start in starts
        ]
        shares = np.concatenate(blocks, axis=1) if blocks else np.empty((len(self.infos), 0))
        return {info.name: row for info, row in zip(self.infos, shares, strict=True)}

    def _block(self, texts: Sequence[str], own: NDArray[np.int64]) -> Floats:
        """(3, B) shares among all others, the same without titles, and among those of the item."""
        whole = self._tf_idf.similarities(texts, self._references)
        untitled = self._tf_idf.similarities(
            [
                without_words(text, self._title_words[place])
                for text, place in zip(texts, own, strict=True)
            ],
            self._untitled,
        )
        rows = np.arange(len(own))
        others = np.ones(whole.shape, dtype=np.bool_)
        others[rows, own] = False
        of_item = others & (self._items[own][:, None] == self._items)
        return np.stack(
            [
                share_below(similarities[rows, own], similarities, among)
                for similarities, among in ((whole, others), (untitled, others), (whole, of_item))
            ]
        )


def share_below(
    own: NDArray[np.float64], similarities: NDArray[np.float64], others: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(B,) share of each row's `others` (B, M) whose similarity (B, M) is below its `own` (B,).

    A tie counts half. NaN for a row without others.
    """
    nearer = (similarities < own[:, None]) + 0.5 * (similarities == own[:, None])
    num_others = others.sum(axis=1)
    shares: NDArray[np.float64] = np.where(others, nearer, 0).sum(axis=1)
    return np.where(num_others > 0, shares / np.maximum(num_others, 1), np.nan)


class TfIdf:
    """The weights of words, by N texts that are known. Other words count for nothing.

    The weight of word w in a text is its count there times ln((1 + N) / (1 + df(w))) + 1, where
    df(w) of the N texts hold w; each text's weights have length 1. These are the defaults of
    scikit-learn, with the words of Unicode (UAX 29) in any case.
    """

    def __init__(self, texts: Sequence[str]):
        found = Counter(word for text in texts for word in set(text_words(text)))
        self._columns = {word: column for column, word in enumerate(sorted(found))}
        frequencies = np.array([found[word] for word in self._columns], dtype=np.float64)
        self._weights = np.log((1 + len(texts)) / (1 + frequencies)) + 1

    def similarities(self, texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
        """The cosine of each text with each of `others`, (N, M), 0 to 1."""
        found: NDArray[np.float64] = (self._vectors(texts) @ self._vectors(others).T).toarray()
        return found

    def _vectors(self, texts: Sequence[str]) -> Sparse:
        """(N, V) sparse, rows of length 1; all zeros for a text without a known word."""
        import scipy.sparse  # slow to import, and a status needs it not

        counts = [
            (row, self._columns[word], count)
            for row, text in enumerate(texts)
            for word, count in Counter(text_words(text)).items()
            if word in self._columns
        ]
        rows, columns, values = np.array(counts, dtype=np.int64).reshape(-1, 3).T
        weights = values * self._weights[columns]
        lengths = np.sqrt(np.bincount(rows, weights=weights**2, minlength=len(texts)))
        shape = (len(texts), len(self._columns))
        return scipy.sparse.csr_matrix((weights / lengths[rows], (rows, columns)), shape=shape)


def text_words(text: str) -> list[str]:
    """The words of `text` in their order, without case."""
    return words(text.casefold())


def without_words(text: str, left_out: Collection[str]) -> str:
    """The words of `text` but for some, as `text_words` gives them."""
    return " ".join(word for word in text_words(text) if word not in left_out)
