"""Spearman's rank correlation with an interval by user."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from xrec.evaluate.bootstrap import Estimate

_MOST_DRAWS = 1000


def rank_correlation(
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    users: Sequence[str],
    *,
    num_samples: int,
    seed: int,
) -> Estimate | None:
    """Spearman's correlation of two (N,) arrays, with a 95 % interval by user.

    Users are drawn, each with all of their texts; the ranks stay those among all texts. None if
    one of the two is constant.
    """
    x, y = rankdata(left), rankdata(right)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    numbers = {user: place for place, user in enumerate(dict.fromkeys(users))}
    places = np.array([numbers[user] for user in users])
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])  # (6, N)
    by_user = np.stack([np.bincount(places, term, len(numbers)) for term in terms], axis=1)
    rng = np.random.default_rng(seed)
    num_draws = min(num_samples, _MOST_DRAWS)
    counts = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), num_draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = _pearson(counts.astype(np.float64) @ by_user)
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (None, None)
    value = float(_pearson(by_user.sum(axis=0, keepdims=True))[0])
    return Estimate(
        value, None if low is None else float(low), None if high is None else float(high)
    )


def _pearson(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S,) correlations from sums (S, 6) of 1, x, y, xx, yy, xy."""
    n, x, y, xx, yy, xy = sums.T
    covariance = xy - x * y / n
    found: NDArray[np.float64] = covariance / np.sqrt((xx - x * x / n) * (yy - y * y / n))
    return found
