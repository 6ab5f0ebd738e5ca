"""What comes after training: the tables that are read, and the dataset with new users and items.

Known rows stay in place, each new id has a trained neighbour, and what is left out is counted.
"""

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.data.test_dataset import write_small_dataset
from xrec import schemas
from xrec.config.shared import ColdStartConfig, StorageConfig
from xrec.data.cold_start import (
    ColdStartTables,
    extend_dataset,
    read_cold_start,
)
from xrec.errors import DataError, StorageNotFoundError
from xrec.storage import open_location


@pytest.fixture
def dataset(tmp_path):
    """Users ann, bob, anna-lena, items x, y. Train: ann-x, anna-lena-y. Test: ann-y. bob: none."""
    return write_small_dataset(open_location(str(tmp_path / "dataset")))


def _file(path: Path, **columns: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def _read(interactions: str, **uris: str) -> ColdStartTables:
    return read_cold_start(ColdStartConfig(interactions=interactions, **uris), StorageConfig())


def test_read_cold_start_gives_each_pair_once_by_id_and_counts_the_rest(tmp_path):
    pairs = {"user_id": ["z", "a", "z", None, "b"], "item_id": [7, 9, 7, 7, None]}
    users = {"user_id": ["z", "z", "a"], "profile": ["first", "second", None], "more": [1, 2, 3]}
    tables = _read(
        _file(tmp_path / "i.parquet", **pairs), users=_file(tmp_path / "u.parquet", **users)
    )
    assert tables.interactions.to_pydict() == {"user_id": ["a", "z"], "item_id": ["9", "7"]}
    assert tables.users.to_pydict() == {"user_id": ["a", "z"], "profile": ["", "first"]}
    assert tables.items.num_rows == 0
    assert {reason: count for reason, count in tables.findings.items() if count} == {
        "rows of interactions without user_id or item_id": 2,
        "rows of interactions that repeat an earlier user_id, item_id": 1,
        "rows of users that repeat an earlier user_id": 1,
    }


def test_fingerprint_is_of_the_content_not_of_files_and_order(tmp_path):
    one = _read(_file(tmp_path / "i.parquet", user_id=["a", "b", "b"], item_id=["x", "y", "y"]))
    _file(tmp_path / "folder" / "1.parquet", user_id=["b"], item_id=["y"])
    _file(tmp_path / "folder" / "2.parquet", user_id=["a"], item_id=["x"])
    assert _read(str(tmp_path / "folder")).fingerprint == one.fingerprint
    other = _read(_file(tmp_path / "j.parquet", user_id=["a", "b"], item_id=["x", "x"]))
    users = _file(tmp_path / "u.parquet", user_id=["a"], profile=["p"])
    described = _read(str(tmp_path / "i.parquet"), users=users)
    assert len({one.fingerprint, other.fingerprint, described.fingerprint}) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user_id": ["a"]},
            r"missing column\(s\) item_id; expected user_id, item_id, saw user_id",
        ),
        ({"user_id": [1.0], "item_id": ["x"]}, "user_id has type double; expected strings or int"),
        (None, r"i\.parquet: expected Parquet files"),
    ],
)
def test_read_cold_start_of_other_files_is_refused(tmp_path, columns, message):
    path = tmp_path / "i.parquet"
    with pytest.raises(StorageNotFoundError, match=r"i\.parquet"):
        _read(str(path))
    path.write_text("user_id,item_id\n")
    if columns is not None:
        _file(path, **columns)
    with pytest.raises(DataError, match=message):
        _read(str(path))


def _tables(*pairs: str, **described: list[tuple[str, ...]]) -> ColdStartTables:
    """`pairs` of a user and an item each, and rows of users and items."""

    def table(names: str, rows: list[tuple[str, ...]]) -> pa.Table:
        columns = dict(zip(names.split(), zip(*rows, strict=True), strict=False))
        strings = {name: pa.array(columns.get(name, []), pa.string()) for name in names.split()}
        return pa.table(strings)

    return ColdStartTables(
        table("user_id item_id", [tuple(pair.split()) for pair in pairs]),
        table("user_id profile", described.get("users", [])),
        table("item_id title profile", described.get("items", [])),
        {},
    )


def test_extend_appends_newcomers_by_id_and_keeps_the_known_rows(dataset):
    pairs = ("zoe y", "eve x", "eve y", "ann new", "anna-lena new", "ann bare")
    extension = extend_dataset(
        dataset,
        _tables(*pairs, users=[("zoe", "Likes tea.")], items=[("new", "New Place", "Quiet.")]),
    )
    users, items = extension.dataset.users, extension.dataset.items
    assert users.schema.equals(schemas.USERS)
    assert items.schema.equals(schemas.ITEMS)
    assert users.slice(0, 3).equals(dataset.users)
    assert items.slice(0, 2).equals(dataset.items)
    assert [tuple(row.values()) for row in users.slice(3).to_pylist()] == [
        ("eve", 3, ""),
        ("zoe", 4, "Likes tea."),
    ]
    assert [tuple(row.values()) for row in items.slice(2).to_pylist()] == [
        ("bare", 2, "", ""),
        ("new", 3, "New Place", "Quiet."),
    ]
    assert [extension.dataset.user_index(user) for user in ("ann", "eve", "zoe")] == [0, 3, 4]
    assert set(zip(*extension.user_edges.tolist(), strict=True)) == {(0, 0), (0, 1), (1, 1)}
    assert set(zip(*extension.item_edges.tolist(), strict=True)) == {(0, 0), (1, 0), (1, 2)}


def test_extend_all_new_interactions_are_train_edges_once(dataset):
    """Also those between two new ids or two known ones, so that nothing seen is recommended.

    The pair ann-y was held out. Interactions that came later have no reviews.
    """
    tables = _tables("ann new", "ann y", "bob y", "eve new", "eve x", "nobody nothing")
    extended = extend_dataset(dataset, tables).dataset
    edges = extended.interaction_edges("train").tolist()
    assert edges == [[0, 0, 0, 1, 2, 3, 3], [0, 1, 2, 1, 1, 0, 2]]
    seen = {pair for part in extended.seen_edges() for pair in zip(*part.tolist(), strict=True)}
    assert seen == set(zip(*edges, strict=True))
    for split in ("train", "validation", "test"):
        assert extended.reviewed_edges(split).tolist() == dataset.interaction_edges(split).tolist()


def test_extend_what_gives_no_vector_is_counted_and_stays_unknown(dataset, caplog):
    pairs = ("ann x", "bob orphan", "eve orphan", "eve x", "lone orphan")
    tables = _tables(*pairs, users=[("silent", "Never came."), ("ann", "Other text.")])
    with caplog.at_level(logging.INFO, logger="xrec"):
        extended = extend_dataset(dataset, tables).dataset
    assert extended.users["user_id"].to_pylist() == ["ann", "bob", "anna-lena", "eve"]
    assert extended.users["profile"].to_pylist() == ["Other text.", "", "c", ""]
    assert extended.items["item_id"].to_pylist() == ["x", "y"]
    assert [record.getMessage() for record in caplog.records] == [
        "cold start: 1 new users, 0 new items, from 1 of 5 interactions",
        "cold start: 2 new users without an interaction with a trained item: they stay unknown",
        "cold start: 1 new items without an interaction with a trained user: they stay unknown",
    ]


def test_extend_by_nothing_or_by_texts_alone_changes_nothing_else(dataset):
    extension = extend_dataset(dataset, _tables())
    assert extension.dataset.users.equals(dataset.users)
    edges = dataset.interaction_edges("train")
    assert extension.dataset.interaction_edges("train").tolist() == edges.tolist()
    assert extension.user_edges.shape == extension.item_edges.shape == (2, 0)
    texts = _tables(users=[("bob", "Reads.")], items=[("y", "New Y", ""), ("nowhere", "Z", "z")])
    extended = extend_dataset(dataset, texts).dataset
    users, items = dataset.users.to_pylist(), dataset.items.to_pylist()
    users[1]["profile"] = "Reads."
    items[1] |= {"title": "New Y", "profile": ""}
    assert extended.users.to_pylist() == users
    assert extended.items.to_pylist() == items
