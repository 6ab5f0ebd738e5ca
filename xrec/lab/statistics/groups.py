"""Groups of users and of items, from rare to frequent, by the number of their training pairs.

The article's tst1 to tst5 and its zero-shot users: those without any are a group of their own, the
others are five groups of equal size. Users of the same number stay together, so where many have the
same number the groups differ in size, or are fewer.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from xrec.config.entries import Grouping
from xrec.data.dataset import Dataset, HeldOutPair
from xrec.data.splits import drawn_explanations

NUM_GROUPS = 5
NONE = "none"


def group_rows(
    dataset: Dataset,
    pairs: Sequence[HeldOutPair],
    by: Grouping,
    max_explanations: int | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """Where the pairs of each group of the users, or items, of `pairs` stand, (N,).

    The names are in order: "none" if there are any, then from 1 on, each with its members' numbers
    of training pairs: "2: 3 to 4".

    max_explanations: how many of the training explanations were learned from, as drawn by
        `drawn_explanations`; the others do not count. None: all.
    """
    side = "user_index" if by.startswith("user") else "item_index"
    of_pairs = np.array([getattr(pair, side) for pair in pairs])
    members, places = np.unique(of_pairs, return_inverse=True)
    numbers = _training_counts(dataset, by, max_explanations)[members]
    groups = equal_groups(numbers, NUM_GROUPS)
    names = _names(numbers, groups)
    found = np.array(groups)[places]
    return {names[group]: found == group for group in sorted(names)}


def equal_groups(numbers: NDArray[np.int64], num_groups: int) -> list[int]:
    """The group of each of M members by its number: 0 if that is 0, else 1 to `num_groups`.

    Members are ranked by their numbers, and equal numbers share the middle of their ranks, so they
    are in one group. A group may be empty.
    """
    groups = np.zeros(len(numbers), dtype=np.int64)
    middle = rankdata(numbers[numbers > 0]) - 0.5  # of the ranks of all that have this number
    groups[numbers > 0] = 1 + middle * num_groups // max(1, len(middle))
    return [int(group) for group in groups]


def _training_counts(
    dataset: Dataset, by: Grouping, max_explanations: int | None
) -> NDArray[np.int64]:
    """The number of training pairs of each user (U,), or of each item (I,)."""
    if by.endswith("explanations"):
        table = drawn_explanations(dataset, dataset.explained_pairs("train"), max_explanations)
        users, items = table["user_index"].to_numpy(), table["item_index"].to_numpy()
    else:
        users, items = dataset.interaction_edges("train")
    if by.startswith("user"):
        return np.bincount(users, minlength=dataset.num_users)
    return np.bincount(items, minlength=dataset.num_items)


def _names(numbers: NDArray[np.int64], groups: Sequence[int]) -> dict[int, str]:
    """The name of each group that has members, which are counted from 1."""
    names = {0: NONE} if 0 in groups else {}
    for place, group in enumerate(sorted(set(groups) - {0}), start=1):
        inside = numbers[np.array(groups) == group]
        low, high = int(inside.min()), int(inside.max())
        names[group] = f"{place}: {low}" + (f" to {high}" if high > low else "")
    return names
