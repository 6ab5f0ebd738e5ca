"""How sure a mean over users and trainings is: its 95 % interval, mean +- t times standard error.

Pairs of one user are not independent, nor are those of one training: the error is clustered by
both, crossed (Cameron, Gelbach, Miller 2011, "Robust inference with multiway clustering"). With
the mean m over S seeds and N pairs, n_u of them of user u, m_s the mean of seed s, and r_u what
the mean over seeds of all values of u exceeds n_u m by, the two parts of the variance are

    by users: U / (U - 1) sum_u (r_u / N)^2        by seeds: sum_s (m_s - m)^2 / (S (S - 1))

Their intersection is not taken off, so that an interval is rather too wide. The degrees of freedom
are Satterthwaite's (1946), between those of the users and those of the seeds. With one seed an
interval says nothing of other trainings.

A share, of values that are true or false, has Clopper and Pearson's interval, which stays within 0
and 1, for as many independent values as have the same error (Korn, Graubard 1998); if all values
are the same, for as many as there are users.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value, with the 95 % interval `low` to `high` where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    def interval(self, digits: int) -> str:
        """The interval as "low to high"; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:.{digits}f} to {self.high:.{digits}f}"

    def text(self, digits: int) -> str:
        """The value, and the interval in brackets where there is one."""
        interval = self.interval(digits)
        return f"{self.value:.{digits}f}" + (f" ({interval})" if interval else "")


def mean_interval(values: ArrayLike, users: Sequence[Hashable]) -> Estimate:
    """The mean of `values`, (N,) or (S, N) over seeds and pairs, whose users are `users` (N,).

    Values of type bool are those of a share. Differences of such are numbers, be they 0 or 1.

    NaN is a pair without a value, which is left out in all seeds; some pair must have all values.
    One user alone has no interval.
    """
    return _estimate([(1.0, values)], users)


def difference_interval(
    values: ArrayLike, others: ArrayLike, users: Sequence[Hashable]
) -> Estimate:
    """The mean of `values` (S, N) minus `others` (R, N) of the same pairs.

    Users are those of both together, seeds each side's own: its trainings have nothing to do with
    the other's. A pair without a value on either side is left out.
    """
    return _estimate([(1.0, values), (-1.0, others)], users)


def _estimate(sides: Sequence[tuple[float, ArrayLike]], users: Sequence[Hashable]) -> Estimate:
    tables = [sign * np.atleast_2d(np.asarray(each, dtype=np.float64)) for sign, each in sides]
    there = np.all([np.isfinite(table).all(axis=0) for table in tables], axis=0)
    assert there.any(), "no pair has a value in all seeds"
    of_pairs = np.sum([table[:, there].mean(axis=0) for table in tables], axis=0)  # (N,)
    of_seeds = [table[:, there].mean(axis=1) for table in tables]  # (S,) of each side
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
    """A share of `count` independent values, by Clopper and Pearson (1934)."""
    ones, zeros = value * count, (1 - value) * count
    low = float(betaincinv(ones, zeros + 1, 0.025)) if ones else 0.0
    return Estimate(value, low, float(betaincinv(ones + 1, zeros, 0.975)) if zeros else 1.0)
