"""Groups of users and items against counts by hand."""

from collections import Counter

import numpy as np
import pytest

from tests.xrec.lab.measures.small_dataset import dataset_of
from xrec.data.drawn import drawn_explanations
from xrec.data.held_out import HeldOutPair
from xrec.lab.statistics.groups import equal_groups, make_groups


def _pair(user: int, item: int) -> HeldOutPair:
    return HeldOutPair(f"u{user}", f"i{item}", user, item, "text")


def test_equal_groups_of_distinct_numbers_are_equal_in_size_and_in_order() -> None:
    numbers = np.random.default_rng(0).permutation(np.arange(1, 51))
    groups = equal_groups(numbers, 5)
    assert Counter(groups) == dict.fromkeys((1, 2, 3, 4, 5), 10)
    assert groups == [(number - 1) // 10 + 1 for number in numbers]


def test_members_of_the_same_number_are_in_one_group_and_those_of_none_in_group_0() -> None:
    numbers = np.array([0, 0, 1, 1, 1, 1, 1, 1, 2, 9])
    assert equal_groups(numbers, 5) == [0, 0, 2, 2, 2, 2, 2, 2, 5, 5]
    assert equal_groups(np.zeros(3, dtype=np.int64), 5) == [0, 0, 0]


def test_users_are_grouped_by_training_explanations_only_and_named_by_their_numbers() -> None:
    # User n has n training explanations; held-out ones do not count.
    explained = [(user, item, "train") for user in range(6) for item in range(user)]
    dataset = dataset_of(6, 7, explained=[*explained, *((user, 6, "test") for user in range(6))])
    pairs = [_pair(user, 6) for user in range(6)]
    groups = make_groups(dataset, pairs, "user_explanations")
    assert groups.names == ("none", "1: 1", "2: 2", "3: 3", "4: 4", "5: 5")
    assert [groups.of(pair) for pair in pairs] == list(groups.names)
    assert {name: rows.tolist() for name, rows in groups.rows(pairs[1:3]).items()} == {
        "1: 1": [True, False],
        "2: 2": [False, True],
    }


def test_explanations_that_nobody_learned_from_do_not_count() -> None:
    explained = [(user, item, "train") for user in range(6) for item in range(user)]
    dataset = dataset_of(6, 7, explained=explained)
    pairs = [_pair(user, 6) for user in range(6)]
    known = drawn_explanations(dataset, dataset.explained_pairs("train"), 4)
    counts = Counter(known["user_index"].to_pylist())
    groups = make_groups(dataset, pairs, "user_explanations", max_explanations=4)
    assert sum(counts.values()) == 4
    assert [groups.of(pair) == "none" for pair in pairs] == [not counts[user] for user in range(6)]


def test_items_are_grouped_by_training_interactions() -> None:
    interactions = [(user, item, "train") for item in range(4) for user in range(3 * item + 1)]
    dataset = dataset_of(12, 5, interactions=[*interactions, (0, 4, "validation")])
    pairs = [_pair(11, item) for item in range(5)]
    groups = make_groups(dataset, pairs, "item_interactions")
    assert [groups.of(pair) for pair in pairs] == ["1: 1", "2: 4", "3: 7", "4: 10", "none"]


def test_groups_that_equal_numbers_leave_empty_are_not_counted() -> None:
    interactions = [(user, item, "train") for user in range(6) for item in range(1 + user // 5)]
    dataset = dataset_of(6, 7, interactions=interactions)
    groups = make_groups(dataset, [_pair(user, 0) for user in range(6)], "user_interactions")
    assert groups.names == ("1: 1", "2: 2")


def test_groups_have_equal_numbers_of_the_users_that_are_scored_not_of_all() -> None:
    interactions = [(user, item, "train") for user in range(20) for item in range(user + 1)]
    dataset = dataset_of(20, 20, interactions=interactions)
    pairs = [_pair(user, 0) for user in range(10, 20) for _ in range(2)]
    groups = make_groups(dataset, pairs, "user_interactions")
    assert [int(rows.sum()) for rows in groups.rows(pairs).values()] == [4, 4, 4, 4, 4]
    assert groups.names[0] == "1: 11 to 12"


def test_groups_by_something_else_or_of_no_pairs_are_refused() -> None:
    dataset = dataset_of(2, 2)
    with pytest.raises(ValueError, match="groups by 'age' of 1 pairs"):
        make_groups(dataset, [_pair(0, 0)], "age")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of 0 pairs"):
        make_groups(dataset, [], "user_explanations")
