"""Trains the scorer's four numbers, for NDCG@10 of what held-out reviews mention.

    value = NDCG(own) + g (NDCG(own) - NDCG(others in the user's place))

The others are a reviewer of the same item and any user, drawn at random. Without them (g = 0) the
user's part is as small as it may be: near its best, NDCG hardly changes with it, and what is left
is true of anybody who reviews the item. There are too few numbers to overfit, and NDCG has no
gradient, so each is tried at several values while the others stay, the item's first, in two rounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xrec.aspects.mentions import Floats, Indices, Mentions, Sparse
from xrec.aspects.scorer import AspectScorer, Weights, lift

K = 10
_MOST_PAIRS = 5_000
_PERSONAL_WEIGHT = 1.0  # g
_GRID: Mapping[str, tuple[float, ...]] = {
    "prior_reviews": (4, 8, 16, 32),
    "similarity_power": (2, 4, 6, 8),
    "own_weight": (0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
    "own_reviews": (3, 5, 10, 20),
}


Figures = dict[str, float]
"""NDCG@10 on held-out pairs: of their own users, of others in their place, of the item alone."""


def fit(
    train: Mentions, held_out: Mentions, neighbours: Sparse, *, seed: int = 0
) -> tuple[AspectScorer, Figures]:
    """Return the scorer that ranks best what the `held_out` reviews mention, one aspect or more.

    `seed` draws the others. Beside it stand its figures.
    """
    search = _Search(train, neighbours, held_out, seed)
    start = Weights()
    item_best = search.best(replace(start, own_weight=0), ("prior_reviews", "similarity_power"))
    best = replace(item_best, own_weight=start.own_weight)
    for _ in range(2):
        best = search.best(best, tuple(_GRID))
    return AspectScorer(train, neighbours, best), search.figures(best, item_best)


def evaluate(scorer: AspectScorer, held_out: Mentions, *, seed: int = 0) -> Figures:
    """Return how well a trained scorer ranks what other `held_out` reviews mention, not nothing."""
    search = _Search(scorer.mentions, scorer.neighbours, held_out, seed)
    return search.figures(scorer.weights, replace(scorer.weights, own_weight=0))


def draw_others(train: Mentions, users: Indices, items: Indices, seed: int) -> Indices:
    """Return another reviewer of each pair's item (N,), or any other user where there is none."""
    rng = np.random.default_rng([seed, 1])
    order = np.argsort(train.items, kind="stable")
    ends = np.searchsorted(train.items[order], np.stack([items, items + 1]))
    instead = draw_users(train, users, seed)
    for pair, (first, end) in enumerate(ends.T):
        reviewers = train.users[order[first:end]]
        reviewers = reviewers[reviewers != users[pair]]
        if len(reviewers):
            instead[pair] = rng.choice(reviewers)
    return instead


def draw_users(train: Mentions, users: Indices, seed: int) -> Indices:
    """Return any other user with a training review for each of `users` (N,)."""
    rng = np.random.default_rng([seed, 2])
    known = np.unique(train.users)
    drawn = rng.choice(known, len(users))
    while len(known) > 1 and (drawn == users).any():
        same = drawn == users
        drawn[same] = rng.choice(known, int(same.sum()))
    return drawn


class _Search:
    """NDCG of weights; the two terms are kept, as most weights share them."""

    def __init__(self, train: Mentions, neighbours: Sparse, held_out: Mentions, seed: int) -> None:
        """Draw the users in the place of the pairs' own, which come first."""
        rows = np.flatnonzero(np.diff(held_out.aspects.indptr))
        assert len(rows)
        rows = rows[:: -(-len(rows) // _MOST_PAIRS)]  # spread evenly if there are too many
        users, self._items = held_out.users[rows], held_out.items[rows]
        self._mentioned: Floats = held_out.aspects[rows].toarray()
        reviewers = draw_others(train, users, self._items, seed)
        self._users = [users, reviewers, draw_users(train, users, seed)]
        self._train, self._neighbours = train, neighbours
        self._parts: dict[tuple[str, float, float], Floats] = {}

    def figures(self, weights: Weights, item_only: Weights) -> Figures:
        """Return the figures of some weights, and those of the best item part."""
        values = (*self.ndcg(weights), self.ndcg(item_only)[0])
        names = (f"ndcg@{K}", f"ndcg@{K}_others", f"ndcg@{K}_item")
        return {name: round(value, 4) for name, value in zip(names, values, strict=True)}

    def best(self, weights: Weights, names: Sequence[str]) -> Weights:
        """Try each of `names` at all its values, one after the other."""
        for name in names:
            others = [replace(weights, **{name: float(value)}) for value in _GRID[name]]
            weights = max([weights, *others], key=self.value)  # the first of equal ones
        return weights

    def value(self, weights: Weights) -> float:
        own, others = self.ndcg(weights)
        return own + _PERSONAL_WEIGHT * (own - others)

    def ndcg(self, weights: Weights) -> tuple[float, float]:
        """Return NDCG for the own users, and the mean for those in their place."""
        own, *others = (
            float(ndcg(self._scores(weights, place), self._mentioned).mean())
            for place in range(len(self._users))
        )
        return own, float(np.mean(others))

    def _scores(self, weights: Weights, place: int) -> Floats:
        item = ("item", weights.prior_reviews, weights.similarity_power)
        if item not in self._parts:
            scorer = AspectScorer(self._train, self._neighbours, weights)
            self._parts[item] = scorer.item_part(self._items)
        scores: Floats = self._parts[item] + np.float32(weights.own_weight) * self._lift(
            place, weights.own_reviews
        )
        return scores

    def _lift(self, place: int, reviews: float) -> Floats:
        key = ("own", place, reviews)
        if key not in self._parts:
            of_pairs = self._train.of_users[self._users[place]]
            self._parts[key] = lift(of_pairs, self._train.frequency, reviews).toarray()
        return self._parts[key]


def ndcg(scores: Floats, mentioned: Floats, k: int = K) -> NDArray[np.float64]:
    """Return NDCG@k of each row, (N,); scores, mentioned (N, A), each row with a mention or more.

    A mentioned aspect has gain 1. Among equal scores the earlier aspect comes first.
    """
    k = min(k, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(mentioned.sum(axis=1).astype(np.int64), k) - 1]
    gain: NDArray[np.float64] = np.take_along_axis(mentioned, best, axis=1) @ discounts / ideal
    return gain
