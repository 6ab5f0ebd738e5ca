"""How sure a mean is: the seeded percentile bootstrap (Efron 1979) over groups of values.

Users are drawn, each with all of their pairs: pairs of one user are not independent, and drawn
singly they would seem surer than they are. A paired difference is the mean of differences.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MAX_DRAWS = 2**22  # of one block: bounds the memory at 32 MiB whatever the number of pairs


@dataclass(frozen=True)
class Estimate:
    """A value, with the 95 % interval `low` to `high` where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, digits: int) -> str:
        """The value, and the interval in brackets where there is one."""
        shown = f"{self.value:.{digits}f}"
        if self.low is None or self.high is None:
            return shown
        return f"{shown} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def bootstrap_mean(
    values: ArrayLike, groups: Sequence[Hashable], *, num_samples: int, seed: int
) -> Estimate:
    """The mean of `values` (N,) and its 95 % interval.

    The interval ends at the 2.5 and 97.5 percentiles of `num_samples` resampled means.
    Whole groups are drawn with replacement, as many as there are; a sample's mean is over all
    values of the groups drawn. One group alone has no interval. There must be a value, and all are
    finite.
    """
    array = np.asarray(values, dtype=np.float64)
    assert array.shape == (len(groups),)
    assert np.isfinite(array).all()
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if len(numbers) < 2:
        return Estimate(float(array.mean()))
    index = np.array([numbers[group] for group in groups])
    totals = np.bincount(index, weights=array).astype(np.float64)
    counts = np.bincount(index)
    low, high = np.percentile(_resampled_means(totals, counts, num_samples, seed), [2.5, 97.5])
    return Estimate(float(array.mean()), float(low), float(high))


def _resampled_means(
    totals: NDArray[np.float64], counts: NDArray[np.int64], num_samples: int, seed: int
) -> NDArray[np.float64]:
    """(num_samples,) means of drawn groups, from all groups' `totals` (G,) and `counts`."""
    rng = np.random.default_rng(seed)
    rows = max(1, _MAX_DRAWS // totals.size)
    means = []
    for start in range(0, num_samples, rows):
        drawn = rng.integers(0, totals.size, (min(rows, num_samples - start), totals.size))
        means.append(totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)
