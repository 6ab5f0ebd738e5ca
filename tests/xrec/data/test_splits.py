"""Splits by hash: the same pair always lands in the same split, in the configured shares."""

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from xrec.config.data import SplitShares
from xrec.data.splits import pair_fraction, split_pairs

SHARES = SplitShares(validation=0.1, test=0.2, seed=0)
PAIRS = [(f"user {n % 97}", f"item {n}") for n in range(10_000)]


def _split(pairs: list[tuple[str, str]], shares: SplitShares = SHARES) -> list[str]:
    return list(split_pairs([user for user, _ in pairs], [item for _, item in pairs], shares))


def test_split_pairs_many_pairs_meet_the_shares() -> None:
    counts = Counter(_split(PAIRS))
    # Four standard deviations of a binomial with n = 10,000.
    assert counts["test"] == pytest.approx(2000, abs=160)
    assert counts["validation"] == pytest.approx(1000, abs=120)
    assert counts.total() == len(PAIRS)
    assert set(_split(PAIRS, SplitShares(validation=0, test=0))) == {"train"}


def test_split_of_a_pair_depends_on_its_ids_and_the_seed_alone() -> None:
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


def test_pair_fraction_in_another_process_is_the_same() -> None:
    code = "from xrec.data.splits import pair_fraction; print(repr(pair_fraction('zoë', '7', 3)))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert float(run.stdout) == pair_fraction("zoë", "7", 3)
