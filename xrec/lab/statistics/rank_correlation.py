"""Spearman's rank correlation with an interval: users are drawn, each with all of their values."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata, spearmanr

from xrec.evaluate.bootstrap import Estimate

_LEAST = 3
_NO_SPREAD = 1e-9


def rank_correlation(
    left: ArrayLike, right: ArrayLike, users: Sequence[Hashable], *, num_samples: int, seed: int
) -> Estimate | None:
    """The correlation of two arrays (N,), with its 95 % interval by user.

    None for fewer than three values, or if one side is constant; no interval if all values are of
    one user. Ranks are those among all values,
    in each draw too: ranking every draw anew changes little, and takes minutes.
    """
    values = np.stack([np.asarray(side, dtype=np.float64) for side in (left, right)], axis=1)
    if len(values) < _LEAST or (values == values[0]).all(axis=0).any():
        return None
    first, second = (rankdata(values, axis=0) - (len(values) + 1) / 2).T
    value = float(spearmanr(values[:, 0], values[:, 1]).statistic)
    numbers = {user: number for number, user in enumerate(dict.fromkeys(users))}
    if len(numbers) < 2:
        return Estimate(value)
    index = [numbers[user] for user in users]
    parts = (np.ones(len(first)), first, second, first**2, second**2, first * second)
    of_users = np.stack([np.bincount(index, weights=part) for part in parts], axis=1)  # (U, 6)
    rng, num_users = np.random.default_rng(seed), len(of_users)
    shares = np.full(num_users, 1 / num_users)
    drawn = np.stack(
        [rng.multinomial(num_users, shares) @ of_users for _ in range(num_samples)], axis=1
    )
    count, x, y, xx, yy, xy = drawn
    spread = (xx - x * x / count) * (yy - y * y / count)
    there = spread > _NO_SPREAD
    found = (xy - x * y / count)[there] / np.sqrt(spread[there])
    if not len(found):
        return Estimate(value)
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
