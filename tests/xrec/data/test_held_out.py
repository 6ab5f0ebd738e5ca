"""Held-out pairs, beside the dataset's own tables."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.prepare import run as prepare_dataset
from xrec.config.data import PrepareConfig
from xrec.data import Dataset, read_dataset
from xrec.data.held_out import held_out_pairs
from xrec.storage import open_location

TOWN = {
    "kind": "sample",
    "num_users": 20,
    "num_items": 15,
    "interactions_per_user": 8,
    "explanations_per_user": 4,
}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    prepare_dataset(PrepareConfig.model_validate({"workspace": str(tmp_path), "source": TOWN}))
    return read_dataset(open_location(str(tmp_path / "dataset")))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_pairs_have_ids_reference_and_the_aspect_that_the_reference_names(
    dataset: Dataset, split: str
) -> None:
    pairs = held_out_pairs(dataset, split)  # type: ignore[arg-type]
    rows = dataset.explained_pairs(split).to_pylist()  # type: ignore[arg-type]
    assert [(pair.user_index, pair.item_index, pair.reference) for pair in pairs] == [
        (row["user_index"], row["item_index"], row["explanation"]) for row in rows
    ]
    assert pairs
    for pair in pairs:
        assert (dataset.user_index(pair.user_id), dataset.item_index(pair.item_id)) == (
            pair.user_index,
            pair.item_index,
        )
        assert pair.aspect is not None
        assert pair.aspect in pair.reference
        assert len(pair.aspects or ()) == 4
        profile = dataset.items["profile"][pair.item_index].as_py()
        assert all(aspect in profile for aspect in pair.aspects or ())


def test_held_out_pairs_of_a_dataset_without_planted_taste_have_no_aspect(dataset: Dataset) -> None:
    pairs = held_out_pairs(replace(dataset, planted=None), "test")
    assert {(pair.aspect, pair.aspects) for pair in pairs} == {(None, None)}
