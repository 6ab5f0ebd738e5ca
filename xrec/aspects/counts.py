"""Count the training reviews of an item, and by a user, that mention each aspect.

Only praise and neutral mentions count, because blame is no reason to name an aspect. The counts
come from the dataset (`item_aspects`, `user_aspects`) and are kept as sorted arrays that all
processes of a node share. Each pair's own mentions are kept too, so that its review can be left
out exactly.

If aspects come from profiles, an item's profile is its only review, and a user's counts are over
the profiles of the items that the user interacted with.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xrec.data import SECOND_BITS, Dataset, check_aspects, index_keys
from xrec.errors import DataError
from xrec.storage import Arrays, mapped_arrays

Indices = NDArray[np.int64]
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

_RULES = 3  # version of the counting rules, part of the name of the mapped files
_SECOND = 2**SECOND_BITS - 1  # mask of a key's second part


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counts of n aspects, each for a user and an item; all are (n,) int32.

    item_reviews, user_reviews: reviews of the item, and by the user, that mention the aspect.
    item_margins, user_margins: those that praise it minus those that blame it, low-rated ones
        included.
    """

    item_reviews: Ints
    user_reviews: Ints
    item_margins: Ints
    user_margins: Ints


class ReviewCounts:
    """The counts of a dataset with U users, I items and A aspects.

    num_item_reviews: (I,), num_user_reviews: (U,) int32, the number of training reviews.
    frequency: (A,) float32, the share of all training reviews that mention each aspect, smoothed
        with half a review so that it is above 0.

    Raises DataError if the dataset has no aspects or has an invalid aspect index.
    """

    def __init__(self, dataset: Dataset) -> None:
        if dataset.aspects is None:
            raise DataError(
                "the dataset has no aspects; expected one that was prepared from annotations "
                "(`xrec annotate`) or a table of aspects, or with prepare.aspects_from: profiles",
                code="no_aspects",
                key="aspects_from",
            )
        if dataset.on_disk is None:
            arrays = _count_arrays(dataset)
        else:
            name = f"{dataset.manifest.fingerprint}.counts-{_RULES}"
            arrays = mapped_arrays(name, lambda: _count_arrays(dataset))
        self._arrays = arrays
        self._are_profiles = dataset.aspects_from == "profiles"
        self.num_item_reviews: Ints = arrays["num_item_reviews"]
        self.num_user_reviews: Ints = arrays["num_user_reviews"]
        self.frequency: Floats = arrays["frequency"]

    def training_rows(self, users: Indices, items: Indices) -> Indices:
        """Return each pair's index among the training pairs, (N,); -1 for other pairs."""
        return _find(self._arrays["pairs"], index_keys(users, items))

    def mentioned(self, items: Indices) -> tuple[Indices, Indices]:
        """Return every aspect that reviews of items (N,) mention, most frequent first per item.

        rows (n,): the index of the item in `items`, ascending; aspects (n,).
        """
        starts = self._arrays["item_starts"][items]
        lengths = self._arrays["item_starts"][items + 1] - starts
        rows = np.repeat(np.arange(len(items)), lengths)
        indices = np.arange(len(rows)) + (starts - np.cumsum(lengths) + lengths)[rows]
        return rows, self._arrays["item_keys"][indices] & _SECOND

    def of_pairs(
        self, users: Indices, items: Indices, aspects: Indices, own: Indices
    ) -> PairCounts:
        """Return the counts of aspects (n,) for users (n,) and items (n,); 0 for an index of -1.

        own: (n,), the training pairs whose review is left out (`training_rows`); -1 for none.
        """
        arrays = self._arrays
        item_keys, user_keys = index_keys(items, aspects), index_keys(users, aspects)
        item_reviews = _values_at(arrays["item_keys"], arrays["item_reviews"], item_keys)
        user_reviews = _values_at(arrays["user_keys"], arrays["user_reviews"], user_keys)
        item_margins = _values_at(arrays["item_keys"], arrays["item_margins"], item_keys)
        user_margins = _values_at(arrays["verdict_keys"], arrays["user_margins"], user_keys)
        if self._are_profiles:  # the item has its profile even without the interaction
            user_reviews = user_reviews - (own >= 0) * item_reviews
            return PairCounts(item_reviews, user_reviews, item_margins, user_margins)
        own_keys = index_keys(own, aspects)
        mentions = _values_at(arrays["own_keys"], arrays["own_mentions"], own_keys)
        verdicts = _values_at(arrays["own_keys"], arrays["own_verdicts"], own_keys)
        return PairCounts(
            item_reviews - mentions,
            user_reviews - mentions,
            item_margins - verdicts,
            user_margins - verdicts,
        )

    def totals(self, users: Indices, items: Indices, own: Indices) -> tuple[Ints, Ints]:
        """Return the number of reviews of items and by users, (N,) each, without those in `own`."""
        is_own = (own >= 0).astype(np.int32)
        by_user = np.where(users >= 0, self.num_user_reviews[users], 0).astype(np.int32)
        of_item = self.num_item_reviews[items]
        return of_item if self._are_profiles else of_item - is_own, by_user - is_own


def _find(keys: Indices, wanted: Indices) -> Indices:
    """Return the indices of `wanted` in the sorted `keys`, -1 for missing ones."""
    if not len(keys):
        return np.full(wanted.shape, -1)
    indices = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[indices] == wanted, indices, -1)


def _values_at(keys: Indices, values: Ints, wanted: Indices) -> Ints:
    """Return the values at the `wanted` keys, 0 for missing ones."""
    if not len(keys):
        return np.zeros(wanted.shape, np.int32)
    indices = _find(keys, wanted)
    return np.where(indices >= 0, values[indices], 0)


def _count_arrays(dataset: Dataset) -> Arrays:
    """Return all counts; a key combines an item, a user or a training pair with an aspect."""
    users, items = dataset.interaction_edges("train")
    item_index, item_keys, item_reviews, item_margins = _counted(
        dataset, "item_aspects", "item_index"
    )
    _, user_keys, user_reviews, user_margins = _counted(dataset, "user_aspects", "user_index")
    verdict_keys = user_keys
    if dataset.low_rated_aspects is not None:
        _, keys, _, low_rated = _counted(dataset, "low_rated_aspects", "item_index")
        item_margins = item_margins + _values_at(keys, low_rated, item_keys)
    if dataset.low_rated_user_aspects is not None:
        _, keys, _, low_rated = _counted(dataset, "low_rated_user_aspects", "user_index")
        verdict_keys = np.union1d(user_keys, keys)
        user_margins = _values_at(user_keys, user_margins, verdict_keys)
        user_margins += _values_at(keys, low_rated, verdict_keys)
    num_item_reviews = np.bincount(items, minlength=dataset.num_items).astype(np.int32)
    if dataset.aspects_from == "profiles":
        num_item_reviews = np.ones_like(num_item_reviews)
    assert dataset.aspects is not None
    total = np.bincount(user_keys & _SECOND, user_reviews, minlength=dataset.aspects.num_rows)
    return {
        "item_keys": item_keys,
        "item_starts": np.searchsorted(item_index, np.arange(dataset.num_items + 1)),
        "item_reviews": item_reviews,
        "item_margins": item_margins,
        "verdict_keys": verdict_keys,
        "user_margins": user_margins,
        "user_keys": user_keys,
        "user_reviews": user_reviews,
        "num_item_reviews": num_item_reviews,
        "num_user_reviews": np.bincount(users, minlength=dataset.num_users).astype(np.int32),
        "frequency": ((total + 0.5) / (len(users) + 1)).astype(np.float32),
        "pairs": index_keys(users, items),
        **_own_arrays(dataset, index_keys(users, items)),
    }


def _counted(dataset: Dataset, table: str, index: str) -> tuple[Indices, Indices, Ints, Ints]:
    """Return a table's rows, sorted by key: index, key, mentions without blame, and margin."""
    rows, aspects = _indices(dataset, table, index)
    columns: pa.Table = getattr(dataset, table)
    reviews, praise, blame = (
        columns[f"num_{name}"].to_numpy() for name in ("reviews", "positive", "negative")
    )
    return rows, index_keys(rows, aspects), reviews - blame, praise - blame


def _own_arrays(dataset: Dataset, pairs: Indices) -> Arrays:
    """Return which aspects each training review mentions (1), and praises (1) or blames (-1)."""
    users, aspects = _indices(dataset, "explanation_aspects", "user_index")
    items, _ = _indices(dataset, "explanation_aspects", "item_index")
    assert dataset.explanation_aspects is not None
    split, sentiment = (dataset.explanation_aspects[name] for name in ("split", "sentiment"))
    praise, blame = (pc.equal(sentiment, kind).to_numpy() for kind in ("positive", "negative"))
    rows = _find(pairs, index_keys(users, items))
    keys = index_keys(rows, aspects)
    order = np.flatnonzero(pc.equal(split, "train").to_numpy() & (rows >= 0))
    order = order[np.argsort(keys[order])]
    return {
        "own_keys": keys[order],
        "own_mentions": (~blame)[order].astype(np.int32),
        "own_verdicts": praise[order].astype(np.int32) - blame[order],
    }


def _indices(dataset: Dataset, table: str, index: str) -> tuple[Indices, Indices]:
    """Return the column `index` and the aspects of a table; raise DataError if one is invalid."""
    assert dataset.aspects is not None
    columns: pa.Table = getattr(dataset, table)
    rows, aspects = (columns[name].to_numpy().astype(np.int64) for name in (index, "aspect_index"))
    check_aspects(aspects, dataset.aspects.num_rows, table)
    return rows, aspects
