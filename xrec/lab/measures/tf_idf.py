"""TF-IDF: words weigh more the fewer texts have them, so that texts are alike by what is special.

The weight of word w in a text is its count there times ln((1 + N) / (1 + df(w))) + 1, where df(w)
of the N texts known before hold w; each text's weights have length 1. These are the defaults of
scikit-learn, with the words of Unicode (UAX 29) in any case.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from xrec.data.sentences import words

Sparse = Any  # scipy.sparse.csr_matrix, which has no types


class TfIdf:
    """The weights of words, by the texts that are known. Other words count for nothing.

    Raises ValueError if no text has a word.
    """

    def __init__(self, texts: Sequence[str]):
        found = Counter(word for text in texts for word in set(text_words(text)))
        if not found:
            raise ValueError(f"{len(texts)} texts without a word; expected one with words or more")
        self._columns = {word: column for column, word in enumerate(sorted(found))}
        frequencies = np.array([found[word] for word in self._columns], dtype=np.float64)
        self._weights = np.log((1 + len(texts)) / (1 + frequencies)) + 1

    def similarities(self, texts: Sequence[str], others: Sequence[str]) -> NDArray[np.float64]:
        """The cosine of each text with each of `others`, (N, M), 0 to 1."""
        found: NDArray[np.float64] = (self._vectors(texts) @ self._vectors(others).T).toarray()
        return found

    def _vectors(self, texts: Sequence[str]) -> Sparse:
        """(N, V) sparse, rows of length 1; all zeros for a text without a known word."""
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
