"""The dataset artifact: what is written is read back, ids are looked up, edges come by split."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from xrec import schemas
from xrec.data import Dataset, read_dataset, write_dataset
from xrec.data.dataset import _SCHEMAS, HeldOutPair, held_out_pairs
from xrec.data.source import rejected_table
from xrec.errors import ArtifactNotFoundError, DataError
from xrec.storage import Location, open_location

TABLES = {
    "users": pa.table(
        {"user_id": ["ann", "bob", "anna-lena"], "user_index": [0, 1, 2], "profile": ["a", "", "c"]}
    ),
    "items": pa.table(
        {"item_id": ["x", "y"], "item_index": [0, 1], "title": ["X", "Y"], "profile": ["", "q"]}
    ),
    "interactions": pa.table(
        {"user_index": [0, 0, 2], "item_index": [0, 1, 1], "split": ["train", "test", "train"]}
    ),
    "explanations": pa.table(
        {
            "user_index": [0, 2],
            "item_index": [1, 1],
            "explanation": ["e", "f"],
            "split": ["test", "train"],
        }
    ),
}
PLANTED = pa.table({"user_index": [0], "item_index": [1], "aspect": ["a"], "aspects": [["a", "b"]]})


def write_small_dataset(location: Location, **tables: pa.Table) -> Dataset:
    """Users ann, bob, anna-lena, items x, y. Train: ann-x, anna-lena-y. Test: ann-y."""
    write_dataset(
        location,
        {**TABLES, **tables},
        rejected_table([]),
        config={"seed": 1},
        inputs={"a.csv": "0f"},
        metrics={"num_removed_edges": 0},
    )
    return read_dataset(location)


@pytest.fixture
def location(tmp_path):
    return open_location(str(tmp_path / "dataset"))


def test_read_dataset_returns_what_was_written(location):
    dataset = write_small_dataset(location)
    assert (dataset.num_users, dataset.num_items) == (3, 2)
    assert dataset.users.equals(TABLES["users"].cast(schemas.USERS))
    counts = {name: table.num_rows for name, table in TABLES.items()}
    assert dataset.manifest.row_counts == {**counts, "rejected": 0}
    names = [f"{name}.parquet" for name in (*TABLES, "rejected")]
    assert location.files() == sorted([*names, "manifest.json"])


def test_read_dataset_that_is_unfinished_or_has_another_schema_raises(location, monkeypatch):
    write_small_dataset(location)
    with monkeypatch.context() as patch:
        patch.setitem(_SCHEMAS, "users", schemas.ITEMS)
        with pytest.raises(DataError, match=r"users\.parquet: expected columns"):
            read_dataset(location)
    (location / "manifest.json").delete()
    with pytest.raises(ArtifactNotFoundError):
        read_dataset(location)


def test_edges_and_pairs_are_those_of_the_split(location):
    dataset = write_small_dataset(location)
    edges = dataset.interaction_edges("train")
    assert edges.dtype == np.int64
    np.testing.assert_array_equal(edges, [[0, 2], [0, 1]])  # users, items
    assert dataset.interaction_edges("validation").shape == (2, 0)
    fewer = replace(dataset, interactions=dataset.interactions.slice(1))
    assert fewer.interaction_edges("train").tolist() == [[2], [1]]
    assert dataset.explained_pairs("test").to_pylist() == [
        {"user_index": 0, "item_index": 1, "explanation": "e", "split": "test"}
    ]


def test_held_out_pairs_have_ids_reference_and_planted_aspects(location):
    dataset = write_small_dataset(location, planted=PLANTED)
    pair = HeldOutPair("ann", "y", 0, 1, "e", "a", ("a", "b"))
    assert held_out_pairs(dataset, "test") == [pair]
    assert held_out_pairs(dataset, "validation") == []
    without = replace(dataset, planted=None)
    assert held_out_pairs(without, "test") == [replace(pair, aspect=None, aspects=None)]
