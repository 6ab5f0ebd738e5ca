"""Groups prompts by their beginnings: a group's prefix is computed once for all its members.

In lexicographic order, prompts with a common beginning are neighbours. A node is a run of
neighbours, and its prefix is what the whole run shares. The run is cut wherever two neighbours
share fewer than `LEAST_GAIN` tokens more than this prefix. Pieces of two and more prompts are
nodes again; the single prompts that are left form a group with the node's prefix. If the user's
texts come before the item's, all pairs of one user form a group, and users with one pair each share
the instruction.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEAST_GAIN = 16
"""A longer prefix gets a group of its own if it saves at least as many tokens for each member."""


@dataclass(frozen=True)
class PrefixGroup:
    """Prompts by index, and the token ids that they all begin with.

    The prefix never includes the last token of a member.
    """

    prefix: list[int]
    members: list[int]


def group_by_prefix(prompts: Sequence[list[int]], max_members: int) -> list[PrefixGroup]:
    """The prompts in groups of at most `max_members`.

    Groups with similar beginnings follow each other.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    shared = [
        shared_length(prompts[left], prompts[right]) for left, right in itertools.pairwise(order)
    ]
    return [
        PrefixGroup(
            prompts[members[0]][: min(length, *(len(prompts[index]) - 1 for index in members))],
            members,
        )
        for places, length in _nodes(shared, 0, len(order))
        for members in _parts([order[place] for place in places], max_members)
    ]


def shared_length(left: list[int], right: list[int]) -> int:
    """The number of tokens at the beginning that two lists have in common."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _nodes(shared: Sequence[int], start: int, stop: int) -> Iterator[tuple[list[int], int]]:
    """The places and the prefix length of each group among the places `start` to `stop`.

    A place is an index into the ordered prompts, and `shared[i]` is the number of tokens that the
    prompts at places i and i + 1 share.
    """
    if stop - start <= 1:
        yield from [([start], 0)] if stop > start else []
        return
    length = min(shared[start : stop - 1])
    cuts = [
        start,
        *(place + 1 for place in range(start, stop - 1) if shared[place] < length + LEAST_GAIN),
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
