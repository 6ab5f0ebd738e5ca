"""How sure a mean is: the seeded percentile bootstrap (Efron 1979) over pairs.

Pairs are resampled as if independent; a user with many pairs makes the true interval somewhat wider.
"""

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


def bootstrap_mean(values: ArrayLike, *, num_samples: int, seed: int) -> Estimate:
    """The mean of `values` (N,) and its 95 % interval: the 2.5 and 97.5 percentiles of `num_samples` resampled means.

    Raises ValueError if there is no value or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"expected one or more finite numbers in one dimension, saw shape {array.shape}")
    low, high = np.percentile(_resampled_means(array, num_samples, seed), [2.5, 97.5])
    return Estimate(float(array.mean()), float(low), float(high))


def _resampled_means(values: NDArray[np.float64], num_samples: int, seed: int) -> NDArray[np.float64]:
    """(num_samples,) means of as many values, drawn with replacement."""
    rng = np.random.default_rng(seed)
    rows = max(1, _MAX_DRAWS // values.size)
    blocks = [min(rows, num_samples - start) for start in range(0, num_samples, rows)]
    return np.concatenate([values[rng.integers(0, values.size, (block, values.size))].mean(axis=1) for block in blocks])
