"""Prompts and examples of a dataset's pairs: texts, place-holders, and what is left out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse

from jobs.prepare import run as prepare_dataset
from tests.toy import toy_tokenizer
from tests.xrec.aspects.planted_aspects import with_aspects
from xrec.adapter.pairs import Pair, PairPrompts
from xrec.aspects import AspectChooser, AspectScorer, dataset_mentions
from xrec.aspects.praise import dataset_praise
from xrec.config.data import PrepareConfig
from xrec.config.prompt import PromptConfig
from xrec.data import Dataset, read_dataset
from xrec.errors import DataError
from xrec.llm.collaborative import Vocabulary
from xrec.llm.prompt import PromptBuilder, PromptTooLongError
from xrec.storage import open_location

TOWN = {
    "kind": "sample",
    "num_users": 20,
    "num_items": 15,
    "interactions_per_user": 8,
    "explanations_per_user": 4,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    workspace = tmp_path_factory.mktemp("workspace")
    prepare_dataset(PrepareConfig.model_validate({"workspace": str(workspace), "source": TOWN}))
    return read_dataset(open_location(str(workspace / "dataset")))


def make_prompts(dataset: Dataset, **prompt: Any) -> PairPrompts:
    vocabulary = Vocabulary(len(toy_tokenizer()), dataset.num_users, dataset.num_items)
    return PairPrompts(dataset, PromptBuilder(toy_tokenizer(), PromptConfig(**prompt), vocabulary))


def test_prompt_of_a_pair_holds_its_tokens_and_texts(dataset: Dataset) -> None:
    prompts = make_prompts(dataset)
    user, item = dataset.users.to_pylist()[7], dataset.items.to_pylist()[11]
    shown = prompts.builder.show(prompts.prompt(Pair(7, 11)))
    assert (
        f"User: <user 7> {user['profile']}\nItem: <item 11> {item['title']}. {item['profile']}"
        in shown
    )


def test_prompt_with_the_vector_of_another_user_keeps_the_texts(dataset: Dataset) -> None:
    prompts = make_prompts(dataset)
    own, other = prompts.prompt(Pair(7, 11)), prompts.prompt(Pair(7, 11, vector_user_index=0))
    first = prompts.builder.vocabulary.user_tokens(0)[0]
    assert other == [first if token == first + 7 else token for token in own]
    assert other != own


def test_examples_of_a_split_are_prompt_and_reference(dataset: Dataset) -> None:
    prompts = make_prompts(dataset)
    explanations = dataset.explained_pairs("train")
    examples, left_out = prompts.examples(explanations, max_explanation_tokens=500)
    assert len(examples) == explanations.num_rows > 20
    assert not left_out
    row = explanations.to_pylist()[5]
    own = Pair(row["user_index"], row["item_index"])
    assert list(examples[5].prompt_ids) == prompts.prompt(own)
    title = dataset.items["title"][row["item_index"]].as_py()
    assert title in row["explanation"]
    learned = prompts.builder.decode(list(examples[5].label_ids))
    assert learned == row["explanation"].replace(title, "[title]")
    assert title in prompts.builder.show(list(examples[5].prompt_ids))  # prompts show the title


def test_example_of_a_short_name_learns_the_placeholder(dataset: Dataset) -> None:
    titles = ["Jeni's Splendid Ice Creams", *dataset.items["title"].to_pylist()[1:]]
    prompts = make_prompts(with_column(dataset, "title", titles))
    example = prompts.example(Pair(3, 0), "You would enjoy Jeni's for its tea.")
    assert prompts.builder.decode(list(example.label_ids)) == "You would enjoy [title] for its tea."


def test_placeholder_in_a_title_is_refused(dataset: Dataset) -> None:
    titles = ["The [Title] Bar", *dataset.items["title"].to_pylist()[1:]]
    with pytest.raises(
        DataError, match=r"The \[Title\] Bar.*choose another prompt.title_placeholder"
    ):
        make_prompts(with_column(dataset, "title", titles))
    make_prompts(with_column(dataset, "title", titles), title_placeholder="<place>")


def test_placeholder_in_an_explanation_is_refused(dataset: Dataset) -> None:
    explanations = dataset.explained_pairs("train").slice(0, 2)
    index = explanations.schema.get_field_index("explanation")
    texts = pa.array(["Calm.", "You would love [title]."])
    changed = explanations.set_column(index, explanations.schema.field(index), texts)
    with pytest.raises(DataError, match="explanation 'You would love"):
        make_prompts(dataset).examples(changed, 500)


def with_column(dataset: Dataset, name: str, values: list[str]) -> Dataset:
    index = dataset.items.schema.get_field_index(name)
    field = dataset.items.schema.field(index)
    return replace(dataset, items=dataset.items.set_column(index, field, pa.array(values)))


def test_examples_too_long_are_counted_by_reason(dataset: Dataset) -> None:
    explanations = dataset.explained_pairs("train")
    rows = make_prompts(dataset).examples(explanations, 500)[0]
    prompt_limit = sorted(len(row.prompt_ids) for row in rows)[len(rows) // 2]
    label_limit = sorted(len(row.label_ids) for row in rows)[len(rows) // 2]
    examples, left_out = make_prompts(dataset, max_prompt_tokens=prompt_limit).examples(
        explanations, label_limit
    )
    fits = [row for row in rows if len(row.prompt_ids) <= prompt_limit]
    assert left_out["prompt_too_long"] == len(rows) - len(fits) > 0
    assert (
        left_out["explanation_too_long"]
        == sum(len(row.label_ids) > label_limit for row in fits)
        > 0
    )
    assert examples == [row for row in fits if len(row.label_ids) <= label_limit]


def test_prompt_too_long_raises(dataset: Dataset) -> None:
    with pytest.raises(PromptTooLongError):
        make_prompts(dataset, max_prompt_tokens=8).prompt(Pair(0, 0))


def test_examples_of_nothing_are_none(dataset: Dataset) -> None:
    empty: pa.Table = dataset.explained_pairs("train").slice(0, 0)
    assert make_prompts(dataset).examples(empty, 10) == ([], {})


@pytest.fixture(scope="module")
def chosen(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Dataset, AspectChooser]:
    """The town with aspects, and a chooser that counts nothing but reviews."""
    workspace = with_aspects(dataset, tmp_path_factory.mktemp("chosen"), ("train", "test"))
    town = read_dataset(open_location(f"{workspace}/dataset"))
    mentions = dataset_mentions(town, "train")
    near = scipy.sparse.csr_matrix((town.num_items, town.num_items), dtype=np.float32)
    return town, AspectChooser(AspectScorer(mentions, near), praise=dataset_praise(town))


def prompts_of(chosen: tuple[Dataset, AspectChooser], **prompt: Any) -> PairPrompts:
    town, chooser = chosen
    vocabulary = Vocabulary(len(toy_tokenizer()), town.num_users, town.num_items)
    builder = PromptBuilder(toy_tokenizer(), PromptConfig(aspects=2, **prompt), vocabulary)
    return PairPrompts(town, builder, chooser)


def test_texts_of_pairs_have_the_chosen_aspects_with_their_evidence(
    chosen: tuple[Dataset, AspectChooser],
) -> None:
    town, chooser = chosen
    pairs = [Pair(user, item) for user in (0, 7) for item in (0, 3, 11)]
    found = chooser.choose(
        np.array([pair.user_index for pair in pairs]),
        np.array([pair.item_index for pair in pairs]),
        2,
    )
    assert town.aspects is not None
    expected = found.evidence(town.aspects["aspect"].to_pylist())
    prompts = prompts_of(chosen)
    assert [texts.aspects for texts in prompts.texts_of(pairs)] == expected
    assert [prompts.texts(pair).aspects for pair in pairs] == expected
    assert all(
        {evidence.aspect for evidence in texts.aspects} <= texts.menu
        for texts in prompts.texts_of(pairs)
    )
    assert any(expected)


def test_prompt_with_the_aspects_of_another_user_keeps_vector_and_texts(
    chosen: tuple[Dataset, AspectChooser],
) -> None:
    prompts = prompts_of(chosen)
    own, other = Pair(7, 3), Pair(7, 3, aspects_user_index=0)
    assert prompts.texts(other).aspects == prompts.texts(Pair(0, 3)).aspects
    assert prompts.texts(other).user_profile == prompts.texts(own).user_profile
    tokens = prompts.builder.vocabulary.user_tokens(7)
    assert all(token in prompts.prompt(other) for token in tokens)


def test_training_examples_have_those_aspects_of_the_menu_that_the_explanation_names(
    chosen: tuple[Dataset, AspectChooser],
) -> None:
    town, chooser = chosen
    assert town.aspects is not None
    names = town.aspects["aspect"].to_pylist()
    explained = town.explained_pairs("train")
    titles = [town.items["title"][item].as_py() for item in explained["item_index"].to_pylist()]
    said = [
        f"{title} has {names[place % 7]}, {names[0]} and {names[(place + 3) % 7]}."
        for place, title in enumerate(titles)
    ]
    column = explained.schema.get_field_index("explanation")
    explained = explained.set_column(column, "explanation", pa.array(said, pa.string()))
    users, items = (
        explained[name].to_numpy().astype(np.int64) for name in ("user_index", "item_index")
    )
    menus = chooser.choose(users, items, len(names)).evidence(names)
    prompts = prompts_of(chosen, aspect="{aspect} {item_reviews}")
    examples, left_out = prompts.examples(explained, max_explanation_tokens=100)
    assert not left_out
    num_listed = []
    for example, menu, text in zip(examples, menus, said, strict=True):
        named = [one for one in menu if one.aspect in text][:2]
        listed = ", ".join(f"{one.aspect} {one.item_reviews}" for one in named)
        shown = prompts.builder.show(list(example.prompt_ids))
        assert (f"Reasons: {listed}<" in shown) if named else ("Reasons" not in shown)
        num_listed.append(len(named))
    assert set(num_listed) == {0, 1, 2}
