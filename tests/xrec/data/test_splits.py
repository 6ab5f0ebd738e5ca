"""Splits by hash: the same pair always lands in the same split, in the configured shares."""

import random
from collections import Counter

import pytest

from tests.xrec.data.test_dataset import TABLES
from xrec.config.data import SplitShares
from xrec.data.dataset import Dataset, HeldOutPair
from xrec.data.splits import drawn, drawn_explanations, drawn_pairs, pair_fraction, split_pairs
from xrec.storage import Manifest

SHARES = SplitShares(validation=0.1, test=0.2, seed=0)
PAIRS = [(f"user {n % 97}", f"item {n}") for n in range(10_000)]


def _split(pairs: list[tuple[str, str]], shares: SplitShares = SHARES) -> list[str]:
    return list(split_pairs([user for user, _ in pairs], [item for _, item in pairs], shares))


def test_split_pairs_many_pairs_meet_the_shares():
    counts = Counter(_split(PAIRS))
    # Four standard deviations of a binomial with n = 10,000.
    assert counts["test"] == pytest.approx(2000, abs=160)
    assert counts["validation"] == pytest.approx(1000, abs=120)
    assert counts.total() == len(PAIRS)
    assert set(_split(PAIRS, SplitShares(validation=0, test=0))) == {"train"}


def test_split_of_a_pair_depends_on_its_ids_and_the_seed_alone():
    splits = _split(PAIRS)
    shuffled = random.Random(1).sample(range(len(PAIRS)), 500)
    assert _split([PAIRS[n] for n in shuffled]) == [splits[n] for n in shuffled]
    larger = _split(PAIRS, SHARES.model_copy(update={"test": 0.3}))
    assert all(
        after == "test" for before, after in zip(splits, larger, strict=True) if before == "test"
    )
    other = _split(PAIRS, SHARES.model_copy(update={"seed": 1}))
    assert sum(a != b for a, b in zip(splits, other, strict=True)) > 3000
    assert pair_fraction("a", "bc", 0) != pair_fraction("ab", "c", 0)
    # Datasets that were split before, by another release too, must be split so again.
    assert pair_fraction("zoë", "7", 3) == 0.7541063124271723


USER_IDS = [f"u{n % 97}" for n in range(2000)]
ITEM_IDS = [f"i{n}" for n in range(2000)]
EVERYBODY = list(range(2000))


def chosen(order: list[int], count: int, seed: int = 0) -> set[tuple[str, str]]:
    users, items = [USER_IDS[n] for n in order], [ITEM_IDS[n] for n in order]
    positions = drawn(users, items, count, seed=seed)
    assert positions == sorted(positions)
    return {(users[n], items[n]) for n in positions}


def test_drawn_other_order_and_company_draws_the_same_pairs():
    sample = chosen(EVERYBODY, 300)
    assert len(sample) == 300
    assert chosen(EVERYBODY[::-1], 300) == sample
    # Without those that were not drawn, the same ones are the first.
    kept = [n for n in EVERYBODY if (USER_IDS[n], ITEM_IDS[n]) in sample or n % 3 == 0]
    assert chosen(kept, 300) == sample
    assert chosen(EVERYBODY, 100) < sample


def test_drawn_other_seed_draws_others_and_each_pair_is_as_likely():
    counts = Counter(pair for seed in range(100) for pair in chosen(EVERYBODY, 500, seed))
    # A pair is drawn 25 times in 100, with a standard deviation of 4.3.
    assert max(counts.values()) < 50
    assert len(counts) == 2000


def test_drawn_no_count_or_a_large_one_draws_all():
    for count in (None, 7):
        assert drawn(["a", "b"], ["x", "y"], count, seed=0) == [0, 1]
    # The same concatenation is another pair.
    assert {drawn(["a", "ab"], ["bc", "c"], 1, seed=seed)[0] for seed in range(30)} == {0, 1}


def test_drawn_pairs_and_explanations_are_those_of_the_positions_in_their_order():
    pairs = [HeldOutPair(USER_IDS[n], ITEM_IDS[n], 0, 0, "text") for n in range(200)]
    positions = drawn(USER_IDS[:200], ITEM_IDS[:200], 50, seed=3)
    assert drawn_pairs(pairs, 50, seed=3) == [pairs[n] for n in positions]
    assert drawn_pairs(pairs, None, seed=3) == pairs
    dataset = Dataset(Manifest.model_construct(), **TABLES)
    for seed in range(5):
        (place,) = drawn(["ann", "anna-lena"], ["y", "y"], 1, seed=seed)
        found = drawn_explanations(dataset, TABLES["explanations"], 1, seed=seed)
        assert found["explanation"].to_pylist() == ["ef"[place]]
