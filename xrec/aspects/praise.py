"""What the reviews of an item praise; what they blame or only speak of is no reason to enjoy it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from xrec.aspects.mentions import (
    Indices,
    Mentions,
    Sparse,
    add_up,
    review_mentions,
    rows_or_zero,
)
from xrec.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Praise:
    """What P reviews say of each aspect: `verdicts` (P, A) sparse float32, 1 praise and -1 blame.

    items: (P,) int64, the reviews' items, of which there are I. others: (I, A) sparse float32, how
    many more low-rated reviews, which are none of these, praise than blame. An item is praised for
    an aspect if more of all these reviews praise than blame it.
    """

    items: Indices
    verdicts: Sparse
    others: Sparse

    @cached_property
    def _margins(self) -> Sparse:
        return (add_up(self.items, self.others.shape[0]) @ self.verdicts + self.others).tocsr()

    @cached_property
    def of_items(self) -> Sparse:
        """1 where an item is praised for an aspect, (I, A) sparse float32."""
        return (self._margins > 0).astype(np.float32).tocsr()

    def without(self, items: Indices, reviews: Indices) -> NDArray[np.bool_]:
        """Return whether items (N,) are praised for each aspect, (N, A), without a review each.

        reviews: (N,), the review that does not count; -1 for none.
        """
        margins = self._margins[items].toarray() - rows_or_zero(self.verdicts, reviews)
        return np.asarray(margins > 0, dtype=np.bool_)


def dataset_praise(dataset: Dataset) -> Praise | None:
    """Return the praise of the training reviews, in the order of the training mentions.

    What low-rated reviews praise and blame is beside it. None if the dataset has no aspects of
    reviews: whatever a profile names speaks for its item.
    """
    if dataset.aspects_from != "reviews":
        return None
    praise, blame = (
        review_mentions(dataset, "train", [sentiment]) for sentiment in ("positive", "negative")
    )
    verdicts = (praise.aspects - blame.aspects).tocsr()
    return Praise(praise.items, verdicts, _low_rated(dataset, praise))


def _low_rated(dataset: Dataset, mentions: Mentions) -> Sparse:
    shape = (mentions.num_items, mentions.num_aspects)
    table = dataset.low_rated_aspects
    if table is None:
        return scipy.sparse.csr_matrix(shape, dtype=np.float32)
    items, aspects, num_positive, num_negative = (
        table[name].to_numpy()
        for name in ("item_index", "aspect_index", "num_positive", "num_negative")
    )
    margins = (num_positive - num_negative).astype(np.float32)
    return scipy.sparse.csr_matrix((margins, (items, aspects)), shape)
