"""Prompts and examples of a dataset's pairs: texts, placeholders, and what is left out."""

from dataclasses import replace
from statistics import median_low
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.models import toy_tokenizer
from tests.world.town import dataset_in, prepared_town, with_aspects
from xrec.adapter.pairs import Pair, PairPrompts
from xrec.aspects import AspectChooser
from xrec.config import PromptConfig
from xrec.data import AspectEvidence, Dataset
from xrec.errors import DataError
from xrec.llm.collaborative import Vocabulary
from xrec.llm.prompt import PromptBuilder

INDICES = ("user_index", "item_index")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepared_town(tmp_path_factory.mktemp("workspace"))


def make_prompts(dataset: Dataset, num_more: int = 0, **prompt: Any) -> PairPrompts:
    """Return a dataset's prompts, with `num_more` users and items of training pairs."""
    sizes = (dataset.num_users + num_more, dataset.num_items + num_more)
    vocabulary = Vocabulary(len(toy_tokenizer()), *sizes)
    builder = PromptBuilder(toy_tokenizer(), PromptConfig(**prompt), vocabulary)
    return PairPrompts(dataset, builder, has_training_vectors=num_more > 0)


def test_prompt_has_the_pairs_texts_beside_its_own_or_another_users_vector(dataset):
    prompts = make_prompts(dataset)
    user, item = dataset.users.to_pylist()[7], dataset.items.to_pylist()[11]
    own, other = prompts.prompt(Pair(7, 11)), prompts.prompt(Pair(7, 11, vector_user_index=0))
    texts = f"{user['profile']}\nItem: <item 11> {item['title']}. {item['profile']}"
    for number, prompt in ((7, own), (0, other)):
        assert f"User: <user {number}> {texts}" in prompts.builder.show(prompt)


def with_training_profiles(dataset: Dataset) -> Dataset:
    pairs = dataset.explained_pairs("train").select(["user_index", "item_index"])
    for side in ("user", "item"):
        texts = pa.array([f"{side} without {row}" for row in range(pairs.num_rows)])
        pairs = pairs.append_column(f"{side}_profile", texts)
    return replace(dataset, training_profiles=pairs)


def test_examples_show_nothing_made_from_the_pairs_own_review(dataset):
    pairs = dataset.explained_pairs("train")
    prompts = make_prompts(with_training_profiles(dataset), num_more=pairs.num_rows)
    builder = prompts.builder
    rows = [5, 2]
    examples, _ = prompts.examples(pairs.take(rows), max_explanation_tokens=500)
    for row, example in zip(rows, examples, strict=True):
        shown = builder.show(list(example.prompt_ids))
        user, item = dataset.num_users + row, dataset.num_items + row
        assert f"<user {user}> user without {row}\n" in shown
        assert f"<item {item}>" in shown
        assert f". item without {row}" in shown
    usual, _ = prompts.examples(pairs, max_explanation_tokens=500, leave_out_own=False)
    held_out, _ = prompts.examples(dataset.explained_pairs("test"), max_explanation_tokens=500)
    plain = make_prompts(dataset)
    assert usual[5].label_ids == examples[0].label_ids
    for found, split in ((usual, "train"), (held_out, "test")):
        pair = Pair(*(dataset.explained_pairs(split)[name][0].as_py() for name in INDICES))
        expected = plain.builder.show(plain.prompt(pair))
        assert builder.show(list(found[0].prompt_ids)) == expected


def test_example_of_a_short_name_learns_the_placeholder(dataset):
    titles = ["Jeni's Splendid Ice Creams", *dataset.items["title"].to_pylist()[1:]]
    prompts = make_prompts(with_titles(dataset, titles))
    example = prompts.example(Pair(3, 0), "You would enjoy Jeni's for its tea.")
    assert prompts.builder.decode(list(example.label_ids)) == "You would enjoy [title] for its tea."


def test_placeholder_in_a_title_or_an_explanation_is_refused(dataset):
    titles = ["The [Title] Bar", *dataset.items["title"].to_pylist()[1:]]
    with raises(DataError, "placeholder_in_text", key="title", saw="[title]"):
        make_prompts(with_titles(dataset, titles))
    explanations = dataset.explained_pairs("train").slice(0, 2)
    changed = with_values(explanations, "explanation", ["Calm.", "You would love [title]."])
    with raises(DataError, "placeholder_in_text", key="explanation", saw="[title]"):
        make_prompts(dataset).examples(changed, 500)


def with_titles(dataset: Dataset, titles: list[str]) -> Dataset:
    return replace(dataset, items=with_values(dataset.items, "title", titles))


def with_values(table: pa.Table, name: str, values: list[str]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values, pa.string()))


def test_examples_that_are_too_long_are_counted_by_reason(dataset):
    explanations = dataset.explained_pairs("train")
    rows = make_prompts(dataset).examples(explanations, 500)[0]
    most_prompt = median_low(len(row.prompt_ids) for row in rows)
    most_label = median_low(len(row.label_ids) for row in rows)
    fits = [row for row in rows if len(row.prompt_ids) <= most_prompt]
    expected = [row for row in fits if len(row.label_ids) <= most_label]
    prompts = make_prompts(dataset, max_prompt_tokens=most_prompt)
    examples, left_out = prompts.examples(explanations, most_label)
    assert examples == expected
    assert left_out["prompt_too_long"] == len(rows) - len(fits) > 0
    assert left_out["explanation_too_long"] == len(fits) - len(expected) > 0


@pytest.fixture(scope="module")
def chosen(dataset, tmp_path_factory):
    """The town with aspects, and their chooser."""
    workspace = with_aspects(dataset, tmp_path_factory.mktemp("chosen"), ("train", "test"))
    town = dataset_in(workspace)
    return town, AspectChooser(town)


def names_and_pairs(town: Dataset) -> tuple[list[str], pa.Table, list[np.ndarray]]:
    """Return the aspects' names, and the explained training pairs with their indices."""
    explained = town.explained_pairs("train")
    assert town.aspects is not None
    indices = [explained[name].to_numpy().astype(np.int64) for name in ("user_index", "item_index")]
    return town.aspects["aspect"].to_pylist(), explained, indices


def test_texts_of_pairs_have_the_chosen_aspects_and_their_evidence(chosen):
    town, chooser = chosen
    names, _, (users, items) = names_and_pairs(town)
    pairs = [Pair(int(user), int(item)) for user, item in zip(users, items, strict=True)]
    expected = chooser.choose(users, items, 2).evidence(names)
    found = make_prompts(town, aspects=2).texts_of(pairs)
    assert [texts.aspects for texts in found] == expected
    assert all({one.aspect for one in texts.aspects} <= texts.menu for texts in found)
    assert any(expected)


def test_prompt_with_another_users_aspects_keeps_vector_and_texts(chosen):
    prompts = make_prompts(chosen[0], aspects=2)
    own, other = Pair(7, 3), Pair(7, 3, aspects_user_index=0)
    assert prompts.texts(other).aspects == prompts.texts(Pair(0, 3)).aspects
    assert prompts.texts(other).user_profile == prompts.texts(own).user_profile
    tokens = prompts.builder.vocabulary.user_tokens(7)
    assert all(token in prompts.prompt(other) for token in tokens)


def test_training_examples_list_the_aspects_that_the_explanation_names_in_its_order(chosen):
    town, chooser = chosen
    names, explained, (users, items) = names_and_pairs(town)
    titles = [town.items["title"][item].as_py() for item in explained["item_index"].to_pylist()]
    said = [
        f"{title} has {names[place % 7]}, {names[0]} and {names[(place + 3) % 7]}."
        for place, title in enumerate(titles)
    ]
    said[0] = f"{titles[0]} is calm."
    explained = with_values(explained, "explanation", said)
    menus = chooser.choose(users, items, len(names), leave_out_own=True).evidence(names)
    all_aspects = np.tile(np.arange(len(names)), (len(users), 1))
    known = chooser.counted(users, items, all_aspects, leave_out_own=True).evidence(names)
    named: list[list[AspectEvidence]] = []
    for of_item, text in zip(known, said, strict=True):
        counts = {one.aspect: max(1, one.item_reviews) for one in of_item}
        found = sorted((name for name in names if name in text), key=text.index)
        named.append([AspectEvidence(name, counts[name], 0, 0, 0) for name in found])
    assert {len(each) for each in named} == {0, 2, 3}  # one more than the prompt asks for
    assert any(one.aspect not in {each.aspect for each in menus[1]} for one in named[1])
    prompts = make_prompts(town, aspects=2, aspect="{aspect} {item_reviews}")
    examples, left_out = prompts.examples(explained, max_explanation_tokens=100)
    assert not left_out
    for example, evidence in zip(examples, named, strict=True):
        listed = ", ".join(f"{one.aspect} {one.item_reviews}" for one in evidence)
        shown = prompts.builder.show(list(example.prompt_ids))
        assert (f"Reasons: {listed}<" in shown) if evidence else ("Reasons" not in shown)
