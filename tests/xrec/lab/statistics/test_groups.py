"""Groups of users and items against counts by hand."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from tests.xrec.lab.small import dataset_of, explained
from xrec.data.dataset import HeldOutPair
from xrec.data.splits import drawn_explanations
from xrec.lab.statistics.groups import equal_groups, group_rows


def groups_of(*arguments: Any, **more: Any) -> list[str]:
    found = group_rows(*arguments, **more)
    assert sum(found.values()).tolist() == [1] * len(arguments[1])  # each pair is in one
    places = np.stack(list(found.values())).argmax(axis=0)
    return [list(found)[place] for place in places]


def _pair(user: int, item: int) -> HeldOutPair:
    return HeldOutPair(f"u{user}", f"i{item}", user, item, "text")


def test_equal_groups_of_distinct_numbers_are_equal_in_size_and_in_order():
    numbers = np.random.default_rng(0).permutation(np.arange(1, 51))
    groups = equal_groups(numbers, 5)
    assert Counter(groups) == dict.fromkeys((1, 2, 3, 4, 5), 10)
    assert groups == [(number - 1) // 10 + 1 for number in numbers]
    # Members of the same number are in one group, and those of none in group 0.
    numbers = np.array([0, 0, 1, 1, 1, 1, 1, 1, 2, 9])
    assert equal_groups(numbers, 5) == [0, 0, 2, 2, 2, 2, 2, 2, 5, 5]
    assert equal_groups(np.zeros(3, dtype=np.int64), 5) == [0, 0, 0]


def test_users_are_grouped_by_training_explanations_only_and_named_by_their_numbers():
    # User n has n training explanations; held-out ones do not count.
    train = explained([(user, item, "") for user in range(6) for item in range(user)])
    test = explained([(user, 6, "") for user in range(6)], "test")
    dataset = dataset_of(6, 7, explanations=pa.concat_tables([train, test]))
    pairs = [_pair(user, 6) for user in range(6)]
    names = ["none", "1: 1", "2: 2", "3: 3", "4: 4", "5: 5"]
    assert groups_of(dataset, pairs, "user_explanations") == names
    assert list(group_rows(dataset, pairs, "user_explanations")) == names


def test_explanations_that_nobody_learned_from_do_not_count():
    train = explained([(user, item, f"{user} {item}") for user in range(6) for item in range(user)])
    dataset = dataset_of(6, 7, explanations=train)
    pairs = [_pair(user, 6) for user in range(6)]
    known = drawn_explanations(dataset, dataset.explained_pairs("train"), 4)
    counts = Counter(known["user_index"].to_pylist())
    groups = groups_of(dataset, pairs, "user_explanations", max_explanations=4)
    assert sum(counts.values()) == 4
    assert [group == "none" for group in groups] == [not counts[user] for user in range(6)]


def test_items_are_grouped_by_training_interactions():
    interactions = [(user, item, "train") for item in range(4) for user in range(3 * item + 1)]
    dataset = dataset_of(12, 5, interactions=[*interactions, (0, 4, "validation")])
    pairs = [_pair(11, item) for item in range(5)]
    groups = groups_of(dataset, pairs, "item_interactions")
    assert groups == ["1: 1", "2: 4", "3: 7", "4: 10", "none"]


def test_groups_that_equal_numbers_leave_empty_are_not_counted():
    interactions = [(user, item, "train") for user in range(6) for item in range(1 + user // 5)]
    dataset = dataset_of(6, 7, interactions=interactions)
    groups = group_rows(dataset, [_pair(user, 0) for user in range(6)], "user_interactions")
    assert list(groups) == ["1: 1", "2: 2"]


def test_groups_have_equal_numbers_of_the_users_that_are_scored_not_of_all():
    interactions = [(user, item, "train") for user in range(20) for item in range(user + 1)]
    dataset = dataset_of(20, 20, interactions=interactions)
    pairs = [_pair(user, 0) for user in range(10, 20) for _ in range(2)]
    groups = group_rows(dataset, pairs, "user_interactions")
    assert [int(rows.sum()) for rows in groups.values()] == [4, 4, 4, 4, 4]
    assert next(iter(groups)) == "1: 11 to 12"
