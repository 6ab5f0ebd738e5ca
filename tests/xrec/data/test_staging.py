"""The staging database: what does not fit in memory, and a disk without room."""

import pyarrow as pa
import pytest

from xrec.config.data import SplitShares
from xrec.data.staging import Staging
from xrec.errors import StorageError

NUM_ROWS = 120_000


def _rows(first: int, count: int = NUM_ROWS // 4) -> pa.Table:
    """Users in no order, whose profiles are 60 MB in all and hard to pack."""
    numbers = [(first + place) * 7_919 % NUM_ROWS for place in range(count)]
    profiles = [f"{pow(number + 2, 1201, 1 << 1600):x}" for number in numbers]
    return pa.table({"user_id": [f"{number:06d}" for number in numbers], "profile": profiles})


def test_staging_sorts_more_than_its_memory():
    with Staging(SplitShares(), memory_gb=0.03) as staging:
        for first in range(0, NUM_ROWS, NUM_ROWS // 4):
            staging.add({"users": _rows(first)})
        staging.sql("CREATE TABLE users AS FROM raw.users ORDER BY user_id")
        assert staging.count("users") == NUM_ROWS
        batches = staging.reader("SELECT user_id FROM users")
        ids = [each for batch in batches for each in batch["user_id"].to_pylist()]
        ((used,),) = staging.sql("SELECT sum(memory_usage_bytes) FROM duckdb_memory()")
    assert ids == sorted(ids)
    assert used < 0.03e9


def _sort_on_a_small_disk() -> None:
    with Staging(SplitShares()) as staging:
        staging.sql("SET max_temp_directory_size = '1MB'; SET memory_limit = '20MB'")
        staging.add({"users": _rows(0)})
        staging.sql("CREATE TABLE users AS FROM raw.users ORDER BY profile")


def test_staging_without_room_is_a_storage_error_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StorageError, match=r"no room for the rows.*set TMPDIR to"):
        _sort_on_a_small_disk()
    assert list(tmp_path.iterdir()) == []
