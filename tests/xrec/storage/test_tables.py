"""Parquet tables: the pinned schema in, the pinned schema out."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec.errors import DataError
from xrec.schemas import PAIRS, USERS
from xrec.storage import content_hash, open_location, read_table, write_table


def _users() -> pa.Table:
    return pa.table(
        {"profile": ["kind", ""], "user_index": pa.array([0, 1], pa.int64()), "user_id": ["a", "b"]}
    )


def test_write_table_casts_and_orders_columns_as_pinned(tmp_path):
    location = open_location(str(tmp_path / "users.parquet"))
    digest = write_table(location, _users(), USERS)
    plain = pq.read_table(tmp_path / "users.parquet")
    assert plain.schema.equals(USERS)
    assert plain.to_pylist() == [
        {"user_id": "a", "user_index": 0, "profile": "kind"},
        {"user_id": "b", "user_index": 1, "profile": ""},
    ]
    assert read_table(location, USERS).equals(plain)
    assert digest == content_hash((tmp_path / "users.parquet").read_bytes())


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"user_id": ["a"], "profile": [""]}, KeyError),
        ({"user_id": ["a"], "user_index": ["one"], "profile": [""]}, pa.ArrowInvalid),
        ({"user_id": ["a"], "user_index": [2**40], "profile": [""]}, pa.ArrowInvalid),
        ({"user_id": [None], "user_index": [0], "profile": [""]}, ValueError),
    ],
)
def test_write_table_value_that_does_not_fit_writes_nothing(tmp_path, columns, error):
    location = open_location(str(tmp_path / "users.parquet"))
    with pytest.raises(error):
        write_table(location, pa.table(columns), USERS)
    assert not location.exists()


def test_read_table_other_schema_shows_both(tmp_path):
    location = open_location(str(tmp_path / "users.parquet"))
    write_table(location, _users(), USERS)
    with pytest.raises(
        DataError,
        match=r"users\.parquet: expected columns(.|\n)*item_id(.|\n)*saw(.|\n)*user_index",
    ):
        read_table(location, PAIRS)


@pytest.mark.parametrize("keep", [0, 10, -4])
def test_read_table_truncated_file_names_it(tmp_path, keep):
    path = tmp_path / "users.parquet"
    write_table(open_location(str(path)), _users(), USERS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"users\.parquet: not a readable Parquet file"):
        read_table(open_location(str(path)), USERS)
