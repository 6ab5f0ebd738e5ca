"""What the reviews of an item praise; what they blame or only speak of is no reason to enjoy it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xrec.aspects.mentions import Indices, Sparse, add_up, review_mentions, rows_or_zero
from xrec.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Praise:
    """What P reviews say of each aspect: `verdicts` (P, A) sparse float32, 1 praise and -1 blame.

    items: (P,) int64, the reviews' items, of which there are `num_items`. An item is praised for an
    aspect if more of its reviews praise than blame it.
    """

    items: Indices
    num_items: int
    verdicts: Sparse

    @cached_property
    def _margins(self) -> Sparse:
        return (add_up(self.items, self.num_items) @ self.verdicts).tocsr()

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

    None if the dataset has no aspects of reviews: whatever a profile names speaks for its item.
    """
    if dataset.aspects_from != "reviews":
        return None
    praise, blame = (
        review_mentions(dataset, "train", [sentiment]) for sentiment in ("positive", "negative")
    )
    return Praise(praise.items, praise.num_items, (praise.aspects - blame.aspects).tocsr())
