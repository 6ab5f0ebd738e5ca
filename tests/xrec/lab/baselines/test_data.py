"""Examples of explained pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.xrec.lab.baselines.conftest import MakePeerConfig, explanation, prepare
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ConfigError, DataError
from xrec.lab.baselines.batch import PeerExample, collate, example
from xrec.lab.baselines.data import _scale, build_peer_data, length_that_fits
from xrec.lab.baselines.models.peer import Ratings
from xrec.lab.baselines.words import BEGIN, END, UNKNOWN
from xrec.llm.nll import IGNORE
from xrec.storage import open_location


def test_data_examples_are_the_explained_pairs_with_their_ends(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    data = build_peer_data(make_config(), dataset)
    assert (len(data.train), len(data.validation)) == (20, 10)
    first = data.train[0]
    assert (first.user_index, first.item_index, first.token_ids[-1]) == (0, 0, END)
    assert data.codec.decode(list(first.token_ids)) == explanation(0, 0)
    assert np.isnan(first.rating)


def test_data_vocabulary_is_of_training_explanations_alone(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    drawn = build_peer_data(make_config(training={"max_pairs": 3}), dataset)
    assert len(drawn.train) == 3
    texts = [drawn.codec.decode(list(example.token_ids)) for example in drawn.train]
    seen = {piece for text in texts for piece in drawn.codec.encode(text)}
    assert len(drawn.codec) == 4 + len(seen)
    assert UNKNOWN in {each for example in drawn.validation for each in example.token_ids}


def test_data_budget_is_the_same_for_all_seeds_and_the_smaller_is_in_the_larger(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    def pairs(seed: int, count: int) -> set[tuple[int, int]]:
        config = make_config(seed=seed, training={"max_pairs": count})
        train = build_peer_data(config, dataset).train
        return {(example.user_index, example.item_index) for example in train}

    assert pairs(0, 5) == pairs(7, 5)
    assert pairs(0, 5) < pairs(0, 9)


def test_data_longest_text_follows_the_training_explanations() -> None:
    lengths = [*range(1, 200), 1000]  # 200 of them; 198 do not exceed 198
    assert length_that_fits(lengths) == 198
    assert length_that_fits([5]) == 5
    assert length_that_fits([0, 0]) == 1


def test_data_text_that_is_cut_has_no_end() -> None:
    assert example(1, 2, [7, 8, 9], 3, END) == PeerExample(1, 2, (7, 8, 9, END), 3)
    assert example(1, 2, [7, 8, 9], 2, END) == PeerExample(1, 2, (7, 8), 2)


def test_collate_pads_and_says_what_counts() -> None:
    batch = collate([PeerExample(1, 2, (7, 8, END), 2), PeerExample(3, 4, (9,), 1, rating=4.0)])
    assert batch.pairs.users.tolist() == [1, 3]
    assert batch.pairs.items.tolist() == [2, 4]
    assert batch.pairs.aspects.shape == (2, 0)
    assert batch.lengths.tolist() == [3, 1]
    assert batch.labels.tolist() == [[7, 8, END], [9, IGNORE, IGNORE]]
    assert batch.words.tolist() == [[7, 8, IGNORE], [9, IGNORE, IGNORE]]
    assert batch.counts.tolist() == [4, 3, 1]
    assert batch.inputs(BEGIN).tolist() == [[BEGIN, 7, 8], [BEGIN, 9, 0]]
    assert batch.ratings.isnan().tolist() == [True, False]


def test_data_without_explanations_is_refused(make_config: MakePeerConfig, tmp_path: Path) -> None:
    def without(splits: set[str]) -> Dataset:
        folder = tmp_path / "-".join(splits or {"none"})
        folder.mkdir()
        rows: dict[str, list[dict[str, Any]]] = {
            "users": [{"user_id": "u", "profile": ""}],
            "items": [{"item_id": "i", "title": "", "profile": ""}],
            "interactions": [{"user_id": "u", "item_id": "i", "split": "train"}],
            "explanations": [
                {"user_id": "u", "item_id": "i", "explanation": "Good.", "split": split}
                for split in splits
            ],
        }
        return read_dataset(open_location(f"{prepare(folder, rows)}/dataset"))

    with pytest.raises(DataError, match="1 training and 0 validation pairs with an explanation"):
        build_peer_data(make_config(), without({"train"}))


def test_data_ratings_are_those_of_training_pairs_with_their_scale(
    make_config: MakePeerConfig, rated: str, dataset: Dataset
) -> None:
    with_ratings = read_dataset(open_location(f"{rated}/dataset"))
    data = build_peer_data(make_config(), with_ratings)
    assert data.ratings == Ratings(2, 5)
    for each in data.train[1:]:
        assert each.rating == 2 + (each.user_index + each.item_index) % 6 / 2
    assert np.isnan(data.train[0].rating)
    assert all(np.isnan(each.rating) for each in data.validation)  # held-out ratings stay outside
    assert build_peer_data(make_config(), dataset).ratings is None


def test_data_ratings_off_any_scale_are_refused() -> None:
    assert _scale([0.0, 999.0]) == Ratings(0, 999)
    with pytest.raises(DataError, match=r"ratings of 0 to 1e\+06 are 1,000,001 whole numbers"):
        _scale([0.0, 1e6])


def test_config_unknown_kind_is_refused_with_the_known_ones(make_config: MakePeerConfig) -> None:
    with pytest.raises(ConfigError, match=r"kind: .*'att2seq'.*saw 'att3seq'"):
        make_config(kind="att3seq")


def test_config_outputs_lie_below_kind_and_seed(make_config: MakePeerConfig) -> None:
    config = make_config(seed=3, peer_model=None, peer_texts=None)
    folder = f"{config.workspace}/peers/att2seq-3"
    assert config.artifact("peer") == f"{folder}/model"
    assert config.artifact("explanations") == f"{folder}/texts"
    assert config.artifact("dataset") == f"{config.workspace}/dataset"
