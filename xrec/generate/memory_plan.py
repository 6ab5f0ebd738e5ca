"""Plans how many rows and prefixes fit into a memory budget; no more than that is allocated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xrec.generate.prefix_groups import PrefixGroup, group_by_prefix

_MAX_MEMBERS = 16
"""Most prompts in a group.

Attention pads every prefix of a step to the number of members of the largest group.
"""


@dataclass(frozen=True)
class MemoryPlan:
    """The number of slots of the two stores, and the positions of each slot.

    `groups` together hold all prompts.
    """

    groups: list[PrefixGroup]
    num_rows: int
    row_length: int
    num_prefixes: int
    prefix_length: int

    @property
    def num_positions(self) -> int:
        """The number of positions in both stores."""
        return self.num_rows * self.row_length + self.num_prefixes * self.prefix_length


def positions_needed(prompt: Sequence[int], max_new_tokens: int) -> int:
    """The positions that a prompt and its text need.

    The last token needs none, because no later token attends to it.
    """
    return len(prompt) + max_new_tokens - 1


def plan_memory(
    prompts: Sequence[Sequence[int]],
    indices: Sequence[int],
    max_new_tokens: int,
    budget_positions: int,
    max_rows: int,
) -> MemoryPlan:
    """The plan with the most rows, at most `max_rows`, for the prompts at `indices`.

    Each of these prompts must fit into the budget by itself. Prefixes are shared, unless the
    longest prefix and the longest rest of a prompt do not fit together.
    """
    plan = _most_rows(
        group_by_prefix(prompts, indices, _MAX_MEMBERS),
        prompts,
        max_new_tokens,
        budget_positions,
        max_rows,
    )
    if plan.num_rows:
        return plan
    return _most_rows(
        [PrefixGroup([], list(indices))], prompts, max_new_tokens, budget_positions, max_rows
    )


def _most_rows(
    groups: list[PrefixGroup],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    budget_positions: int,
    max_rows: int,
) -> MemoryPlan:
    num_prompts = sum(len(group.members) for group in groups)
    prefix_length = max(len(group.prefix) for group in groups)
    row_length = max(
        positions_needed(prompts[index], max_new_tokens) - len(group.prefix)
        for group in groups
        for index in group.members
    )
    for num_rows in range(min(max_rows, num_prompts), -1, -1):
        # Twice as many prefixes as these rows need in groups of average size: rows finish
        # unevenly, and a prefix keeps its slot until its last row ends.
        num_prefixes = (
            min(len(groups), math.ceil(2 * num_rows * len(groups) / num_prompts))
            if prefix_length
            else 0
        )
        plan = MemoryPlan(groups, num_rows, row_length, num_prefixes, prefix_length)
        if plan.num_positions <= budget_positions:
            break
    return plan
