"""95 % intervals of means over users and trainings: mean +- t times the standard error.

Pairs of one user are not independent, nor are those of one training, so the error is two-way
clustered (Cameron, Gelbach, Miller 2011, "Robust inference with multiway clustering"). Let m be
the mean over S seeds and N pairs of U users, m_s the mean of seed s, and r_u the sum over the
pairs of user u of (the pair's mean over seeds minus m). The two parts of the variance are

    by users: U / (U - 1) sum_u (r_u / N)^2        by seeds: sum_s (m_s - m)^2 / (S (S - 1))

Their intersection is not subtracted, so an interval is too wide rather than too narrow. The degrees
of freedom are Satterthwaite's (1946), between those of the users and those of the seeds. With one
seed, an interval does not cover the variation between trainings.

A share (the mean of bools) has Clopper and Pearson's interval, which stays within 0 and 1, for the
number of independent values that would have the same error (Korn, Graubard 1998), or for the number
of users if all values are the same.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value, with its 95 % interval from `low` to `high` if it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    def interval(self, digits: int) -> str:
        """Return the interval as "low to high"; empty if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:.{digits}f} to {self.high:.{digits}f}"

    def text(self, digits: int) -> str:
        """Return the value, followed by the interval in parentheses if there is one."""
        interval = self.interval(digits)
        return f"{self.value:.{digits}f}" + (f" ({interval})" if interval else "")


def mean_interval(values: ArrayLike, users: Sequence[Hashable]) -> Estimate:
    """Return the mean of `values`, (N,) or (S, N) over seeds and pairs; `users` is (N,).

    If the dtype is bool, the mean is a share. Differences of bools must be passed as numbers.

    NaN marks a pair without a value, which is left out of all seeds; at least one pair must have
    all values. With a single user there is no interval.
    """
    return _estimate([(1.0, values)], users)


def difference_interval(
    values: ArrayLike, others: ArrayLike, users: Sequence[Hashable]
) -> Estimate:
    """Return the mean of `values` (S, N) minus `others` (R, N) of the same pairs.

    Both sides are clustered by the same users, but each by its own seeds, because their trainings
    are independent. A pair that lacks a value on either side is left out.
    """
    return _estimate([(1.0, values), (-1.0, others)], users)


def _estimate(sides: Sequence[tuple[float, ArrayLike]], users: Sequence[Hashable]) -> Estimate:
    tables = [sign * np.atleast_2d(np.asarray(each, dtype=np.float64)) for sign, each in sides]
    there = np.all([np.isfinite(table).all(axis=0) for table in tables], axis=0)
    assert there.any(), "no pair has a value in all seeds"
    of_pairs = np.sum([table[:, there].mean(axis=0) for table in tables], axis=0)  # (N,)
    of_seeds = [table[:, there].mean(axis=1) for table in tables]  # (S,) for each side
    value = float(of_pairs.mean())
    numbers = {user: number for number, user in enumerate(dict.fromkeys(users))}
    index = np.array([numbers[user] for user in users])[there]
    num_users = len(np.unique(index))
    if num_users < 2:
        return Estimate(value)
    residuals = np.bincount(index, weights=of_pairs - value) / len(of_pairs)
    by_users = num_users / (num_users - 1) * float(residuals @ residuals)
    parts = [(by_users, num_users - 1)]
    parts += [
        (float(each.var(ddof=1)) / len(each), len(each) - 1) for each in of_seeds if len(each) > 1
    ]
    total = sum(variance for variance, _ in parts)
    is_share = len(sides) == 1 and np.asarray(sides[0][1]).dtype == np.bool_
    if total == 0:
        return _share(value, num_users) if is_share else Estimate(value, value, value)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    quantile, num_pairs = float(stdtrit(freedom, 0.975)), len(of_pairs)
    if is_share:
        shrunk = (stdtrit(num_pairs - 1, 0.975) / quantile) ** 2
        return _share(value, min(num_pairs, value * (1 - value) / total * shrunk))
    half_width = quantile * float(np.sqrt(total))
    return Estimate(value, value - half_width, value + half_width)


def _share(value: float, count: float) -> Estimate:
    """Return a share of `count` independent values, by Clopper and Pearson (1934)."""
    ones, zeros = value * count, (1 - value) * count
    low = float(betaincinv(ones, zeros + 1, 0.025)) if ones else 0.0
    return Estimate(value, low, float(betaincinv(ones + 1, zeros, 0.975)) if zeros else 1.0)
