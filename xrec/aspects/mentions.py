"""What training reviews mention: pairs of users and items, each with its aspects.

Without reviews it is what the items' profiles name: a user who interacted with an item counts for
each aspect of its profile. All counts come from here, so that a pair's own review, or interaction,
can be left out of them exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse
from numpy.typing import NDArray

from xrec.config.aspects import Sentiment
from xrec.config.shared import Split
from xrec.data.dataset import Dataset, edges_of
from xrec.errors import DataError
from xrec.graph import check_aspects

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]
Sparse = Any  # scipy.sparse.csr_matrix, which has no types

_COUNTED: Mapping[Sentiment, list[str]] = {
    "all": ["positive", "neutral", "negative"],
    "positive": ["positive"],
    "not_negative": ["positive", "neutral"],
}


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
        return self.pairs_of_items

    @cached_property
    def pairs_of_items(self) -> Floats:
        """The number of pairs of each item, (I,)."""
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
        known = self.users * self.num_items + self.items
        order = self._order
        wanted = users * self.num_items + items
        places = np.searchsorted(known[order], wanted).clip(max=max(len(known) - 1, 0))
        rows = order[places] if len(known) else np.full(len(wanted), -1)
        return np.where(known[rows] == wanted, rows, -1) if len(known) else rows

    def counted_rows(self, users: Indices, items: Indices) -> Indices:
        """Return the row of each pair that `of_items` counts, (N,) int64, else -1."""
        return self.row_of(users, items)

    @cached_property
    def _order(self) -> Indices:
        return np.argsort(self.users * self.num_items + self.items, kind="stable")


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


def dataset_mentions(
    dataset: Dataset, split: Split, sentiment: Sentiment = "not_negative"
) -> Mentions:
    """Return the split's interactions with their aspects of the sentiment.

    If the aspects are those of profiles, a training pair has those of its item's profile, and held
    out are the explained pairs, with what their explanations name. Raises DataError if the dataset
    has no aspects.
    """
    if dataset.aspects is None or dataset.explanation_aspects is None:
        raise DataError(
            "the dataset has no aspects of pairs; expected one that was prepared from annotations "
            "(`xrec annotate`), or with prepare.aspects_from: {kind: profiles}"
        )
    if dataset.aspects_from == "reviews":
        return review_mentions(dataset, split, _COUNTED[sentiment])
    if split == "train":
        users, items = dataset.interaction_edges("train")
        return ProfileMentions.of(users, items, _profiles(dataset), dataset.num_users)
    rows = _rows(dataset, split, _COUNTED[sentiment])
    return _mentions_of(dataset, edges_of(dataset.explained_pairs(split)), rows)


def review_mentions(dataset: Dataset, split: Split, sentiments: Sequence[str]) -> Mentions:
    """Return the split's interactions with the aspects that their reviews mention so."""
    rows = _rows(dataset, split, sentiments)
    return _mentions_of(dataset, dataset.reviewed_edges(split), rows)


def _rows(dataset: Dataset, split: Split, sentiments: Sequence[str]) -> pa.Table:
    table = dataset.explanation_aspects
    assert table is not None
    counted = pc.is_in(table["sentiment"], pa.array(sentiments, pa.string()))
    return table.filter(pc.and_(pc.equal(table["split"], split), counted))


def _mentions_of(dataset: Dataset, edges: NDArray[np.int64], rows: pa.Table) -> Mentions:
    """Return the pairs `edges` (2, P) with those of `rows` (schema EXPLANATION_ASPECTS)."""
    assert dataset.aspects is not None
    users, items = edges
    pairs = Mentions(
        users,
        items,
        scipy.sparse.csr_matrix((len(users), dataset.aspects.num_rows), dtype=np.float32),
        dataset.num_users,
        dataset.num_items,
    )
    columns = {
        name: rows[name].to_numpy().astype(np.int64)
        for name in ("user_index", "item_index", "aspect_index")
    }
    check_aspects(columns["aspect_index"], pairs.num_aspects, "explanation_aspects")
    places = pairs.row_of(columns["user_index"], columns["item_index"])
    there = places >= 0
    return Mentions(
        users,
        items,
        ones_at(places[there], columns["aspect_index"][there], pairs.aspects.shape),
        dataset.num_users,
        dataset.num_items,
    )


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


def ones_at(rows: Indices, columns: Indices, shape: tuple[int, int]) -> Sparse:
    """Return a sparse matrix with 1 at these places, which may repeat."""
    matrix = scipy.sparse.csr_matrix(
        (np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape
    )
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
