"""score(u, i, a): how likely the user u is to praise the aspect a of the item i.

    score = ln p(a | i) + v ln(1 + c(u, a) / (l p(a))) + w ln(1 + s(u, a) / (k p(a)))
    p(a | i) = (c(i, a) + m q(a | i)) / (n(i) + m)

The first term is how often the item's n(i) training reviews mention a, with m reviews of similar
items as a prior: q is the share of the neighbours' reviews, each neighbour weighted by the power b
of its cosine. The second is the user's own habit: in how many of their reviews, c(u, a), beside the
share p(a) of all reviews. The third is what the graph says of the user without a word of theirs,
along the paths user - item - aspect and user - item - user - aspect that leave the user's own
reviews out. Of each item j that the user reviewed, with n(j) reviews:

    s(u, a) = sum_j [ share of j's other reviews with a
                      + r(j)^-1/2 sum of the shares, of all their reviews, of j's other reviewers ]

Where profiles take the place of reviews (`ProfileMentions`), a profile is the only review of its
item, n(i) = 1, and c(u, a) counts the items that the user interacted with; r(j) users did with j.
In reviews r(j) = n(j).

The constants and weights are trained by `xrec.aspects.fit`. A pair's own review, if it is one of
the training reviews, can be left out of all counts.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from xrec.aspects.mentions import (
    Floats,
    Indices,
    Mentions,
    Sparse,
    rows_or_zero,
    scaled,
)

_ROUNDING = 1e-5  # a share that is less was 0 before float32 rounded


@dataclass(frozen=True)
class Weights:
    """The trained numbers: in the formula above m, b, v, l, w and k."""

    prior_reviews: float = 16.0
    similarity_power: float = 4.0
    own_weight: float = 0.3
    own_reviews: float = 10.0
    graph_weight: float = 0.1
    graph_reviews: float = 2.0


@dataclass(frozen=True, eq=False)
class AspectScorer:
    """Scores aspects; `neighbours` (I, I) are the cosines of each item's nearest ones, sparse."""

    mentions: Mentions
    neighbours: Sparse
    weights: Weights = field(default_factory=Weights)

    def prior(self, items: Indices) -> tuple[Sparse, Floats]:
        """m (q(a | i) - floor p(a)) of `items`, (N, A) sparse, and the floor, (N,).

        The floor is the weight of half a review of an average neighbour; m without neighbours.
        """
        powers, most = self.neighbours[items], self.weights.prior_reviews
        powers.data **= np.float32(self.weights.similarity_power)
        totals = np.asarray(powers @ self.mentions.reviews_of_items, dtype=np.float32)
        num = np.maximum(np.diff(powers.indptr), 1)
        scale = 0.5 * np.asarray(powers.sum(axis=1), dtype=np.float32).ravel() / num
        share = most / (totals + np.maximum(scale, np.float32(1e-12)))
        floor = np.where(totals > 0, share * scale, most).astype(np.float32)
        return scaled(powers @ self.mentions.of_items, share), floor

    def graph_counts(self, users: Indices) -> Sparse:
        """s(u, a) of `users` (N,), (N, A) sparse float32."""
        return self._paths(*self.mentions.rows_of(users), users)

    def _paths(self, places: Indices, rows: Indices, users: Indices) -> Sparse:
        """What training pairs add to s(u, a), above 0, (N, A) sparse: of `users` (N,).

        rows: the pairs; places: whose they are, by place in `users`.
        """
        mentions = self.mentions
        items = mentions.items[rows]
        of_review = 1 / np.maximum(mentions.reviews_of_items[items] - 1, 1)  # makes counts shares
        of_reviewer = 1 / np.sqrt(np.maximum(mentions.pairs_of_items[items], 1))

        def added(weights: NDArray[Any], columns: Indices, matrix: Sparse) -> Sparse:
            entries = weights.astype(np.float32), (places, columns)
            return scipy.sparse.csr_matrix(entries, (len(users), matrix.shape[0])) @ matrix

        of_pairs = np.asarray(np.bincount(places, of_reviewer, len(users)), dtype=np.float32)
        paths = (
            added(of_review, items, mentions.of_items)
            - added(of_review, rows, mentions.aspects)
            + added(of_reviewer, items, mentions.shares_of_reviewers)
            - scaled(mentions.shares_of_users(users), of_pairs)
        )
        return _above(paths.tocsr(), _ROUNDING * (1 + of_pairs))

    def user_part(self, users: Indices) -> Sparse:
        """The second and third term of `users` (N,), (N, A) sparse: 0 where nothing is known."""
        weights, mentions = self.weights, self.mentions
        part = lift(mentions.of_users[users], mentions.frequency, weights.own_reviews)
        part = part * np.float32(weights.own_weight)
        if weights.graph_weight:
            graph = lift(self.graph_counts(users), mentions.frequency, weights.graph_reviews)
            part = part + graph * np.float32(weights.graph_weight)
        return part.tocsr()

    def item_part(self, items: Indices) -> Floats:
        """ln p(a | i) of all aspects, (N, A), without its denominator, which ranks nothing."""
        shares, floor = self.prior(items)
        counts = (self.mentions.of_items[items] + shares).toarray()
        part: Floats = np.log(counts + floor[:, None] * self.mentions.frequency)
        return part

    def scores(self, users: Indices, items: Indices, *, leave_out_own: bool = False) -> Floats:
        """Return the scores of all aspects for N pairs, (N, A) float32, up to a constant a pair.

        With `leave_out_own`, a pair that is a training pair is scored as if its review had not been
        written; only its item's neighbours, and how often an aspect is mentioned at large, stay as
        they are.
        """
        if leave_out_own:
            return self._without_own(users, items)
        scores: Floats = self.item_part(items) + self.user_part(users).toarray()
        return scores

    def _without_own(self, users: Indices, items: Indices) -> Floats:
        mentions, weights = self.mentions, self.weights
        rows = mentions.row_of(users, items)
        is_own = rows >= 0
        path = np.zeros((len(users), mentions.num_aspects), dtype=np.float32)
        path[is_own] = self._paths(np.arange(is_own.sum()), rows[is_own], users[is_own]).toarray()
        own = rows_or_zero(mentions.aspects, rows)
        counted = rows_or_zero(mentions.aspects, mentions.counted_rows(users, items))
        shares, floor = self.prior(items)
        of_item = (mentions.of_items[items] + shares).toarray() - counted
        habit = mentions.of_users[users].toarray() - own
        graph = np.maximum(self.graph_counts(users).toarray() - path, 0)
        scores: Floats = (
            np.log(np.maximum(of_item, 0) + floor[:, None] * mentions.frequency)
            + weights.own_weight * np.log1p(habit / (weights.own_reviews * mentions.frequency))
            + weights.graph_weight * np.log1p(graph / (weights.graph_reviews * mentions.frequency))
        )
        return scores


def _above(matrix: Sparse, least: NDArray[np.floating[Any]]) -> Sparse:
    """Return the entries (N, A) of `matrix` that are above `least` (N,), the others are 0."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    matrix.data = np.where(matrix.data > least[rows], matrix.data, 0).astype(np.float32)
    matrix.eliminate_zeros()
    return matrix


def lift(counts: Sparse, frequency: Floats, reviews: float) -> Sparse:
    """Return ln(1 + counts / (reviews frequency)), sparse as `counts` is."""
    lifted = counts.tocsr().copy()
    lifted.data = np.log1p(lifted.data / (np.float32(reviews) * frequency[lifted.indices]))
    return lifted
