"""The staging database on a disk without room, and within little memory."""

import numpy as np
import pyarrow as pa
import pytest

from xrec.config.data import SplitShares
from xrec.data.assemble import assemble
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


def test_assemble_long_texts_on_many_threads_within_little_memory_sorts_them():
    num_rows, num_letters = 140_000, 300
    rng = np.random.default_rng(0)
    letters = rng.bytes(num_rows * num_letters // 2).hex()
    ids = [f"{number:06d}" for number in rng.permutation(num_rows)]
    starts = range(0, len(letters), num_letters)
    profiles = [letters[start : start + num_letters] for start in starts]
    pairs = {"user_id": ids[:1], "item_id": ["i"], "split": ["train"]}
    with Staging(SplitShares(), memory_gb=0.06) as staging:
        staging.sql("SET threads = 8")
        staging.add({"users": pa.table({"user_id": ids, "profile": profiles})})
        staging.add({"interactions": pa.table(pairs)})
        users = assemble(staging).tables["users"].read_all()
    assert users["user_id"].to_pylist() == sorted(ids)
    assert users["profile"][int(ids[0])].as_py() == profiles[0]
