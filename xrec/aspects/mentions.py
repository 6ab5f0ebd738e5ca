"""What training reviews mention, praise and blame: pairs of users and items, with aspects.

Without reviews it is what the items' profiles name: a user who interacted with an item counts for
each aspect of its profile. All counts come from here, so that a pair's own review, or interaction,
can be left out of them exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow.compute as pc
import scipy.sparse
from numpy.typing import NDArray

from xrec.config import Split
from xrec.data.dataset import Dataset, edges_of
from xrec.errors import DataError
from xrec.graph.aspects import check_aspects
from xrec.storage import Arrays

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]
Sparse = Any  # scipy.sparse.csr_matrix, which has no types

_COUNTED = ("positive", "neutral")  # mentions; blame is no reason to name an aspect


@dataclass(frozen=True, eq=False)
class Mentions:
    """P pairs that interacted: users (P,), items (P,) int64, each pair once.

    `aspects` (P, A) sparse float32 is 1 where the pair's review mentions the aspect.
    """

    users: Indices
    items: Indices
    aspects: Sparse
    num_users: int
    num_items: int

    @property
    def num_aspects(self) -> int:
        """A."""
        return int(self.aspects.shape[1])

    @cached_property
    def of_items(self) -> Sparse:
        """In how many reviews of each item each aspect is, (I, A) sparse float32."""
        return add_up(self.items, self.num_items) @ self.aspects

    @cached_property
    def of_users(self) -> Sparse:
        """In how many reviews of each user each aspect is, (U, A) sparse float32."""
        return add_up(self.users, self.num_users) @ self.aspects

    @cached_property
    def reviews_of_items(self) -> Floats:
        """Of how many reviews of each item the counts `of_items` are, (I,)."""
        return np.bincount(self.items, minlength=self.num_items).astype(np.float32)

    @cached_property
    def reviews_of_users(self) -> Floats:
        """The number of pairs of each user, (U,)."""
        return np.bincount(self.users, minlength=self.num_users).astype(np.float32)

    @cached_property
    def frequency(self) -> Floats:
        """The share of all reviews that mention each aspect, (A,), above 0: half a review more."""
        total = np.asarray(self.aspects.sum(axis=0), dtype=np.float32).ravel()
        return (total + np.float32(0.5)) / np.float32(len(self.users) + 1)

    def row_of(self, users: Indices, items: Indices) -> Indices:
        """Return the row of each pair, (N,) int64, -1 for one that is not there."""
        order, keys = self.sorted_keys
        wanted = users * self.num_items + items
        if not len(keys):
            return np.full(len(wanted), -1)
        places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[places] == wanted, order[places], -1)

    def counted_rows(self, users: Indices, items: Indices) -> Indices:
        """Return the row of each pair that `of_items` counts, (N,) int64, else -1."""
        return self.row_of(users, items)

    @cached_property
    def sorted_keys(self) -> tuple[Indices, Indices]:
        """The rows by user and item, and one number for each of these pairs."""
        keys = self.users * self.num_items + self.items
        order = np.argsort(keys, kind="stable")
        return order, keys[order]


@dataclass(frozen=True, eq=False)
class ProfileMentions(Mentions):
    """P pairs that interacted, each with the aspects of its item's profile.

    `profiles` (I, A) sparse float32 is 1 where the profile has the aspect. A profile counts as one
    review of its item, and none of the pairs wrote it.
    """

    profiles: Sparse

    @classmethod
    def of(cls, users: Indices, items: Indices, profiles: Sparse, num_users: int) -> Self:
        """Return the pairs users (P,), items (P,), of which each is there once."""
        return cls(users, items, profiles[items], num_users, profiles.shape[0], profiles)

    @cached_property
    def of_items(self) -> Sparse:
        """The profiles."""
        return self.profiles

    @cached_property
    def reviews_of_items(self) -> Floats:
        """1 for each item: its profile."""
        return np.ones(self.num_items, dtype=np.float32)

    def counted_rows(self, users: Indices, items: Indices) -> Indices:
        """Return -1 for each pair: a profile is there without it."""
        return np.full(len(users), -1, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Praise:
    """What P reviews say of each aspect: `verdicts` (P, A) sparse float32, 1 praise and -1 blame.

    margins: (I, A) sparse float32, how many more reviews of each item praise than blame it,
    low-rated ones too, which are none of the P. An item is praised for an aspect if more do. What
    they only speak of is no reason to enjoy it.
    """

    verdicts: Sparse
    margins: Sparse

    @classmethod
    def of(cls, items: Indices, verdicts: Sparse, others: Sparse) -> Self:
        """Return the praise of reviews of `items` (P,), and of `others` (I, A), their margins."""
        return cls(verdicts, (add_up(items, others.shape[0]) @ verdicts + others).tocsr())

    def without(self, items: Indices, reviews: Indices) -> NDArray[np.bool_]:
        """Return whether items (N,) are praised for each aspect, (N, A), without a review each.

        reviews: (N,), the review that does not count; -1 for none.
        """
        margins = self.margins[items].toarray() - rows_or_zero(self.verdicts, reviews)
        return np.asarray(margins > 0, dtype=np.bool_)


def dataset_mentions(dataset: Dataset, split: Split) -> Mentions:
    """Return the split's interactions with the aspects that they mention without blame.

    If the aspects are those of profiles, a training pair has those of its item's profile, and held
    out are the explained pairs, with what their explanations name. Raises DataError if the dataset
    has no aspects.
    """
    if dataset.aspects is None:
        raise DataError(
            "the dataset has no aspects of pairs; expected one that was prepared from annotations "
            "(`xrec annotate`), or with prepare.aspects_from: {kind: profiles}",
            code="no_aspects",
            key="aspects_from",
        )
    if dataset.aspects_from == "reviews":
        return _mentions(dataset, split, dataset.interaction_edges(split), _COUNTED)
    if split == "train":
        users, items = dataset.interaction_edges("train")
        return ProfileMentions.of(users, items, _profiles(dataset), dataset.num_users)
    return _mentions(dataset, split, edges_of(dataset.explained_pairs(split)), _COUNTED)


def dataset_praise(dataset: Dataset) -> Praise | None:
    """Return the praise of the training reviews, in the order of the training mentions.

    What low-rated reviews praise and blame is beside it. None if the dataset has no aspects of
    reviews: whatever a profile names speaks for its item.
    """
    if dataset.aspects_from != "reviews":
        return None
    edges = dataset.interaction_edges("train")
    praise, blame = (
        _mentions(dataset, "train", edges, [sentiment]) for sentiment in ("positive", "negative")
    )
    verdicts = (praise.aspects - blame.aspects).tocsr()
    others = scipy.sparse.csr_matrix((praise.num_items, praise.num_aspects), dtype=np.float32)
    if (table := dataset.low_rated_aspects) is not None:
        margins = pc.subtract(table["num_positive"], table["num_negative"]).to_numpy()
        places = table["item_index"].to_numpy(), table["aspect_index"].to_numpy()
        others = scipy.sparse.csr_matrix((margins.astype(np.float32), places), others.shape)
    return Praise.of(praise.items, verdicts, others)


def _mentions(
    dataset: Dataset, split: Split, edges: NDArray[np.int64], sentiments: Sequence[str]
) -> Mentions:
    """Return the pairs `edges` (2, P) with the aspects that the split's reviews mention so."""
    assert dataset.aspects is not None
    assert dataset.explanation_aspects is not None
    is_of_split = (pc.field("split") == split) & pc.field("sentiment").isin(list(sentiments))
    rows = dataset.explanation_aspects.filter(is_of_split)
    users, items = edges
    shape = (len(users), dataset.aspects.num_rows)
    none = scipy.sparse.csr_matrix(shape, dtype=np.float32)
    pairs = Mentions(users, items, none, dataset.num_users, dataset.num_items)
    aspects = rows["aspect_index"].to_numpy().astype(np.int64)
    check_aspects(aspects, pairs.num_aspects, "explanation_aspects")
    places = pairs.row_of(*edges_of(rows))
    there = places >= 0
    return replace(pairs, aspects=ones_at(places[there], aspects[there], shape))


def _profiles(dataset: Dataset) -> Sparse:
    """Return which aspects each item's profile has, (I, A)."""
    table = dataset.item_aspects
    assert table is not None
    assert dataset.aspects is not None
    items, aspects = (
        table[name].to_numpy().astype(np.int64) for name in ("item_index", "aspect_index")
    )
    check_aspects(aspects, dataset.aspects.num_rows, "item_aspects")
    return ones_at(items, aspects, (dataset.num_items, dataset.aspects.num_rows))


_NUMBERS = ("reviews_of_items", "reviews_of_users", "frequency")
_COUNTS = ("aspects", "of_items", "of_users")
_OPINIONS = ("verdicts", "margins")
_PARTS = ("data", "indices", "indptr")


def count_arrays(mentions: Mentions, praise: Praise | None) -> Arrays:
    """Return all that is counted, by name: what `mapped_counts` makes mentions and praise of."""
    order, keys = mentions.sorted_keys
    arrays: Arrays = {name: getattr(mentions, name) for name in ("users", "items", *_NUMBERS)}
    arrays |= {"order": order, "keys": keys}
    counted: list[tuple[object, str]] = [(mentions, name) for name in _COUNTS]
    counted += [] if praise is None else [(praise, name) for name in _OPINIONS]
    for owner, name in counted:
        arrays |= {f"{name}-{part}": getattr(getattr(owner, name), part) for part in _PARTS}
    return arrays


def mapped_counts(arrays: Arrays, dataset: Dataset) -> tuple[Mentions, Praise | None]:
    """Return the training mentions and the praise of `dataset`; nothing is copied."""
    num_aspects = len(arrays["frequency"])
    known: dict[str, Any] = {
        name: sparse_of(arrays, num_aspects, f"{name}-")
        for name in (*_COUNTS, *_OPINIONS)
        if f"{name}-data" in arrays
    }
    pairs = arrays["users"], arrays["items"], known["aspects"]
    mentions = Mentions(*pairs, dataset.num_users, dataset.num_items)
    if dataset.aspects_from == "profiles":
        mentions = ProfileMentions(**vars(mentions), profiles=known["of_items"])
    known |= {name: arrays[name] for name in _NUMBERS}
    known["sorted_keys"] = arrays["order"], arrays["keys"]
    vars(mentions).update(known)  # here cached properties are looked up
    return mentions, Praise(known["verdicts"], known["margins"]) if "margins" in known else None


def sparse_of(arrays: Arrays, num_columns: int, prefix: str = "") -> Sparse:
    """Return the sparse matrix of three arrays; scipy's constructor would read all of them."""
    data, indices, indptr = (arrays[f"{prefix}{part}"] for part in _PARTS)
    matrix = scipy.sparse.csr_matrix((len(indptr) - 1, num_columns), dtype=data.dtype)
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    return matrix


def ones_at(rows: Indices, columns: Indices, shape: tuple[int, int]) -> Sparse:
    """Return a sparse matrix with 1 at these places, which may repeat."""
    ones = np.ones(len(rows), dtype=np.float32)
    matrix = scipy.sparse.csr_matrix((ones, (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def add_up(rows: Indices, num_rows: int) -> Sparse:
    """Return the sparse matrix (num_rows, P) that adds up what belongs to each of `rows` (P,)."""
    ones = np.ones(len(rows), dtype=np.float32)
    return scipy.sparse.csr_matrix((ones, (rows, np.arange(len(rows)))), (num_rows, len(rows)))


def rows_or_zero(matrix: Sparse, rows: Indices) -> Floats:
    """Return the rows (N,) of a sparse matrix, (N, A); zeros for row -1."""
    found = np.zeros((len(rows), matrix.shape[1]), dtype=np.float32)
    found[rows >= 0] = matrix[rows[rows >= 0]].toarray()
    return found
