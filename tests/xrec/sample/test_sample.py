"""The sample: a town whose texts follow the latent taste, and a language model for it."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.errors import raises
from xrec.config import BuildSampleLLMConfig, LLMConfig, PromptConfig, SampleSource, parse_config
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.jobs.build_sample_llm import run
from xrec.llm.model import load_model, load_tokenizer
from xrec.llm.source import resolve_model
from xrec.sample import ASPECTS, generate_language_examples, generate_town, town_tables
from xrec.sample.language_model import train_sample_model, train_tokenizer

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


def test_town_tables_have_each_visit_once_with_the_best_liked_aspect(town):
    tables = {name: table.to_pylist() for name, table in town_tables(town).items()}
    pairs, explained, named = (
        [(row["user_id"], row["item_id"]) for row in tables[name]]
        for name in ("interactions", "explanations", "aspects")
    )
    assert len(set(pairs)) == 200 * 24
    assert not any(row["split"] for row in tables["interactions"])
    assert pairs[24] == ("resident-2", f"place-{town.visits[1, 0] + 1}") == explained[8]
    assert set(explained) <= set(pairs)
    assert named == pairs
    for number in (0, 24, 1000, 200 * 24 - 1):
        user, place = divmod(number, 24)
        aspects = town.item_aspects[town.visits[user, place]]
        best = max(aspects, key=lambda aspect: town.taste[user, aspect])
        expected = {"aspect": ASPECTS[best], "split": None, "sentiment": "positive"}
        assert tables["aspects"][number].items() >= expected.items()


@pytest.mark.parametrize(
    ("name", "count"), [("interactions_per_user", 31), ("explanations_per_user", 25)]
)
def test_sample_source_refuses_more_visits_than_there_can_be(name, count):
    with raises(ConfigError, "value_error"):
        parse_config(SampleSource, {"kind": "sample", "num_items": 30, name: count})


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


def test_generate_language_examples_use_the_towns_words():
    town = generate_town(SampleSource(kind="sample"))
    known = {word for e in EXAMPLES for text in vars(e).values() for word in text.split()}
    texts = [*town.user_profiles, *town.item_profiles, *town.explanations]
    assert {word for text in texts for word in text.split()} <= known


@pytest.fixture
def few_short_steps(monkeypatch):
    tiny = {"_HIDDEN_SIZE": 32, "_NUM_LAYERS": 1, "_VOCAB_SIZE": 400}
    for name, value in {**tiny, "_NUM_COPY_STEPS": 1, "_BATCH_SIZE": 4}.items():
        monkeypatch.setattr(f"xrec.sample.language_model.{name}", value)


@pytest.mark.usefixtures("few_short_steps")
def test_train_sample_model_learns_and_repeats_with_its_seed(monkeypatch):
    model, tokenizer, loss = train_sample_model(6, PromptConfig())
    again = train_sample_model(6, PromptConfig())
    assert loss == again[2]
    assert all(
        torch.equal(left, right)
        for left, right in zip(model.parameters(), again[0].parameters(), strict=True)
    )
    monkeypatch.setattr("xrec.sample.language_model._LEARNING_RATE", 1e-2)
    assert train_sample_model(30, PromptConfig())[2] < loss - 0.3
    assert model.config.vocab_size == len(tokenizer) == 400
    assert not model.training


def test_train_tokenizer_restores_every_text():
    texts = [example.explanation for example in generate_language_examples(50, seed=0)]
    tokenizer = train_tokenizer(texts, 400)
    for text in [*texts[:5], "naïve 😀 \t two  spaces <|im_end|>"]:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id not in ids


@pytest.mark.usefixtures("few_short_steps")
def test_build_sample_llm_writes_a_model_that_loads_and_is_made_once(tmp_path, monkeypatch):
    config = BuildSampleLLMConfig(workspace=str(tmp_path), num_steps=6)
    manifest = run(config)
    folder = resolve_model(LLMConfig(model=str(tmp_path / "llm")))
    model = load_model(folder, dtype=torch.float32, device=torch.device("cpu"))
    assert model.get_input_embeddings().weight.shape == (len(load_tokenizer(folder)), 32)
    assert set(manifest.files) == {path.name for path in folder.iterdir()} - {"manifest.json"}

    monkeypatch.setattr("xrec.sample.language_model.train_sample_model", None)
    assert run(config) == manifest
    with raises(ArtifactMismatchError, "another_run", "num_steps"):
        run(config.model_copy(update={"num_steps": 7}))
