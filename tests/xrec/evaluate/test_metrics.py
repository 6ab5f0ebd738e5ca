"""Metrics of scored pairs by hand, and their intervals over users and seeds."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.xrec.evaluate.conftest import make_config, scored
from xrec.errors import Failure
from xrec.evaluate.intervals import Estimate, difference_interval, mean_interval
from xrec.evaluate.metrics import compute_metrics as compute
from xrec.evaluate.scores import Coverage, other_users
from xrec.evaluate.text_metrics import aspect_pattern, named_aspects
from xrec.generate.explainer import Explanation

CONFIG = make_config()


def compute_metrics(pairs: list, config: object) -> dict[str, Estimate]:
    return {metric.name: estimate for metric, estimate in compute(pairs, config).items()}


def test_metrics_of_pairs_equal_their_means_and_shares_stay_within_0_and_1(pairs):
    metrics = compute_metrics(pairs, CONFIG)
    gain, gains = metrics["personalization_gain"], [p.nll_shuffled - p.nll_own for p in pairs]
    assert gain.value == pytest.approx(np.mean(gains))
    assert gain.low < gain.value < gain.high
    assert metrics["nll_own"].value == pytest.approx(np.mean([pair.nll_own for pair in pairs]))
    named = [pair.aspect in pair.explanation for pair in pairs]
    expected = mean_interval(named, [pair.user_id for pair in pairs])
    assert metrics["aspect_accuracy"] == expected
    assert metrics["coverage"].high == 1 > metrics["coverage"].low


def test_aspect_accuracies_compare_with_the_original_users_aspect():
    planted = {"reference": "Enjoy the jazz.", "aspect": "Jazz", "aspects": ("Jazz", "view")}
    many = {**planted, "aspects": ("Jazz", "view", "patio", "bar")}
    pairs = [
        scored("a", "Such jazz.", shuffled_explanation="What a view.", **planted),
        scored("b", "A view.", shuffled_explanation="Jazz!", **planted),
        scored("c", "Jazz, a view.", shuffled_explanation="", **planted),
        scored("d", "Jazz.", shuffled_explanation="Jazz, a view.", **many),
    ]
    metrics = compute_metrics(pairs, CONFIG)
    assert metrics["aspect_accuracy"].value == pytest.approx(2 / 4)
    assert metrics["aspect_accuracy_shuffled"].value == pytest.approx(1 / 4)
    assert metrics["aspect_chance"].value == pytest.approx((3 / 2 + 1 / 4) / 4)
    assert metrics["aspect_accuracy_references"].value == 1.0


def test_failed_texts_count_as_empty_in_every_metric():
    planted = {"aspect": "jazz", "aspects": ("jazz", "view"), "item_title": "The Fox"}
    pairs = [
        scored("a", "r", shuffled_explanation="", names_item=True, **planted),
        scored("b", "", shuffled_explanation="Jazz.", names_item=False, **planted),
    ]
    metrics = compute_metrics(pairs, CONFIG)
    for name in ("coverage", "rouge_l", "names_item", "aspect_accuracy_shuffled"):
        assert metrics[name].value == 0.5, name
    assert next(iter(metrics)) == "coverage"
    assert metrics["words"].value == 0.5


def test_pairs_with_too_long_a_prompt_count_in_all_but_the_likelihoods():
    long = replace(scored("a", "r"), nll_own=None, nll_shuffled=None)
    metrics = compute_metrics([long, scored("b", "r")], CONFIG)
    assert (metrics["rouge_l"].value, metrics["nll_own"].value) == (1.0, 1.0)
    assert "nll_own" not in compute_metrics([long], CONFIG)


def test_title_metrics_are_shares_of_the_texts_that_name_a_title():
    named = {"item_title": "The Fox"}
    pairs = [
        scored("a", "The Fox.", names_item=True, **named),
        scored("b", "The Fox is no Hen.", names_item=True, other_title="Hen", **named),
        scored("c", "The Hen.", names_item=False, other_title="Hen", **named),
        scored("d", "It.", names_item=False, item_title="Elk"),
        scored("e", "It.", names_item=None),
    ]
    metrics = compute_metrics(pairs, CONFIG)
    assert metrics["title_accuracy"].value == pytest.approx(1 / 3)
    assert metrics["names_item"].value == pytest.approx(2 / 4)
    assert metrics["names_another_item"].value == pytest.approx(2 / 4)


def test_complaints_are_a_share_of_the_texts_for_users_who_complain():
    verdicts = (True, False, False, None)
    pairs = [
        scored(user, "It.", names_complaint=v) for user, v in zip("abcd", verdicts, strict=True)
    ]
    assert compute_metrics(pairs, CONFIG)["names_complaint"].value == pytest.approx(1 / 3)
    assert "names_complaint" not in compute_metrics(pairs[3:], CONFIG)


def test_aspects_supported_counts_texts_without_an_aspect_that_the_item_lacks():
    planted = {"aspect": "jazz", "aspects": ("jazz", "view")}
    pairs = [
        scored("a", "Jazz.", **planted),
        scored("b", "A view and jazz.", **planted),
        scored("c", "Nothing.", **planted),
        scored("d", "Jazz and a patio.", **planted),
        scored("e", "A patio.", aspect="patio", aspects=("patio", "view")),
    ]
    metrics = compute_metrics(pairs, CONFIG)
    assert metrics["aspects_supported"].value == 4 / 5
    # The patio of d's text is no aspect of its item.
    assert metrics["aspect_accuracy"].value == 2 / 5


# Texts

PHRASES = ["patio", "dog-friendly patio", "Live Jazz", "view", "live music", "live music nights"]
PATTERN = aspect_pattern([*PHRASES, "c++ bar", "c.* bar"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Come for the LIVE \njazz tonight", {"live jazz"}),
        ("A patio awaits, and a dog-friendly patio too.", {"patio", "dog-friendly patio"}),
        ("An interview in the reviews.", set()),
        ("a c++ bar", {"c++ bar"}),  # taken literally
        ("Live music nights!", {"live music nights"}),  # the longer phrase first
    ],
)
def test_named_aspects_are_whole_phrases_in_any_case_and_spacing(text, named):
    assert named_aspects(text, PATTERN) == named


# Pairs

USERS = [f"u{number % 7}" for number in range(30)]


def test_coverage_counts_reasons_of_missing_texts_and_texts_of_a_template():
    failure = Failure("no_full_sentence", "no sentence ends")
    kinds = [(None, "plain"), (failure, "written"), (None, "written")]
    written = [
        Explanation(n, "", 1, 1, "stop", each, kind=kind) for n, (each, kind) in enumerate(kinds)
    ]
    failed = {"no_full_sentence": 1, "prompt_too_long": 2}
    assert Coverage.of(written, 2) == Coverage(2, failed, 1)
    assert Coverage.of(written[:1], 0) == Coverage(1, {}, 1)


@pytest.mark.parametrize("seed", range(5))
def test_other_user_is_never_the_same_and_each_is_used_once(seed):
    stand_ins = dict(zip(USERS, other_users(USERS, seed), strict=True))
    assert all(user != other for user, other in stand_ins.items())
    assert sorted(stand_ins.values()) == sorted(set(USERS))
    backward = dict(zip(USERS[::-1], other_users(USERS[::-1], seed), strict=True))
    assert backward == stand_ins  # in any order of the pairs


def test_other_users_change_with_the_seed_and_two_stand_in_for_each_other():
    assert len({tuple(other_users(USERS, seed)) for seed in range(10)}) > 1
    assert other_users(["a", "a", "a", "b"], 0) == ["b", "b", "b", "a"]


# Intervals


def _world(rng: np.random.Generator, num_seeds: int, *, of_seeds: float, of_users: float) -> tuple:
    """Return values (S, 200) of 40 users with 5 pairs each, whose true mean is 0."""
    users = np.repeat(np.arange(40), 5)
    values = (
        rng.normal(0, of_seeds, (num_seeds, 1))
        + rng.normal(0, of_users, 40)[users]
        + rng.normal(0, 0.3, (num_seeds, 200))
    )
    return values, users.tolist()


@pytest.mark.parametrize(("of_seeds", "of_users"), [(0.5, 0.1), (0.2, 1.0)], ids=["seeds", "both"])
def test_interval_over_three_seeds_covers_the_true_mean_in_95_of_100_cases(of_seeds, of_users):
    rng, covered = np.random.default_rng(1), []
    for _ in range(1000):
        found = mean_interval(*_world(rng, 3, of_seeds=of_seeds, of_users=of_users))
        covered.append(found.low < 0 < found.high)
    assert 0.93 < np.mean(covered) < 0.97


def test_interval_of_users_with_equally_many_pairs_is_that_of_their_means_by_scipy():
    (values,), users = _world(np.random.default_rng(3), 1, of_seeds=0.0, of_users=1.0)
    means = values.reshape(40, 5).mean(axis=1)
    for found, of_each in (
        (mean_interval(values, users), means),
        (mean_interval(values, range(200)), values),
    ):
        theirs = stats.ttest_1samp(of_each, 0).confidence_interval()
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_mean_is_over_all_pairs_even_if_users_have_different_numbers():
    estimate = mean_interval([2.0, 2.0, 2.0, 0.0], ["a", "a", "a", "b"])
    # Residuals 3/2 and -3/2 of 4 pairs, two users: standard error 2 * 3/8, t of one degree 12.7.
    assert estimate.value == 1.5
    assert estimate.high - estimate.value == pytest.approx(12.706 * 0.75, rel=1e-3)


@pytest.mark.parametrize(("mean", "num_users"), [(0.97, 60), (0.05, 4)])
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
    same = np.ones(300, np.bool_), [number // 3 for number in range(300)]  # a hundred users
    cases = [(ones, 300, (np.arange(300) < ones, range(300))) for ones in (0, 1, 37, 300)]
    for ones, count, values in [*cases, (100, 100, same)]:
        found = mean_interval(*values)
        theirs = stats.binomtest(ones, count).proportion_ci(method="exact")
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-3)


def test_difference_to_an_entry_without_seeds_varies_by_the_other_ones_seeds():
    seeds = np.array([0.0, 1.0, 2.0])[:, None] + np.zeros((3, 50))
    fixed, users = np.zeros((1, 50)), list(range(50))
    found = difference_interval(seeds, fixed, users)
    # Three values 0, 1, 2: standard error 1 / sqrt(3), t of two degrees of freedom 4.30.
    assert found.value == 1.0
    assert found.high - found.value == pytest.approx(4.3027 / np.sqrt(3), rel=1e-3)
    same = difference_interval(fixed + 2.0, fixed, users)
    assert (same.low, same.value, same.high) == (2.0, 2.0, 2.0)


def test_one_user_alone_has_no_interval():
    values = np.array([[0.1, 0.9], [0.3, 0.7]])
    alone = mean_interval(values, ["u", "u"]), difference_interval(values, values - 1, ["u", "u"])
    assert all(found.low is found.high is None for found in alone)
