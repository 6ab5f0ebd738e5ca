"""The dataset artifact: what is written is read back, ids are looked up, edges come by split."""

import difflib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from xrec import schemas
from xrec.data import Dataset, read_dataset, write_dataset
from xrec.data.findings import rejected_table
from xrec.errors import ArtifactNotFoundError, DataError, UnknownIdError
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


def _write(location: Location, tables: dict[str, pa.Table] = TABLES) -> Dataset:
    write_dataset(
        location,
        tables,
        rejected_table([]),
        config={"seed": 1},
        inputs={"a.csv": "0f"},
        metrics={"num_removed_edges": 0},
    )
    return read_dataset(location)


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return open_location(str(tmp_path / "dataset"))


def test_read_dataset_returns_what_was_written(location: Location) -> None:
    dataset = _write(location)
    assert (dataset.num_users, dataset.num_items) == (3, 2)
    assert dataset.users.equals(TABLES["users"].cast(schemas.USERS))
    assert dataset.planted is None
    assert dataset.manifest.row_counts == {
        "users": 3,
        "items": 2,
        "interactions": 3,
        "explanations": 2,
        "rejected": 0,
    }
    assert location.files() == [
        "explanations.parquet",
        "interactions.parquet",
        "items.parquet",
        "manifest.json",
        "rejected.parquet",
        "users.parquet",
    ]


def test_read_dataset_with_planted_aspects_reads_them(location: Location) -> None:
    planted = pa.table(
        {"user_index": [0], "item_index": [1], "aspect": ["a"], "aspects": [["a", "b"]]}
    )
    dataset = _write(location, {**TABLES, "planted": planted})
    assert dataset.planted is not None
    assert dataset.planted.to_pylist() == planted.to_pylist()


def test_read_dataset_without_manifest_raises(location: Location) -> None:
    _write(location)
    (location / "manifest.json").delete()
    with pytest.raises(ArtifactNotFoundError):
        read_dataset(location)


def test_read_dataset_with_a_table_of_another_schema_raises(location: Location) -> None:
    _write(location)
    (location / "users.parquet").write_bytes((location / "items.parquet").read_bytes())
    with pytest.raises(DataError, match=r"users\.parquet: expected columns"):
        read_dataset(location)


def test_interaction_edges_have_users_in_row_0_and_items_in_row_1(location: Location) -> None:
    edges = _write(location).interaction_edges("train")
    assert edges.dtype == np.int64
    np.testing.assert_array_equal(edges, [[0, 2], [0, 1]])


def test_interaction_edges_of_an_empty_split_are_2_by_0(location: Location) -> None:
    assert _write(location).interaction_edges("validation").shape == (2, 0)


def test_explained_pairs_are_those_of_the_split(location: Location) -> None:
    assert _write(location).explained_pairs("test").to_pylist() == [
        {"user_index": 0, "item_index": 1, "explanation": "e", "split": "test"}
    ]


def test_index_of_a_known_id_is_its_row(location: Location) -> None:
    dataset = _write(location)
    assert [dataset.user_index(user_id) for user_id in ("ann", "bob", "anna-lena")] == [0, 1, 2]
    assert dataset.item_index("y") == 1


def test_index_of_an_unknown_id_raises_without_searching_for_a_close_one(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bulk runs and requests meet many unknown ids, and a search for each of them is slow."""
    searches: list[object] = []
    monkeypatch.setattr(difflib, "SequenceMatcher", lambda *a: searches.append(a))
    dataset = _write(location)
    with pytest.raises(UnknownIdError, match=r"^user 'anna_lena' is not among the 3 users"):
        dataset.user_index("anna_lena")
    with pytest.raises(UnknownIdError, match=r"^item 'zzzzzz' is not among the 2 items"):
        dataset.item_index("zzzzzz")
    assert searches == []
