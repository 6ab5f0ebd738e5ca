"""How many rows and prefixes fit into a budget of bytes: what is allocated is all that is ever held."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xrec.generate.prefix_groups import PrefixGroup, group_by_prefix

_MAX_MEMBERS = 16
"""Of a group. Attention pads the prefixes of a step to the one with most members."""


@dataclass(frozen=True)
class MemoryPlan:
    """Slots of the two stores and the positions of each slot; `groups` are all prompts."""

    groups: list[PrefixGroup]
    num_rows: int
    row_length: int
    num_prefixes: int
    prefix_length: int

    @property
    def num_positions(self) -> int:
        """Of both stores."""
        return self.num_rows * self.row_length + self.num_prefixes * self.prefix_length


def positions_needed(prompt: Sequence[int], max_new_tokens: int) -> int:
    """Positions that a prompt and its text take; the last token's keys are never needed."""
    return len(prompt) + max_new_tokens - 1


def plan_memory(
    prompts: Sequence[Sequence[int]],
    indices: Sequence[int],
    max_new_tokens: int,
    budget_positions: int,
    max_rows: int,
) -> MemoryPlan:
    """The plan with most rows, at most `max_rows`; each prompt at `indices` must fit the budget by itself.

    Prefixes are shared unless the longest of them and the longest rest don't fit together.
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
        # Twice as many prefixes as full groups have: rows finish unevenly, and a prefix stays until its last row ends.
        num_prefixes = (
            min(len(groups), math.ceil(2 * num_rows * len(groups) / num_prompts))
            if prefix_length
            else 0
        )
        plan = MemoryPlan(groups, num_rows, row_length, num_prefixes, prefix_length)
        if plan.num_positions <= budget_positions:
            break
    return plan
