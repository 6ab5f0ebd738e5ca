"""The sample: a town whose texts follow the latent taste, and a language model for it."""

from collections import Counter

import numpy as np
import pytest
import torch

from xrec.config import PromptConfig, SampleSource
from xrec.sample import ASPECTS, generate_language_examples, generate_town
from xrec.sample.language_model import train_sample_model

COUNTS = {"num_users": 200, "num_items": 100, "interactions_per_user": 24}
SOURCE = SampleSource(kind="sample", explanations_per_user=8, **COUNTS)


@pytest.fixture(scope="module")
def town():
    return generate_town(SOURCE)


def _names(text: str) -> list[int]:
    return [index for index, aspect in enumerate(ASPECTS) if aspect in text.lower()]


def test_generate_town_gives_each_item_its_own_title():
    """There are more items than plain titles."""
    assert len(set(generate_town(SOURCE.model_copy(update={"num_items": 700})).item_titles)) == 700


def test_generate_town_makes_the_same_town_again(town):
    again = generate_town(SOURCE)
    assert again.explanations == town.explanations
    assert again.item_profiles == town.item_profiles
    np.testing.assert_array_equal(again.visits, town.visits)


def test_texts_name_the_right_aspects_and_no_others(town):
    for profile, aspects in zip(town.item_profiles, town.item_aspects, strict=True):
        assert _names(profile) == sorted(aspects)
    explanations = iter(town.explanations)
    for user in range(200):
        for item in town.visits[user, :8]:
            best = max(town.item_aspects[item], key=lambda aspect: town.taste[user, aspect])
            assert _names(next(explanations)) == [best]
    assert all(_names(text) == [] for text in town.user_profiles + town.item_titles)


EXAMPLES = generate_language_examples(2000, seed=0)


def _in_order(text: str) -> list[str]:
    """Return the aspects that the text names, in its order."""
    return sorted((aspect for aspect in ASPECTS if aspect in text.lower()), key=text.lower().index)


def test_language_examples_name_the_items_first_stated_aspect():
    num_without, named = 0, Counter[str]()
    for example in EXAMPLES:
        stated, offered = _in_order(example.user_profile), _in_order(example.item_profile)
        assert 1 <= len(stated) <= 3
        assert len(offered) == 4
        liked = [aspect for aspect in stated if aspect in offered]
        assert _in_order(example.explanation) == [(liked or offered)[0]]
        num_without += not liked
        named[(liked or offered)[0]] += 1
        assert example.item_title in example.explanation
    assert 0.15 < num_without / len(EXAMPLES) < 0.4
    assert set(named) == set(ASPECTS)
    assert max(named.values()) < 1.5 * min(named.values())


def test_train_sample_model_learns_and_repeats_with_its_seed(monkeypatch):
    tiny = {"HIDDEN_SIZE": 32, "NUM_LAYERS": 1, "VOCAB_SIZE": 400}
    for name, value in {**tiny, "NUM_COPY_STEPS": 1, "BATCH_SIZE": 4}.items():
        monkeypatch.setattr(f"xrec.sample.language_model.{name}", value)
    model, tokenizer, loss = train_sample_model(6, PromptConfig())
    again = train_sample_model(6, PromptConfig())
    assert loss == again[2]
    assert all(
        torch.equal(left, right)
        for left, right in zip(model.parameters(), again[0].parameters(), strict=True)
    )
    monkeypatch.setattr("xrec.sample.language_model.LEARNING_RATE", 1e-2)
    assert train_sample_model(30, PromptConfig())[2] < loss - 0.3
    assert model.config.vocab_size == len(tokenizer) == 400
    assert not model.training
