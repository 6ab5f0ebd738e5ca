"""Examples of explained pairs, with what PETER+ reads: what train-aspects chooses, as words."""

from dataclasses import replace

import pytest

from jobs.train_aspects import run as train_aspects
from tests.toy import toy_tokenizer
from tests.xrec.aspects.planted_aspects import prepared_town, with_aspects
from tests.xrec.lab.baselines.conftest import explanation, write_untrained
from xrec.aspects.choice import read_chooser
from xrec.config.graph import TrainAspectsConfig
from xrec.data.dataset import read_dataset
from xrec.errors import ArtifactNotFoundError, DataError
from xrec.lab.baselines.codec import BEGIN, END, PAD, UNKNOWN, Words
from xrec.lab.baselines.data import (
    TextExample,
    aspect_ids,
    build_data,
    collate,
    example,
    length_that_fits,
    load_choice,
)
from xrec.lab.baselines.texts import write_baseline_texts
from xrec.lab.baselines.train import baseline_identity
from xrec.llm.examples import IGNORE
from xrec.storage import open_location


def test_data_examples_are_the_explained_pairs_with_their_ends(make_baseline, dataset):
    data = build_data(make_baseline(), dataset)
    assert (len(data.train), len(data.validation)) == (20, 10)
    first = data.train[0]
    assert (first.user_index, first.item_index, first.token_ids[-1]) == (0, 0, END)
    assert data.codec.decode(list(first.token_ids)) == explanation(0, 0)


def test_data_vocabulary_is_of_training_explanations_alone(make_baseline, dataset):
    drawn = build_data(make_baseline(max_pairs=3), dataset)
    assert len(drawn.train) == 3
    texts = [drawn.codec.decode(list(example.token_ids)) for example in drawn.train]
    seen = {piece for text in texts for piece in drawn.codec.encode(text)}
    assert len(drawn.codec) == 4 + len(seen)
    assert UNKNOWN in {each for example in drawn.validation for each in example.token_ids}


def test_data_budget_is_the_same_for_all_seeds_and_in_a_larger_one(make_baseline, dataset):
    def pairs(seed: int, count: int) -> set[tuple[int, int]]:
        config = make_baseline(seed=seed, max_pairs=count)
        train = build_data(config, dataset).train
        return {(example.user_index, example.item_index) for example in train}

    assert pairs(0, 5) == pairs(7, 5)
    assert pairs(0, 5) < pairs(0, 9)


def test_data_longest_text_follows_the_training_explanations_and_one_that_is_cut_has_no_end():
    lengths = [*range(1, 200), 1000]  # 200 of them; 198 do not exceed 198
    assert [length_that_fits(each) for each in (lengths, [5], [0, 0])] == [198, 5, 1]
    assert example(1, 2, [7, 8, 9], 3) == TextExample(1, 2, (7, 8, 9, END))
    assert example(1, 2, [7, 8, 9], 2) == TextExample(1, 2, (7, 8))


def test_collate_pads_and_says_what_counts():
    batch = collate([TextExample(1, 2, (7, 8, END)), TextExample(3, 4, (9,))])
    assert batch.pairs.users.tolist() == [1, 3]
    assert batch.pairs.items.tolist() == [2, 4]
    assert batch.pairs.aspects.shape == (2, 0)
    assert batch.labels.tolist() == [[7, 8, END], [9, IGNORE, IGNORE]]
    assert batch.words.tolist() == [[7, 8, IGNORE], [9, IGNORE, IGNORE]]
    assert batch.inputs.tolist() == [[BEGIN, 7, 8], [BEGIN, 9, 0]]


def test_data_without_explanations_is_refused(make_baseline, dataset):
    few = replace(dataset, explanations=dataset.explanations.slice(0, 1))
    with pytest.raises(DataError, match="1 training and 0 validation pairs with an explanation"):
        build_data(make_baseline(), few)


def test_data_of_lora_are_prompts_in_words_only_and_pairs_of_the_budget(make_baseline, dataset):
    data = build_data(make_baseline("lora", max_pairs=5), dataset)
    assert (len(data.train), len(data.validation), data.sizes["num_tokens"]) == (5, 10, 0)
    read = {token for each in data.train for token in each.prompt_ids}
    assert max(read) < len(toy_tokenizer())  # no user and no item among the tokens
    few = make_baseline("lora", recipe={"max_explanation_tokens": 1})
    with pytest.raises(DataError, match=r"none of 20 pairs .*'explanation_too_long': 20"):
        build_data(few, dataset)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A workspace with a dataset with aspects, and what train-aspects made of it."""
    plain = prepared_town(tmp_path_factory.mktemp("plain"))
    workspace = with_aspects(plain, tmp_path_factory.mktemp("with-aspects"))
    train_aspects(TrainAspectsConfig(workspace=workspace))
    return workspace


@pytest.fixture(scope="module")
def town_dataset(town):
    return read_dataset(open_location(f"{town}/dataset"))


@pytest.fixture
def baseline(town, make_baseline):
    return make_baseline("peter_plus", dataset=f"{town}/dataset", aspects=f"{town}/aspects")


def test_aspects_are_those_of_train_aspects_without_the_own_review(town, town_dataset, baseline):
    names = town_dataset.aspects["aspect"].to_pylist()
    indices = [town_dataset.explanations[f"{side}_index"] for side in ("user", "item")]
    pairs = [column.to_numpy().astype("int64") for column in indices]
    chooser = read_chooser(open_location(f"{town}/aspects"), town_dataset)
    chosen = chooser.choose(*pairs, 1, leave_out_own=True).aspects.tolist()
    found = load_choice(baseline, town_dataset)(*(column.to_pylist() for column in indices))
    assert found == [names[each] if each >= 0 else "" for (each,) in chosen]


def test_aspects_are_read_as_words_within_a_text_and_padded():
    words = Words.of(["The live music, and more music."], 100, ["live music", "a view of it"])
    ids = aspect_ids(words, "live music", 3)
    assert [words.pieces[each] for each in ids] == [" live", " music", "<pad>"]
    assert len(aspect_ids(words, "a view of it", 3)) == 3
    assert aspect_ids(words, "", 3) == (PAD, PAD, PAD)


def test_data_of_peter_plus_alone_has_aspects(baseline, town, town_dataset, make_baseline):
    data = build_data(baseline, town_dataset)
    assert {len(each.aspect_ids) for each in (*data.train, *data.validation)} == {3}
    assert UNKNOWN not in {index for each in data.train for index in each.aspect_ids}
    assert len({each.aspect_ids for each in data.train}) > 1
    peter = make_baseline("peter", dataset=f"{town}/dataset", aspects=f"{town}/aspects")
    assert {each.aspect_ids for each in build_data(peter, town_dataset).train} == {()}
    assert "aspects" in baseline_identity(baseline)[1]
    assert "aspects" not in baseline_identity(peter)[1]


@pytest.mark.usefixtures("processes_here")
def test_texts_of_peter_plus_follow_the_aspects(baseline, town_dataset, monkeypatch):
    write_untrained(baseline, town_dataset)
    rows = town_dataset.explained_pairs("test").to_pylist()
    pairs = [(row["user_index"], row["item_index"]) for row in rows]
    texts, _ = write_baseline_texts(baseline, pairs)
    chosen = iter(town_dataset.aspects["aspect"].to_pylist())

    def load_choice(*given: object) -> object:
        other = [next(chosen)] * len(pairs)
        return lambda *of: other

    monkeypatch.setattr("xrec.lab.baselines.texts.load_choice", load_choice)
    # To an untrained model not every aspect makes a difference.
    assert any(write_baseline_texts(baseline, pairs)[0] != texts for _ in range(4))


def test_aspects_that_are_not_there_are_refused(make_baseline, baseline, dataset, town):
    with pytest.raises(DataError, match="the dataset has no aspects, which peter_plus reads"):
        build_data(make_baseline("peter_plus"), dataset)
    elsewhere = make_baseline("peter_plus", dataset=baseline.dataset, aspects=f"{town}/none")
    with pytest.raises(ArtifactNotFoundError, match="run xrec train-aspects first"):
        baseline_identity(elsewhere)
