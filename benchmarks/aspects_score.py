"""NDCG@10 of ranked aspects, for the pairs' own users and for others in their place."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.aspects_data import Floats, Indices, Split

K = 10


def ndcg(scores: Floats, mentions: Floats, k: int = K) -> NDArray[np.float64]:
    """Return NDCG@k of each row, (N,): how well scores (N, A) rank what mentions (N, A) has.

    A mentioned aspect has gain 1. Among equal scores the earlier aspect comes first. Each row must
    have a mention.
    """
    k = min(k, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(mentions.sum(axis=1).astype(np.int64), k) - 1]
    gain: NDArray[np.float64] = np.take_along_axis(mentions, best, axis=1) @ discounts / ideal
    return gain


@dataclass(frozen=True)
class Substitutes:
    """Users in place of the test pairs' own: `another` (N,), and one of the `same_item` (N,).

    `same_item` is -1 where no other user has a training review of the item.
    """

    another: Indices
    same_item: Indices

    @classmethod
    def draw(cls, split: Split, seed: int) -> "Substitutes":
        """Draw both uniformly, for each pair, among the users with training reviews."""
        rng = np.random.default_rng([seed, 21])
        known = np.unique(split.train.users)
        another, same_item = [], []
        for user, item in zip(split.test.users, split.test.items, strict=True):
            another.append(_one_of(rng, known, user))
            reviewers = np.unique(split.train.users[split.train.items == item])
            same_item.append(_one_of(rng, reviewers, user))
        return cls(np.array(another), np.array(same_item))


def _one_of(rng: np.random.Generator, users: Indices, but: int) -> int:
    others = users[users != but]
    return int(rng.choice(others)) if len(others) else -1
