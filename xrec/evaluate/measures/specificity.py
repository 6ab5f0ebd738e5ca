"""Is a text nearer to its own reference than to those of others?

Likeness is the cosine of TF-IDF, weighed by the references. `specificity` compares with all other
pairs: a text that would do for any pair has 0.5. `specificity_in_item` compares with other users of
the same item: what is true of the item, whoever reads it, brings nothing there.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xrec.data.held_out import HeldOutPair
from xrec.evaluate.contestant_texts import ContestantTexts
from xrec.evaluate.measure import SHARE, Floats, MetricInfo
from xrec.evaluate.text_metrics import share_below
from xrec.evaluate.tf_idf import TfIdf

_ROWS = 256  # compared with all references at a time


class Specificity:
    """Compares with the references of `pairs`, which hold all pairs that will be scored.

    Raises ValueError for fewer than two pairs, or references without a word.
    """

    infos = (
        MetricInfo(
            "specificity",
            "Specificity",
            "higher",
            "Share of other pairs' references that the text is less like than its own (cosine of "
            "TF-IDF, ties half). 0.5: it would do for any pair.",
            bounds=SHARE,
        ),
        MetricInfo(
            "specificity_in_item",
            "Specificity within the item",
            "higher",
            "The same with the references of other users of the same item. Above 0.5, the text is "
            "personal and not only true of the item.",
            bounds=SHARE,
        ),
    )

    def __init__(self, pairs: Sequence[HeldOutPair]) -> None:
        if len(pairs) < 2:
            raise ValueError(f"{len(pairs)} pairs; specificity compares two or more")
        self._references = [pair.reference for pair in pairs]
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
        everywhere, in_item = np.concatenate(blocks, axis=1) if blocks else np.empty((2, 0))
        return {"specificity": everywhere, "specificity_in_item": in_item}

    def _block(self, texts: Sequence[str], own: NDArray[np.int64]) -> Floats:
        """(2, B) shares among all others, and among those of the same item."""
        similarities = self._tf_idf.similarities(texts, self._references)
        others = np.ones(similarities.shape, dtype=np.bool_)
        others[np.arange(len(own)), own] = False
        of_item = others & (self._items[own][:, None] == self._items)
        level = similarities[np.arange(len(own)), own]
        return np.stack([share_below(level, similarities, among) for among in (others, of_item)])


def _ids(pair: HeldOutPair) -> tuple[str, str]:
    return pair.user_id, pair.item_id
