"""Users in place of the test pairs' own, as controls."""

from dataclasses import dataclass

import numpy as np

from benchmarks.aspects_data import Indices, Split


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
