"""How sure a mean over users and trainings is: both are drawn again, crossed.

A entry that is trained with S seeds has S values of each pair. Users are drawn with all of
their pairs, and seeds with all of theirs: the pigeonhole bootstrap of crossed factors (Owen 2007,
"The pigeonhole bootstrap", Annals of Applied Statistics 1). Three seeds are few, which has two
remedies. The seeds' deviations from their mean are stretched by sqrt(S / (S - 1)), as in a
variance. The interval is mean +- t times the standard error of the draws, with the degrees of
freedom of Satterthwaite (1946) between those of the seeds and those of the users.
"""

from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from xrec.evaluate.bootstrap import Estimate

Values = NDArray[np.float64]
_MAX_DRAWS = 2**23  # of one block: bounds the memory at 64 MiB whatever the number of users


def bootstrap_over_seeds(
    values: Values, users: Sequence[Hashable], *, num_samples: int, seed: int
) -> Estimate:
    """The mean of `values` (S, N) over seeds and pairs, with its 95 % interval.

    NaN is a pair without a value, which is left out in all seeds; some pair must have all values.
    With one seed only users are drawn, and the interval says nothing of other trainings.
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
    with the other's. A pair without a value on either side is left out.
    """
    return _estimate([(1.0, values), (-1.0, others)], users, num_samples, seed)


def _estimate(
    sides: Sequence[tuple[float, Values]],
    users: Sequence[Hashable],
    num_samples: int,
    seed: int,
) -> Estimate:
    signs = [sign for sign, _ in sides]
    sums, counts = _summed([values for _, values in sides], users)
    means = [each.sum(axis=1) / counts.sum() for each in sums]  # (S,) of each side
    value = sum(sign * float(of.mean()) for sign, of in zip(signs, means, strict=True))
    if len(counts) < 2:  # of one user nothing can be drawn
        return Estimate(value)
    stretched = [_stretched(each, of, counts) for each, of in zip(sums, means, strict=True)]
    error = float(_drawn(signs, stretched, counts, num_samples, seed).std(ddof=1))
    # Satterthwaite's degrees of freedom, of the variances by users and by the seeds of each side.
    merged = [each.mean(axis=0, keepdims=True) for each in sums]
    by_users = float(_drawn(signs, merged, counts, num_samples, seed).var(ddof=1))
    parts = [(by_users, len(counts) - 1)]
    parts += [(float(of.var(ddof=1)) / len(of), len(of) - 1) for of in means if len(of) > 1]
    total = sum(variance for variance, _ in parts)
    weighed = sum(variance**2 / max(1, freedom) for variance, freedom in parts)
    freedom = total**2 / weighed if weighed > 0 else 1e9
    half_width = float(student_t.ppf(0.975, freedom)) * error
    return Estimate(value, value - half_width, value + half_width)


def _summed(sides: Sequence[Values], users: Sequence[Hashable]) -> tuple[list[Values], Values]:
    """The sums of each side by user, (S, U), of pairs that have all values; their number, (U,)."""
    tables = [np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in sides]
    there = np.all([np.isfinite(table).all(axis=0) for table in tables], axis=0)
    assert there.any(), "no pair has a value in all seeds"
    numbers = {user: number for number, user in enumerate(dict.fromkeys(users))}
    index = np.array([numbers[user] for user in users])[there]
    index = np.unique(index, return_inverse=True)[1]
    sums: list[Values] = [
        np.stack([np.bincount(index, weights=row[there]).astype(np.float64) for row in table])
        for table in tables
    ]
    return sums, np.bincount(index).astype(np.float64)


def _stretched(sums: Values, means: Values, counts: Values) -> Values:
    """The seeds' deviations from their mean, stretched by sqrt(S / (S - 1))."""
    num_seeds = len(sums)
    if num_seeds == 1:
        return sums
    moved: Values = (means - means.mean()) * (np.sqrt(num_seeds / (num_seeds - 1)) - 1)
    stretched: Values = sums + moved[:, None] * counts
    return stretched


def _drawn(
    signs: Sequence[float], sums: Sequence[Values], counts: Values, num_samples: int, seed: int
) -> Values:
    """(num_samples,) resampled differences: users once for all sides, seeds for each side."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for weights in _weights(len(counts), num_samples, seed):
        difference = np.zeros(len(weights))
        for sign, side in zip(signs, sums, strict=True):
            totals = weights @ side.T  # (B, S)
            drawn = rng.integers(0, len(side), totals.shape)
            difference += sign * np.take_along_axis(totals, drawn, axis=1).mean(axis=1)
        found.append(difference / (weights @ counts))
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
