"""Is a text nearer to its own reference than to those of others?

Nearness is the cosine of TF-IDF, in which rare words of references weigh more. `specificity`
compares with all other pairs: a text that fits any pair has 0.5. `specificity_untitled` leaves out
the words of titles, because an item's title is known to some entries and is not a reason.
`specificity_in_item` compares with other users of the same item, so what is true of the item for
everyone gains nothing.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrec.data import HeldOutPair
from xrec.data.language import words
from xrec.evaluate.measure import Floats, Metric

_ROWS = 256  # compared with all references at a time
Sparse = Any  # scipy.sparse.csr_matrix, which has no types

SPECIFICITY_METRICS = (
    Metric("specificity", "Specificity"),
    Metric("specificity_untitled", "Specificity without titles"),
    Metric("specificity_in_item", "Specificity within the item"),
)


class Specificity:
    """Compares the text of each of N >= 2 pairs with the references of all.

    titles: of the items of `pairs`, empty if an item has none.
    """

    def __init__(self, pairs: Sequence[HeldOutPair], titles: Sequence[str]) -> None:
        self._references = [pair.reference for pair in pairs]
        self._title_words = [frozenset(text_words(title)) for title in titles]
        self._untitled = list(map(without_words, self._references, self._title_words))
        self._tf_idf = TfIdf(self._references)
        self._items = np.array([pair.item_index for pair in pairs])

    def columns(self, texts: Sequence[str]) -> list[Floats]:
        """Return a column (N,) per metric; the last is NaN where the item has no other pair."""
        untitled = list(map(without_words, texts, self._title_words))
        starts = range(0, len(texts), _ROWS)
        blocks = [
            self._block(start, texts[start : start + _ROWS], untitled[start : start + _ROWS])
            for start in starts
        ]
        return list(np.concatenate(blocks, axis=1))

    def _block(self, start: int, texts: Sequence[str], untitled: Sequence[str]) -> Floats:
        """Return the shares (3, B) of B texts from `start`: all, without titles, of the item."""
        whole = self._tf_idf.similarities(texts, self._references)
        without = self._tf_idf.similarities(untitled, self._untitled)
        rows = np.arange(len(texts))
        own = start + rows
        others = np.ones(whole.shape, dtype=np.bool_)
        others[rows, own] = False
        of_item = others & (self._items[own][:, None] == self._items)
        return np.stack(
            [
                share_below(similarities[rows, own], similarities, among)
                for similarities, among in ((whole, others), (without, others), (whole, of_item))
            ]
        )


def share_below(
    own: NDArray[np.float64], similarities: NDArray[np.float64], others: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the share (B,) of each row's `others` (B, M) with a similarity (B, M) below its `own`.

    A tie counts as half. NaN for a row without others.
    """
    nearer = (similarities < own[:, None]) + 0.5 * (similarities == own[:, None])
    num_others = others.sum(axis=1)
    shares: NDArray[np.float64] = np.where(others, nearer, 0).sum(axis=1)
    return np.where(num_others > 0, shares / np.maximum(num_others, 1), np.nan)


class TfIdf:
    """The weights of the words of N known texts; other words have no weight.

    The weight of word w in a text is its count there times ln((1 + N) / (1 + df(w))) + 1, where
    df(w) of the N texts contain w. Each text's weights have length 1. These are the defaults of
    scikit-learn, with the words of Unicode (UAX 29) in any case.
    """

    def __init__(self, texts: Sequence[str]):
        found = Counter(word for text in texts for word in set(text_words(text)))
        self._columns = {word: column for column, word in enumerate(sorted(found))}
        frequencies = np.array([found[word] for word in self._columns], dtype=np.float64)
        self._weights = np.log((1 + len(texts)) / (1 + frequencies)) + 1

    def similarities(self, texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosine of each text with each of `others`, (N, M), 0 to 1."""
        found: NDArray[np.float64] = (self._vectors(texts) @ self._vectors(others).T).toarray()
        return found

    def _vectors(self, texts: Sequence[str]) -> Sparse:
        """Return rows of length 1, (N, V); all zeros for a text without a known word."""
        import scipy.sparse  # slow to import, and `xrec status` does not need it

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
    """Return the words of `text` in order, case-folded."""
    return words(text.casefold())


def without_words(text: str, left_out: Collection[str]) -> str:
    """Return the words of `text` except those left out, as `text_words` returns them."""
    return " ".join(word for word in text_words(text) if word not in left_out)
