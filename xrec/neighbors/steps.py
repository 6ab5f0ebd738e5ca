"""Lower bounds of numbers of people, in steps, so that no exact number about others is shown.

The steps are 5, 10, 20, 50, 100, 200, 500, and so on, and never below the least one.
"""

import numpy as np
import numpy.typing as npt

_STEPS = np.array([step * 10**power for power in range(9) for step in (1, 2, 5)])[2:]


def lower_bounds(num_people: npt.ArrayLike, least: int) -> npt.NDArray[np.int32]:
    """Return the largest step that is not above each number; 0 below `least`, the first step."""
    steps = np.concatenate([[0, least], _STEPS[least < _STEPS]])
    places = np.searchsorted(steps, np.asarray(num_people, np.int64), side="right") - 1
    return np.asarray(steps[places], np.int32)
