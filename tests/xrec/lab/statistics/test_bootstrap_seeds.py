"""Intervals over users and seeds: how often they cover the truth, and what each part adds."""

import numpy as np
import pytest

from xrec.evaluate.bootstrap import bootstrap_mean
from xrec.lab.statistics import bootstrap_seeds
from xrec.lab.statistics.bootstrap_seeds import bootstrap_difference, bootstrap_over_seeds

SETTINGS = {"num_samples": 400, "seed": 0}


def _world(rng: np.random.Generator, num_seeds: int, *, of_seeds: float, of_users: float) -> tuple:
    """Values (S, 200) of 40 users with 5 pairs each, whose true mean is 0."""
    users = np.repeat(np.arange(40), 5)
    values = (
        rng.normal(0, of_seeds, (num_seeds, 1))
        + rng.normal(0, of_users, 40)[users]
        + rng.normal(0, 0.3, (num_seeds, 200))
    )
    return values, users.tolist()


@pytest.mark.parametrize(
    ("of_seeds", "of_users"), [(0.5, 0.1), (0.1, 1.0), (0.2, 1.0)], ids=["seeds", "users", "both"]
)
def test_interval_over_three_seeds_covers_the_true_mean_in_95_of_100_cases(of_seeds, of_users):
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(250):
        values, users = _world(rng, 3, of_seeds=of_seeds, of_users=of_users)
        found = bootstrap_over_seeds(values, users, **SETTINGS)
        covered.append(found.low < 0 < found.high)
    assert 0.91 < np.mean(covered) < 0.995


def test_interval_of_one_seed_is_about_that_of_the_bootstrap_over_users():
    values, users = _world(np.random.default_rng(3), 1, of_seeds=0.0, of_users=1.0)
    found = bootstrap_over_seeds(values, users, num_samples=4000, seed=0)
    plain = bootstrap_mean(values[0], users, num_samples=4000, seed=0)
    assert found.value == pytest.approx(plain.value)
    assert found.high - found.low == pytest.approx(plain.high - plain.low, rel=0.1)


def test_difference_is_paired_so_that_what_pairs_share_does_not_widen_it():
    rng = np.random.default_rng(4)
    base = rng.normal(0, 5, 200)
    ours, theirs = base + 1.0 + rng.normal(0, 0.1, (3, 200)), base + rng.normal(0, 0.1, (3, 200))
    users = [number // 5 for number in range(200)]
    found = bootstrap_difference(ours, theirs, users, **SETTINGS)
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    assert 0.9 < found.low < 1.0 < found.high < 1.1


def test_difference_to_a_entry_without_seeds_has_the_seeds_of_the_other_one_only():
    seeds = np.array([0.0, 1.0, 2.0])[:, None] + np.zeros((3, 50))
    fixed, users = np.zeros((1, 50)), list(range(50))
    found = bootstrap_difference(seeds, fixed, users, **SETTINGS)
    # Three values 0, 1, 2: standard error 1 / sqrt(3), t of two degrees of freedom 4.30.
    assert found.value == 1.0
    assert found.high - found.value == pytest.approx(4.3027 / np.sqrt(3), rel=0.1)
    same = bootstrap_difference(fixed + 2.0, fixed, users, **SETTINGS)
    assert (same.low, same.value, same.high) == (2.0, 2.0, 2.0)


def test_interval_in_many_blocks_is_about_that_in_one(monkeypatch):
    values, users = _world(np.random.default_rng(5), 3, of_seeds=0.2, of_users=1.0)
    whole = bootstrap_over_seeds(values, users, num_samples=2000, seed=0)
    monkeypatch.setattr(bootstrap_seeds, "_MAX_DRAWS", 40 * 300)
    blocks = bootstrap_over_seeds(values, users, num_samples=2000, seed=0)
    assert blocks.value == whole.value
    assert blocks.high - blocks.low == pytest.approx(whole.high - whole.low, rel=0.1)
    assert bootstrap_over_seeds(values, users, num_samples=2000, seed=0) == blocks


def test_pairs_without_a_value_on_either_side_are_left_out():
    ours, theirs = np.array([[1.0, np.nan, 5.0, 2.0]]), np.array([[0.0, 0.0, np.nan, 0.0]])
    found = bootstrap_difference(ours, theirs, ["a", "b", "c", "d"], **SETTINGS)
    assert found.value == 1.5


def test_one_user_alone_has_no_interval():
    values = np.array([[0.1, 0.9], [0.3, 0.7]])
    for found in (
        bootstrap_over_seeds(values, ["u", "u"], num_samples=100, seed=0),
        bootstrap_difference(values, values - 1, ["u", "u"], num_samples=100, seed=0),
    ):
        assert found.low is found.high is None
