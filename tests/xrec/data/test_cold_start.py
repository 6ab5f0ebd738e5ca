"""The tables of newcomers: what is read, what is counted as left out, and one user's history."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.data.test_dataset import _write
from xrec.config.shared import ColdStartConfig, StorageConfig
from xrec.data import Dataset
from xrec.data.cold_start import ColdStartTables, History, read_cold_start, with_history
from xrec.errors import ConfigError, DataError, StorageNotFoundError, UnknownIdError
from xrec.storage import open_location


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return _write(open_location(str(tmp_path / "dataset")))


def _file(path: Path, **columns: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def _read(interactions: str, **uris: str) -> ColdStartTables:
    return read_cold_start(ColdStartConfig(interactions=interactions, **uris), StorageConfig())


def test_read_cold_start_gives_each_pair_once_by_id_and_counts_the_rest(tmp_path: Path) -> None:
    tables = _read(
        _file(
            tmp_path / "i.parquet",
            user_id=["z", "a", "z", None, "b"],
            item_id=["x", "y", "x", "x", ""],
        ),
        users=_file(
            tmp_path / "u.parquet",
            user_id=["z", "z", "a"],
            profile=["first", "second", None],
            more=[1, 2, 3],
        ),
    )
    assert tables.interactions.to_pylist() == [
        {"user_id": "a", "item_id": "y"},
        {"user_id": "z", "item_id": "x"},
    ]
    assert tables.users.to_pylist() == [
        {"user_id": "a", "profile": ""},
        {"user_id": "z", "profile": "first"},
    ]
    assert tables.items.num_rows == 0
    assert {reason: count for reason, count in tables.findings.items() if count} == {
        "rows of interactions without user_id or item_id": 2,
        "rows of interactions that repeat an earlier user_id, item_id": 1,
        "rows of users that repeat an earlier user_id": 1,
    }


def test_read_cold_start_integer_ids_are_read_as_strings(tmp_path: Path) -> None:
    tables = _read(_file(tmp_path / "i.parquet", user_id=[7], item_id=[12]))
    assert tables.interactions.to_pylist() == [{"user_id": "7", "item_id": "12"}]


def test_fingerprint_is_of_the_content_not_of_files_and_order(tmp_path: Path) -> None:
    one = _read(_file(tmp_path / "i.parquet", user_id=["a", "b", "b"], item_id=["x", "y", "y"]))
    _file(tmp_path / "folder" / "1.parquet", user_id=["b"], item_id=["y"])
    _file(tmp_path / "folder" / "2.parquet", user_id=["a"], item_id=["x"])
    assert _read(str(tmp_path / "folder")).fingerprint == one.fingerprint
    other = _read(_file(tmp_path / "j.parquet", user_id=["a", "b"], item_id=["x", "x"]))
    described = _read(
        str(tmp_path / "i.parquet"),
        users=_file(tmp_path / "u.parquet", user_id=["a"], profile=["p"]),
    )
    assert len({one.fingerprint, other.fingerprint, described.fingerprint}) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user_id": ["a"]},
            r"missing column\(s\) item_id; expected user_id, item_id, saw user_id",
        ),
        (
            {"user_id": [1.0], "item_id": ["x"]},
            "column user_id has type double; expected strings or integers",
        ),
        ({"user_id": [["a"]], "item_id": ["x"]}, "column user_id has type list"),
    ],
)
def test_read_cold_start_wrong_columns_are_refused(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _read(_file(tmp_path / "i.parquet", **columns))


def test_read_cold_start_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageNotFoundError, match=r"nowhere\.parquet"):
        _read(str(tmp_path / "nowhere.parquet"))
    (tmp_path / "text.parquet").write_text("user_id,item_id\n")
    with pytest.raises(DataError, match=r"text\.parquet: expected Parquet files"):
        _read(str(tmp_path / "text.parquet"))


def test_with_history_adds_the_users_interactions_once(dataset: Dataset, tmp_path: Path) -> None:
    tables = _read(_file(tmp_path / "i.parquet", user_id=["ann"], item_id=["new"]))
    rows = with_history(
        tables, dataset, History("eve", ("y", "x", "y", "new"))
    ).interactions.to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in rows] == [
        ("ann", "new"),
        ("eve", "new"),
        ("eve", "x"),
        ("eve", "y"),
    ]


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        (History("ann", ("x",)), ConfigError, "user 'ann' is known"),
        (History("early", ("x",)), ConfigError, "user 'early' is known"),
        (History("eve", ()), ConfigError, "history of user 'eve' is empty"),
        (History("eve", ("x", "zz")), UnknownIdError, "item 'zz' is not among the 2 items"),
    ],
)
def test_with_history_that_cannot_be_is_refused(
    dataset: Dataset, tmp_path: Path, history: History, error: type[Exception], message: str
) -> None:
    tables = _read(_file(tmp_path / "i.parquet", user_id=["early"], item_id=["x"]))
    with pytest.raises(error, match=message):
        with_history(tables, dataset, history)
