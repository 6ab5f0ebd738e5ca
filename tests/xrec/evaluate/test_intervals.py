"""Intervals over users and seeds: how often they cover the truth, and what each part adds."""

import numpy as np
import pytest
from scipy import stats

from xrec.evaluate.intervals import difference_interval, mean_interval


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
    for _ in range(1000):
        found = mean_interval(*_world(rng, 3, of_seeds=of_seeds, of_users=of_users))
        covered.append(found.low < 0 < found.high)
    assert 0.93 < np.mean(covered) < 0.97


def test_interval_of_users_with_equally_many_pairs_is_that_of_their_means_by_scipy():
    values, users = _world(np.random.default_rng(3), 1, of_seeds=0.0, of_users=1.0)
    found = mean_interval(values[0], users)
    theirs = stats.ttest_1samp(values.reshape(40, 5).mean(axis=1), 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    single = mean_interval(values[0], range(200))
    theirs = stats.ttest_1samp(values[0], 0).confidence_interval()
    assert (single.low, single.high) == pytest.approx((theirs.low, theirs.high))


def test_mean_is_over_all_pairs_whatever_their_number_a_user():
    estimate = mean_interval([2.0, 2.0, 2.0, 0.0], ["a", "a", "a", "b"])
    # Residuals 3/2 and -3/2 of 4 pairs, two users: standard error 2 * 3/8, t of one degree 12.7.
    assert estimate.value == 1.5
    assert estimate.high - estimate.value == pytest.approx(12.706 * 0.75, rel=1e-3)


@pytest.mark.parametrize(("mean", "num_users"), [(0.5, 40), (0.97, 60), (0.05, 4)])
def test_interval_of_a_share_is_within_0_and_1_and_covers_it(mean, num_users):
    """Users differ, by a beta distribution; exact intervals are rather too wide."""
    rng, covered = np.random.default_rng(5), []
    users = np.repeat(np.arange(num_users), 5)
    for _ in range(1000):
        of_users = rng.beta(4 * mean, 4 * (1 - mean), num_users)
        found = mean_interval(rng.random(len(users)) < of_users[users], users.tolist())
        assert 0 <= found.low <= found.value <= found.high <= 1
        covered.append(found.low < mean < found.high)
    assert np.mean(covered) > 0.94


def test_interval_of_a_share_of_independent_values_is_that_of_scipy():
    for ones in (0, 1, 37, 300):
        found = mean_interval(np.arange(300) < ones, range(300))
        theirs = stats.binomtest(ones, 300).proportion_ci(method="exact")
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-3)
    same = mean_interval(np.ones(300, np.bool_), [number // 3 for number in range(300)])
    theirs = stats.binomtest(100, 100).proportion_ci(method="exact")  # a hundred users
    assert (same.low, same.high) == pytest.approx((theirs.low, theirs.high))


def test_difference_is_paired_so_that_what_pairs_share_does_not_widen_it():
    rng = np.random.default_rng(4)
    base = rng.normal(0, 5, 200)
    ours, theirs = base + 1.0 + rng.normal(0, 0.1, (3, 200)), base + rng.normal(0, 0.1, (3, 200))
    users = [number // 5 for number in range(200)]
    found = difference_interval(ours, theirs, users)
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    assert 0.9 < found.low < 1.0 < found.high < 1.1


def test_difference_to_a_entry_without_seeds_has_the_seeds_of_the_other_one_only():
    seeds = np.array([0.0, 1.0, 2.0])[:, None] + np.zeros((3, 50))
    fixed, users = np.zeros((1, 50)), list(range(50))
    found = difference_interval(seeds, fixed, users)
    # Three values 0, 1, 2: standard error 1 / sqrt(3), t of two degrees of freedom 4.30.
    assert found.value == 1.0
    assert found.high - found.value == pytest.approx(4.3027 / np.sqrt(3), rel=1e-3)
    same = difference_interval(fixed + 2.0, fixed, users)
    assert (same.low, same.value, same.high) == (2.0, 2.0, 2.0)


def test_pairs_without_a_value_on_either_side_are_left_out():
    ours, theirs = np.array([[1.0, np.nan, 5.0, 2.0]]), np.array([[0.0, 0.0, np.nan, 0.0]])
    assert difference_interval(ours, theirs, ["a", "b", "c", "d"]).value == 1.5


def test_one_user_alone_has_no_interval():
    values = np.array([[0.1, 0.9], [0.3, 0.7]])
    for found in (
        mean_interval(values, ["u", "u"]),
        difference_interval(values, values - 1, ["u", "u"]),
    ):
        assert found.low is found.high is None
