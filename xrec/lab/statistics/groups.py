"""Groups of users and of items, from rare to frequent, by the number of their training pairs.

The article's tst1 to tst5 and its zero-shot users: those without any are a group of their own, the
others are five groups of equal size. Users of the same number stay together, so where many have the
same number the groups differ in size, or are fewer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from xrec.data.dataset import Dataset
from xrec.data.drawn import drawn_explanations
from xrec.data.held_out import HeldOutPair

Grouping = Literal[
    "user_explanations", "item_explanations", "user_interactions", "item_interactions"
]
"""Users or items, by their number of training explanations or training interactions."""
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
NUM_GROUPS = 5
NONE = "none"


@dataclass(frozen=True, eq=False)
class Groups:
    """Says which group a pair is in. `names` are in order: "none" if there are any, then from 1 on.

    The name of a group has its members' numbers of training pairs: "2: 3 to 4".
    """

    by: Grouping
    names: tuple[str, ...]
    of: Callable[[HeldOutPair], str]

    def rows(self, pairs: Sequence[HeldOutPair]) -> dict[str, NDArray[np.bool_]]:
        """Where the pairs of each group stand, (N,); groups without a pair are left out."""
        found = np.array([self.of(pair) for pair in pairs], dtype=object)
        return {name: found == name for name in self.names if (found == name).any()}


def make_groups(
    dataset: Dataset,
    pairs: Sequence[HeldOutPair],
    by: Grouping,
    max_explanations: int | None = None,
) -> Groups:
    """The groups of the users, or items, of `pairs`, which are all that will be asked for.

    max_explanations: how many of the training explanations were learned from, as drawn by
        `drawn_explanations`; the others do not count. None: all.

    Raises ValueError for another `by`, or no pairs.
    """
    if by not in GROUPINGS or not pairs:
        raise ValueError(
            f"groups by {by!r} of {len(pairs)} pairs; expected one of {', '.join(GROUPINGS)}, and "
            "pairs"
        )
    side = "user_index" if by.startswith("user") else "item_index"
    counts = _training_counts(dataset, by, max_explanations)
    members = sorted({getattr(pair, side) for pair in pairs})
    numbers = counts[members]
    groups = equal_groups(numbers, NUM_GROUPS)
    names = _names(numbers, groups)
    of_member = {member: names[group] for member, group in zip(members, groups, strict=True)}
    return Groups(
        by,
        tuple(names[group] for group in sorted(names)),
        lambda pair: of_member[getattr(pair, side)],
    )


def equal_groups(numbers: NDArray[np.int64], num_groups: int) -> list[int]:
    """The group of each of M members by its number: 0 if that is 0, else 1 to `num_groups`.

    Members are ranked by their numbers, and equal numbers share the middle of their ranks, so they
    are in one group. A group may be empty.
    """
    ranked = np.sort(numbers[numbers > 0])
    first, stop = np.searchsorted(ranked, numbers), np.searchsorted(ranked, numbers, side="right")
    middle = (first + stop) / 2  # of the ranks of all that have this number
    groups = 1 + np.floor(middle * num_groups / max(1, len(ranked))).astype(np.int64)
    return [int(group) for group in np.where(numbers > 0, np.minimum(groups, num_groups), 0)]


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
