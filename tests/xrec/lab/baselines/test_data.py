"""Examples of explained pairs: who is drawn, which words are known, how long texts are."""

from dataclasses import replace

import pytest

from tests.world.models import toy_tokenizer
from tests.xrec.lab.baselines.conftest import explanation
from xrec.errors import DataError
from xrec.lab.baselines.codec import BEGIN, END, UNKNOWN
from xrec.lab.baselines.data import (
    TextExample,
    build_data,
    collate,
    example,
    length_that_fits,
)
from xrec.llm.examples import IGNORE


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
    assert batch.users.tolist() == [1, 3]
    assert batch.items.tolist() == [2, 4]
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
