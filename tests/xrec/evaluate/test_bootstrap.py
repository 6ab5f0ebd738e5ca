import numpy as np
import pytest

from xrec.evaluate import bootstrap
from xrec.evaluate.bootstrap import bootstrap_mean


def test_bootstrap_interval_agrees_with_the_normal_theory_on_many_values():
    values = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    estimate = bootstrap_mean(values, num_samples=4000, seed=0)
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(values.size)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert estimate.high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_bootstrap_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(2)
    estimates = [bootstrap_mean(rng.exponential(1.0, 100), num_samples=300, seed=run) for run in range(400)]
    assert 0.90 < np.mean([estimate.low <= 1.0 <= estimate.high for estimate in estimates]) < 0.98


def test_bootstrap_of_one_seed_repeats_and_of_another_differs():
    values = [0.0, 1.0, 5.0, 2.0, 7.5]
    assert bootstrap_mean(values, num_samples=200, seed=3) == bootstrap_mean(values, num_samples=200, seed=3)
    assert bootstrap_mean(values, num_samples=200, seed=3) != bootstrap_mean(values, num_samples=200, seed=4)


def test_bootstrap_in_many_blocks_draws_every_resample(monkeypatch):
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 10)
    estimate = bootstrap_mean([0.0, 1.0, 2.0, 3.0], num_samples=1001, seed=0)
    assert estimate.value == 1.5
    assert 0.0 < estimate.low < 1.5 < estimate.high < 3.0
    assert bootstrap._resampled_means(np.arange(4.0), 1001, 0).shape == (1001,)


def test_bootstrap_of_booleans_is_a_share_and_of_a_constant_has_no_width():
    assert bootstrap_mean([True, False, True, True], num_samples=100, seed=0).value == 0.75
    constant = bootstrap_mean([2.0] * 5, num_samples=100, seed=0)
    assert (constant.low, constant.high) == (2.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0]]])
def test_bootstrap_of_unusable_values_is_refused(values):
    with pytest.raises(ValueError, match="finite numbers in one dimension"):
        bootstrap_mean(values, num_samples=100, seed=0)
