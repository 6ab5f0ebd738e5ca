"""Samples of pairs by a seeded hash: the same pairs whatever else is there."""

from collections import Counter

import pyarrow as pa

from xrec.data.dataset import Dataset
from xrec.data.drawn import drawn, drawn_explanations, drawn_pairs
from xrec.data.held_out import HeldOutPair
from xrec.schemas import EXPLANATIONS, ITEMS, USERS
from xrec.storage import Manifest

USER_IDS = [f"u{n % 97}" for n in range(2000)]
ITEM_IDS = [f"i{n}" for n in range(2000)]


def chosen(order: list[int], count: int, seed: int = 0) -> set[tuple[str, str]]:
    users, items = [USER_IDS[n] for n in order], [ITEM_IDS[n] for n in order]
    positions = drawn(users, items, count, seed=seed)
    assert positions == sorted(positions)
    return {(users[n], items[n]) for n in positions}


def test_drawn_other_order_and_company_draws_the_same_pairs() -> None:
    everybody = list(range(2000))
    sample = chosen(everybody, 300)
    assert len(sample) == 300
    assert chosen(everybody[::-1], 300) == sample
    # Without those that were not drawn, the same ones are the first.
    kept = [n for n in everybody if (USER_IDS[n], ITEM_IDS[n]) in sample or n % 3 == 0]
    assert chosen(kept, 300) == sample


def test_drawn_larger_sample_holds_the_smaller_one() -> None:
    everybody = list(range(2000))
    assert chosen(everybody, 100) < chosen(everybody, 300)


def test_drawn_other_seed_draws_others_and_each_pair_is_as_likely() -> None:
    everybody = list(range(2000))
    counts = Counter(pair for seed in range(100) for pair in chosen(everybody, 500, seed))
    # A pair is drawn 25 times in 100, with a standard deviation of 4.3.
    assert max(counts.values()) < 50
    assert len(counts) == 2000


def test_drawn_no_count_or_a_large_one_draws_all() -> None:
    assert drawn(["a", "b"], ["x", "y"], None, seed=0) == [0, 1]
    assert drawn(["a", "b"], ["x", "y"], 7, seed=0) == [0, 1]


def test_drawn_the_same_concatenation_is_another_pair() -> None:
    users, items = ["a", "ab"] * 20, ["bc", "c"] * 20
    first = {drawn(users[:2], items[:2], 1, seed=seed)[0] for seed in range(30)}
    assert first == {0, 1}


def test_drawn_pairs_are_those_of_the_positions_in_their_order() -> None:
    pairs = [HeldOutPair(USER_IDS[n], ITEM_IDS[n], 0, 0, "text") for n in range(200)]
    positions = drawn(USER_IDS[:200], ITEM_IDS[:200], 50, seed=3)
    assert drawn_pairs(pairs, 50, seed=3) == [pairs[n] for n in positions]
    assert drawn_pairs(pairs, None, seed=3) == pairs


def test_drawn_explanations_are_rows_in_their_order() -> None:
    manifest = Manifest.model_construct()
    users = pa.table({"user_id": ["a", "b"], "user_index": [0, 1], "profile": ["", ""]}).cast(USERS)
    items = pa.table(
        {"item_id": ["x", "y"], "item_index": [0, 1], "title": ["", ""], "profile": ["", ""]}
    ).cast(ITEMS)
    rows = pa.table(
        {
            "user_index": [0, 0, 1, 1],
            "item_index": [0, 1, 0, 1],
            "explanation": ["ax", "ay", "bx", "by"],
            "split": ["train"] * 4,
        }
    ).cast(EXPLANATIONS)
    dataset = Dataset(manifest, users, items, rows, rows)
    expected = drawn(["a", "a", "b", "b"], ["x", "y", "x", "y"], 2, seed=5)
    found = drawn_explanations(dataset, rows, 2, seed=5)["explanation"].to_pylist()
    assert found == [["ax", "ay", "bx", "by"][n] for n in expected]
