import numpy as np
import pytest

from xrec.evaluate import bootstrap
from xrec.evaluate.bootstrap import bootstrap_mean


def of_single_values(values, **settings):
    """Of values that are each a group of their own."""
    return bootstrap_mean(values, list(range(len(values))), **settings)


def test_bootstrap_interval_agrees_with_the_normal_theory_on_many_values():
    values = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    estimate = of_single_values(values, num_samples=4000, seed=0)
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(values.size)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert estimate.high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_bootstrap_of_one_seed_repeats_and_of_another_differs():
    first, again, other = (
        of_single_values([0.0, 1.0, 5.0, 2.0, 7.5], num_samples=200, seed=seed)
        for seed in (3, 3, 4)
    )
    assert first == again != other


def test_bootstrap_in_many_blocks_draws_every_resample(monkeypatch):
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 10)
    estimate = of_single_values([0.0, 1.0, 2.0, 3.0], num_samples=1001, seed=0)
    assert estimate.value == 1.5
    assert 0.0 < estimate.low < 1.5 < estimate.high < 3.0
    assert bootstrap._resampled_means(np.arange(4.0), np.ones(4, int), 1001, 0).shape == (1001,)


def test_bootstrap_of_booleans_is_a_share_and_of_a_constant_has_no_width():
    assert of_single_values([True, False, True, True], num_samples=100, seed=0).value == 0.75
    constant = of_single_values([2.0] * 5, num_samples=100, seed=0)
    assert (constant.low, constant.high) == (2.0, 2.0)


def test_grouped_bootstrap_of_repeated_values_is_as_wide_as_without_the_repeats():
    """Pairs of one user that all say the same are one observation, however many there are.

    If they were taken as independent, the interval would be too narrow.
    """
    values = np.random.default_rng(5).normal(size=40)
    once = of_single_values(values, num_samples=500, seed=2)
    repeated, users = (
        np.repeat(values, 9),
        [f"user-{number}" for number in np.repeat(np.arange(40), 9)],
    )
    grouped = bootstrap_mean(repeated, users, num_samples=500, seed=2)
    assert (grouped.value, grouped.low, grouped.high) == pytest.approx(
        (once.value, once.low, once.high)
    )
    naive = of_single_values(repeated, num_samples=500, seed=2)
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)


def test_grouped_bootstrap_mean_is_over_all_values_whatever_the_sizes_of_the_groups():
    estimate = bootstrap_mean([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"], num_samples=2000, seed=0)
    assert estimate.value == 2.0
    assert (estimate.low, estimate.high) == (
        1.0,
        5.0,
    )  # all of one group drawn: a quarter of the samples each
