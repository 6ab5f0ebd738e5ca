"""How sure a mean over users and trainings is: both are drawn again, crossed.

A contestant that is trained with S seeds has S values of each pair. Users are drawn with all of
their pairs, and seeds with all of theirs: the pigeonhole bootstrap of crossed factors (Owen 2007,
"The pigeonhole bootstrap", Annals of Applied Statistics 1). Three seeds are few, which has two
remedies. The seeds' deviations from their mean are stretched by sqrt(S / (S - 1)), as in a
variance. The interval is mean +- t times the standard error of the draws, with the degrees of
freedom of Satterthwaite (1946) between those of the seeds and those of the users.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from xrec.evaluate.bootstrap import Estimate

Values = NDArray[np.float64]
_MAX_DRAWS = 2**23  # of one block: bounds the memory at 64 MiB whatever the number of users


@dataclass(frozen=True)
class _Sums:
    """Of S seeds and U users, (S, U): the sums of values, and how many there are."""

    totals: Values
    counts: Values

    @property
    def means(self) -> Values:
        """(S,) the mean of each seed."""
        means: Values = self.totals.sum(axis=1) / self.counts.sum(axis=1)
        return means

    def stretched(self) -> "_Sums":
        """The seeds' deviations from their mean, stretched by sqrt(S / (S - 1))."""
        num_seeds = len(self.totals)
        if num_seeds == 1:
            return self
        means = self.means
        moved = (means - means.mean()) * (np.sqrt(num_seeds / (num_seeds - 1)) - 1)
        return _Sums(self.totals + moved[:, None] * self.counts, self.counts)


def bootstrap_over_seeds(
    values: Values, users: Sequence[Hashable], *, num_samples: int, seed: int
) -> Estimate:
    """The mean of `values` (S, N) over seeds and pairs, with its 95 % interval.

    NaN is a pair without a value, which is left out in all seeds. With one seed only users are
    drawn, and the interval says nothing of other trainings. Raises ValueError if there is no pair
    with a value in all seeds, or `users` is not (N,).
    """
    return _estimate([(1.0, values)], users, num_samples, seed)


def bootstrap_difference(
    values: Values,
    others: Values,
    users: Sequence[Hashable],
    *,
    num_samples: int,
    seed: int,
) -> Estimate:
    """The mean of `values` (S, N) minus `others` (R, N) of the same pairs, with its 95 % interval.

    Users are drawn for both together, seeds for each by itself: its trainings have nothing to do
    with the other's. A pair without a value on either side is left out. Raises ValueError as above.
    """
    return _estimate([(1.0, values), (-1.0, others)], users, num_samples, seed)


def _estimate(
    sides: Sequence[tuple[float, Values]],
    users: Sequence[Hashable],
    num_samples: int,
    seed: int,
) -> Estimate:
    signs, sums = [sign for sign, _ in sides], _summed([values for _, values in sides], users)
    value = sum(sign * float(each.means.mean()) for sign, each in zip(signs, sums, strict=True))
    if sums[0].counts.shape[1] < 2:  # of one user nothing can be drawn
        return Estimate(value)
    draws = _drawn(signs, [each.stretched() for each in sums], num_samples, seed)
    error = float(draws.std(ddof=1))
    freedom = _degrees_of_freedom(signs, sums, num_samples, seed)
    half_width = float(student_t.ppf(0.975, freedom)) * error
    return Estimate(value, value - half_width, value + half_width)


def _summed(sides: Sequence[Values], users: Sequence[Hashable]) -> list[_Sums]:
    """The sums of each side by user, over the pairs that have all values."""
    tables = [np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in sides]
    if any(table.shape[1] != len(users) for table in tables):
        raise ValueError(
            f"values of shapes {[table.shape for table in tables]} and {len(users)} users; "
            "expected (seeds, pairs) and the user of each pair"
        )
    there = np.all([np.isfinite(table).all(axis=0) for table in tables], axis=0)
    if not there.any():
        raise ValueError(f"none of {len(users)} pairs has a value in all seeds; expected some")
    numbers = {user: number for number, user in enumerate(dict.fromkeys(users))}
    index = np.array([numbers[user] for user in users])[there]
    index = np.unique(index, return_inverse=True)[1]
    counts = np.bincount(index).astype(np.float64)
    return [
        _Sums(
            np.stack([np.bincount(index, weights=row[there]) for row in table]),
            np.tile(counts, (len(table), 1)),
        )
        for table in tables
    ]


def _drawn(signs: Sequence[float], sums: Sequence[_Sums], num_samples: int, seed: int) -> Values:
    """(num_samples,) resampled differences: users once for all sides, seeds for each side."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for weights in _weights(sums[0].counts.shape[1], num_samples, seed):
        difference = np.zeros(len(weights))
        for sign, side in zip(signs, sums, strict=True):
            totals, counts = weights @ side.totals.T, weights @ side.counts.T  # (B, S)
            drawn = rng.integers(0, len(side.totals), totals.shape)
            taken = [
                np.take_along_axis(each, drawn, axis=1).sum(axis=1) for each in (totals, counts)
            ]
            difference += sign * taken[0] / taken[1]
        found.append(difference)
    return np.concatenate(found)


def _weights(num_users: int, num_samples: int, seed: int) -> Iterable[Values]:
    """How often each user is drawn, in blocks (B, U) of `num_samples` rows together."""
    if num_users * num_samples <= _MAX_DRAWS:
        return [_kept_weights(num_users, num_samples, seed)]
    rows = max(1, _MAX_DRAWS // num_users)
    sizes = [min(rows, num_samples - start) for start in range(0, num_samples, rows)]
    rng = np.random.default_rng(seed)
    return (_weights_of(rng, num_users, size) for size in sizes)


@lru_cache(maxsize=4)
def _kept_weights(num_users: int, num_samples: int, seed: int) -> Values:
    """The same draws for all metrics of as many users, which take longer than all else."""
    weights = _weights_of(np.random.default_rng(seed), num_users, num_samples)
    weights.flags.writeable = False
    return weights


def _weights_of(rng: np.random.Generator, num_users: int, num_rows: int) -> Values:
    shares = np.full(num_users, 1 / num_users)
    return rng.multinomial(num_users, shares, size=num_rows).astype(np.float64)


def _degrees_of_freedom(
    signs: Sequence[float], sums: Sequence[_Sums], num_samples: int, seed: int
) -> float:
    """Satterthwaite's, of the sum of the variances by users and by the seeds of each side."""
    merged = [
        _Sums(side.totals.sum(axis=0, keepdims=True), side.counts.sum(axis=0, keepdims=True))
        for side in sums
    ]
    num_users = sums[0].counts.shape[1]
    parts = [(float(_drawn(signs, merged, num_samples, seed).var(ddof=1)), num_users - 1)]
    parts += [
        (float(side.means.var(ddof=1)) / len(side.totals), len(side.totals) - 1)
        for side in sums
        if len(side.totals) > 1
    ]
    total = sum(variance for variance, _ in parts)
    weighed = sum(variance**2 / max(1, freedom) for variance, freedom in parts)
    return total**2 / weighed if weighed > 0 else 1e9
