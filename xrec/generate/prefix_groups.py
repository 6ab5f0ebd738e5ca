"""Prompts grouped by what they begin with: a group's prefix is computed once and attended to by all its members.

The tree over the prompts: in lexicographic order, prompts that share a beginning stand side by side. A node is a run of
them, its prefix what the run shares; it is cut where neighbours share less than `_LEAST_GAIN` tokens more than that.
Runs of two and more are nodes again; what stands alone is a group with the node's prefix. So with a user's texts before
the item's, a user's pairs are a group, and users with one pair each share the instruction.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_LEAST_GAIN = 16
"""Tokens that a longer prefix must save, for each member, to be worth a group of its own."""


@dataclass(frozen=True)
class PrefixGroup:
    """Prompts by index, and the ids that they all begin with: at most all but the last token of each."""

    prefix: list[int]
    members: list[int]


def group_by_prefix(
    prompts: Sequence[Sequence[int]], indices: Sequence[int], max_members: int
) -> list[PrefixGroup]:
    """Groups of at most `max_members` of the prompts at `indices`, neighbours in the tree side by side."""
    order = sorted(indices, key=lambda index: list(prompts[index]))
    shared = [
        shared_length(prompts[left], prompts[right]) for left, right in itertools.pairwise(order)
    ]
    return [
        PrefixGroup(
            list(
                prompts[members[0]][: min(length, *(len(prompts[index]) - 1 for index in members))]
            ),
            members,
        )
        for places, length in _nodes(shared, 0, len(order))
        for members in _parts([order[place] for place in places], max_members)
    ]


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Tokens at the beginning that two rows have in common."""
    length = min(len(left), len(right))
    return next((place for place in range(length) if left[place] != right[place]), length)


def _nodes(shared: Sequence[int], start: int, stop: int) -> Iterator[tuple[list[int], int]]:
    """Places (in order) and prefix length of each group among places `start` to `stop`; `shared[i]` is of places i and i + 1."""
    if stop - start <= 1:
        yield from [([start], 0)] if stop > start else []
        return
    length = min(shared[start : stop - 1])
    cuts = [
        start,
        *(place + 1 for place in range(start, stop - 1) if shared[place] < length + _LEAST_GAIN),
        stop,
    ]
    runs = list(itertools.pairwise(cuts))
    for first, last in runs:
        if last - first > 1:
            yield from _nodes(shared, first, last)
    alone = [first for first, last in runs if last - first == 1]
    if alone:
        yield alone, length


def _parts(members: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(members), size):
        yield members[start : start + size]
