"""The staging database: what does not fit in memory, and a disk without room."""

import numpy as np
import pyarrow as pa
import pytest

from xrec.config.data import SplitShares
from xrec.data.staging import Staging
from xrec.errors import StorageError

NUM_ROWS, NUM_PARTS = 160_000, 8


def _users(part: int) -> pa.Table:
    """Users in no order, whose profiles are 320 MB in all and hard to pack."""
    rng = np.random.default_rng(0)
    numbers = np.split(rng.permutation(NUM_ROWS), NUM_PARTS)[part]
    profiles = [rng.bytes(1000).hex() for _ in numbers]
    return pa.table({"user_id": [f"{number:06d}" for number in numbers], "profile": profiles})


def test_staging_sorts_more_than_its_memory():
    with Staging(SplitShares(), memory_gb=0.2) as staging:
        for part in range(NUM_PARTS):
            staging.add({"users": _users(part)})
        staging.sql("CREATE TABLE users AS FROM raw.users ORDER BY user_id")
        assert staging.count("users", "rowid <> user_id::INT") == 0
        batches = staging.reader("SELECT user_id FROM users")
        ids = [each for batch in batches for each in batch["user_id"].to_pylist()]
        ((used,),) = staging.sql("SELECT sum(memory_usage_bytes) FROM duckdb_memory()")
    assert ids == [f"{number:06d}" for number in range(NUM_ROWS)]
    assert used < 0.2e9


def _sort_on_a_small_disk() -> None:
    with Staging(SplitShares(), memory_gb=0.02) as staging:
        staging.sql("SET max_temp_directory_size = '1MB'")
        staging.add({"users": _users(0)})
        staging.sql("CREATE TABLE users AS FROM raw.users ORDER BY profile")


def test_staging_without_room_is_a_storage_error_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StorageError, match=r"no room for the rows.*set TMPDIR to"):
        _sort_on_a_small_disk()
    assert list(tmp_path.iterdir()) == []
