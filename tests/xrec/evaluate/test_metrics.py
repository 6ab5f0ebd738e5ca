from dataclasses import replace

import numpy as np
import pytest

from tests.xrec.evaluate.conftest import make_config, scored
from xrec.evaluate.descriptions import DESCRIPTIONS
from xrec.evaluate.intervals import Estimate
from xrec.evaluate.metrics import compute_metrics, flat_metrics

CONFIG = make_config()


def test_metrics_of_pairs_equal_their_means(pairs):
    metrics = compute_metrics(pairs, CONFIG)
    gains = np.array([pair.nll_shuffled - pair.nll_own for pair in pairs])
    assert metrics["personalization_gain"].value == pytest.approx(gains.mean())
    assert metrics["personalization_gain"].low < gains.mean() < metrics["personalization_gain"].high
    own = [pair.nll_own for pair in pairs]
    assert metrics["nll_own"].value == pytest.approx(np.mean(own))


def test_aspect_accuracies_are_counted_against_the_original_users_aspect():
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


def test_texts_that_failed_count_as_empty_ones_in_every_metric():
    planted = {"aspect": "jazz", "aspects": ("jazz", "view"), "item_title": "The Fox"}
    pairs = [
        scored("a", "r", shuffled_explanation="", names_item=True, **planted),
        scored("b", "", shuffled_explanation="Jazz.", names_item=False, **planted),
    ]
    metrics = compute_metrics(pairs, CONFIG)
    for name in ("coverage", "rouge_l", "names_item", "aspect_accuracy_shuffled"):
        assert metrics[name].value == 0.5, name
    assert next(iter(metrics)) == "coverage"
    assert metrics["mean_words"].value == 0.5


def test_pairs_whose_prompt_is_too_long_count_in_all_but_the_likelihoods():
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


def test_title_metrics_are_left_out_where_there_is_nothing_to_name():
    metrics = compute_metrics([scored("a", "It."), scored("b", "It.")], CONFIG)
    assert not {"title_accuracy", "names_item", "names_another_item"} & set(metrics)
    assert not [name for name in metrics if name.startswith("aspect")]  # none is planted
    silent = [scored(user, "It.", names_item=False) for user in "ab"]
    metrics = compute_metrics(silent, CONFIG)
    assert "title_accuracy" not in metrics
    assert metrics["names_item"].value == 0


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


def test_metrics_come_in_the_order_of_their_descriptions(pairs):
    names = list(compute_metrics(pairs, CONFIG))
    assert names == [name for name in DESCRIPTIONS if name in names]


def test_flat_metrics_hold_values_and_intervals_where_there_are_any():
    metrics = {"bleu": Estimate(3.0), "nll_own": Estimate(2.0, 1.5, 2.5)}
    assert flat_metrics(metrics) == {
        "bleu": 3.0,
        "nll_own": 2.0,
        "nll_own_low": 1.5,
        "nll_own_high": 2.5,
    }
