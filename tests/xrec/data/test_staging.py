"""The staging database on a disk without room."""

import numpy as np
import pyarrow as pa
import pytest

from xrec.config.data import SplitShares
from xrec.data.staging import Staging
from xrec.errors import StorageError

NUM_ROWS = 20_000


def _users() -> pa.Table:
    """Users in no order, whose profiles are 40 MB in all and hard to pack."""
    rng = np.random.default_rng(0)
    ids = [f"{number:06d}" for number in rng.permutation(NUM_ROWS)]
    return pa.table({"user_id": ids, "profile": [rng.bytes(1000).hex() for _ in ids]})


def _sort_on_a_small_disk() -> None:
    with Staging(SplitShares(), memory_gb=0.02) as staging:
        staging.sql("SET max_temp_directory_size = '1MB'")
        staging.add({"users": _users()})
        staging.sql("CREATE TABLE users AS FROM raw.users ORDER BY profile")


def test_staging_without_room_is_a_storage_error_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StorageError, match=r"no room for the rows.*set TMPDIR to"):
        _sort_on_a_small_disk()
    assert list(tmp_path.iterdir()) == []
