"""Is a text nearer to its own reference than to those of others?

Likeness is the cosine of TF-IDF, weighed by the references. `specificity` compares with all other
pairs: a text that would do for any pair has 0.5. `specificity_untitled` does so without the words
of titles: what an item is called is told to some contestants, and no reason. `specificity_in_item`
compares with other users of the same item: what is true of the item, whoever reads it, brings
nothing there.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xrec.data.dataset import HeldOutPair
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo
from xrec.lab.measures.tf_idf import TfIdf, text_words, without_words

_ROWS = 256  # compared with all references at a time


class Specificity:
    """Compares with the references of `pairs`, which hold all pairs that will be scored.

    titles: of the items of `pairs`, in their order, empty where an item has none.
    Raises ValueError for fewer than two pairs, or references without a word.
    """

    infos = (
        MetricInfo(
            "specificity",
            "Specificity",
            "higher",
            "Share of other pairs' references that the text is less like than its own (cosine of "
            "TF-IDF, ties half). 0.5: it would do for any pair.",
        ),
        MetricInfo(
            "specificity_untitled",
            "Specificity without titles",
            "higher",
            "The same with the words of the item's title left out of the text, and those of its "
            "own item's title out of each reference.",
        ),
        MetricInfo(
            "specificity_in_item",
            "Specificity within the item",
            "higher",
            "The same with the references of other users of the same item. Above 0.5, the text is "
            "personal and not only true of the item.",
        ),
    )

    def __init__(self, pairs: Sequence[HeldOutPair], titles: Sequence[str]) -> None:
        if len(pairs) < 2:
            raise ValueError(f"{len(pairs)} pairs; specificity compares two or more")
        self._references = [pair.reference for pair in pairs]
        self._title_words = [frozenset(text_words(title)) for title in titles]
        self._untitled = list(map(without_words, self._references, self._title_words))
        self._tf_idf = TfIdf(self._references)
        self._places = {_ids(pair): place for place, pair in enumerate(pairs)}
        self._items = np.array([pair.item_index for pair in pairs])

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """See PairMeasure; `specificity_in_item` is NaN where the item has no other pair.

        Raises ValueError for a pair that is not among those of the constructor.
        """
        if unknown := [ids for pair in texts.pairs if (ids := _ids(pair)) not in self._places]:
            raise ValueError(f"pair {unknown[0]} is not among the {len(self._places)} known ones")
        own = np.array([self._places[_ids(pair)] for pair in texts.pairs], dtype=np.int64)
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


def share_nearer(
    similarities: NDArray[np.float64], others: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(N,) share of each row's `others` whose similarity is below that on the diagonal.

    similarities: (N, N), of text n with reference m. others: (N, N), True where reference m is
    compared with; not on the diagonal. A tie counts half. NaN for a row without others.
    """
    return share_below(np.diagonal(similarities), similarities, others)


def share_below(
    own: NDArray[np.float64], similarities: NDArray[np.float64], others: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(B,) share of each row's `others` (B, M) whose similarity (B, M) is below its `own` (B,).

    A tie counts half. NaN for a row without others.
    """
    nearer = (similarities < own[:, None]) + 0.5 * (similarities == own[:, None])
    num_others = others.sum(axis=1)
    shares: NDArray[np.float64] = np.where(others, nearer, 0).sum(axis=1)
    mean = np.full(len(own), np.nan)
    np.divide(shares, num_others, out=mean, where=num_others > 0)
    return mean


def _ids(pair: HeldOutPair) -> tuple[str, str]:
    return pair.user_id, pair.item_id
