"""Groups of prompts: each prompt is in one group and begins with the group's prefix."""

import random

from xrec.generate.builtin.requests import group_by_prefix


def make_prompts(items_of_users: list[int]) -> list[list[int]]:
    """Prompts of 20 shared tokens, 30 of a user and 10 of an item."""
    rng = random.Random(0)
    start = rng.choices(range(1000), k=20)
    prompts = []
    for count in items_of_users:
        user = rng.choices(range(1000), k=30)
        prompts += [[*start, *user, *rng.choices(range(1000), k=10)] for _ in range(count)]
    rng.shuffle(prompts)
    return prompts


def test_users_with_several_items_are_groups_and_others_share_the_start():
    prompts = make_prompts([1, 4, 1, 2, 1])
    groups = group_by_prefix(prompts, 16)
    assert sorted((len(members), len(prefix)) for prefix, members in groups) == [
        (2, 50),
        (3, 20),
        (4, 50),
    ]
    assert sorted(index for _, members in groups for index in members) == list(range(9))
    for prefix, members in groups:
        assert all(prompts[index][: len(prefix)] == prefix for index in members)


def test_large_user_is_split_and_neighbours_stand_side_by_side():
    groups = group_by_prefix(make_prompts([5, 9]), 4)
    assert sorted(len(members) for _, members in groups) == [1, 1, 4, 4, 4]
    users = [prefix for prefix, _ in groups]
    assert users in ([users[0]] * 2 + [users[2]] * 3, [users[0]] * 3 + [users[3]] * 2)


def test_last_token_is_never_in_the_prefix_and_one_prompt_or_none_is_grouped_too():
    assert group_by_prefix([[1, 2, 3], [1, 2, 3], [1, 2, 3, 4]], 16) == [([1, 2], [0, 1, 2])]
    assert [members for _, members in group_by_prefix(make_prompts([1]), 16)] == [[0]]
    assert group_by_prefix([], 16) == []


def test_one_prompt_in_another_at_every_length_needs_no_deep_recursion():
    groups = group_by_prefix([[1] * length for length in range(1, 3000)], 16)
    assert sum(len(members) for _, members in groups) == 2999
