"""The dataset artifact: what is written is read back, edges come by split, ids have their rows."""

import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from xrec import schemas
from xrec.data import Dataset, read_dataset, write_dataset
from xrec.data.dataset import _SCHEMAS, HeldOutPair, held_out_pairs
from xrec.data.ids import IdIndex
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
        with pytest.raises(DataError):
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


SORTED = sorted({f"{n:x}" for n in range(300)} | {"é", "日本", "𝒳", "A b", "'"})
SHUFFLED = random.Random(0).sample(SORTED, len(SORTED))


def _column(ids: list[str], chunk: int) -> pa.ChunkedArray:
    parts = [ids[start : start + chunk] for start in range(0, len(ids), chunk)]
    return pa.chunked_array([[], *parts, []], pa.string())


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(
    ("ids", "has_order"),
    [
        (SORTED, False),
        (SHUFFLED, False),
        (["", *SHUFFLED, ""], True),
        (["only"], False),
        ([], False),
    ],
)
def test_rows_and_prefixes_are_those_of_a_dictionary(ids, has_order, chunk):
    rows = {each: row for row, each in enumerate(ids) if each}
    order = pa.chunked_array([[rows[each] for each in sorted(rows)]]) if has_order else None
    index = IdIndex(_column(ids, chunk), order)
    assert len(index) == len(rows)
    wanted = [*SORTED, "", "zzz", "10x", "日", "only"]
    assert [index.find(each) for each in wanted] == [rows.get(each) for each in wanted]
    asked = pa.array([*wanted, *wanted[:5]], pa.string())
    expected = [rows.get(each, -1) for each in asked.to_pylist()]
    assert index.rows(asked).tolist() == expected
    assert index.rows(pa.chunked_array([asked])).tolist() == expected
    assert index.rows(pa.chunked_array([], pa.string())).tolist() == []
    for prefix in ("1", "10", "é", "", "none"):
        found = sorted(each for each in rows if each.startswith(prefix))
        assert list(index.starting_with(prefix)) == found
        for after in (prefix, "b", *ids[:5]):
            assert list(index.starting_with(prefix, after)) == [e for e in found if e > after]
