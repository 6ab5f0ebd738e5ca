"""Files that a node's processes share: made once, mapped, and never half there."""

import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec.errors import ArtifactMismatchError, DataError, StorageError
from xrec.schemas import PAIRS
from xrec.storage import (
    Location,
    Manifest,
    mapped,
    mapped_arrays,
    node_folder,
    open_location,
    write_contents,
)
from xrec.storage.mapped import made_once, map_file, map_table

ROWS = pa.table({"user_id": [f"u{n}" for n in range(70_000)], "item_id": ["i"] * 70_000})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A node that has no files yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return node_folder() / "mapped"


def _artifact(folder: Path, **contents: bytes) -> tuple[Location, Manifest]:
    location = open_location(str(folder / "artifact"))
    return location, Manifest.model_construct(files=write_contents(location, contents))


def _pairs(folder: Path, table: pa.Table = ROWS) -> tuple[Location, Manifest]:
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(PAIRS), sink)
    return _artifact(folder, pairs=sink.getvalue().to_pybytes())


def test_table_is_what_was_written_and_takes_no_memory_of_arrow(tmp_path, cache):
    where = _pairs(tmp_path)
    before = pa.total_allocated_bytes()
    table = map_table(*where, "pairs", PAIRS)
    assert pa.total_allocated_bytes() - before < 50_000  # its texts have a megabyte
    assert table.equals(ROWS.cast(PAIRS))
    assert [len(chunk) for chunk in table["user_id"].chunks] == [65_536, 70_000 - 65_536]
    (where[0] / "pairs").delete()  # it is there already
    assert map_table(*where, "pairs", PAIRS).equals(table)
    assert map_table(*_pairs(tmp_path, ROWS.slice(0, 0)), "pairs", PAIRS).num_rows == 0


def test_file_in_several_parts_is_copied_with_a_hole_behind_it(tmp_path, monkeypatch):
    monkeypatch.setattr("xrec.storage.artifact._PART_BYTES", 7)
    where = _artifact(tmp_path, weights=bytes(range(100)), none=b"")
    assert map_file(*where, "weights", Path.read_bytes) == bytes(range(100))
    assert map_file(*where, "none", Path.read_bytes, 3) == b"\0\0\0"


@pytest.mark.parametrize("error", ["its content is not what the man", "this file, and it is not"])
def test_file_that_is_missing_or_another_is_refused_and_nothing_stays(tmp_path, cache, error):
    location, manifest = _pairs(tmp_path)
    file = location / "pairs"
    if "content" in error:
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.delete()
    for read in (map_table, map_file):
        with pytest.raises(ArtifactMismatchError, match=rf"pairs: .*{error}.*again"):
            read(location, manifest, "pairs", PAIRS)
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_table_of_another_schema_is_refused_also_when_it_is_there(tmp_path):
    where = _pairs(tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match=r"pairs: expected columns(.|\n)*saw(.|\n)*user_id"):
            map_table(*where, "pairs", pa.schema([("other", pa.string())]))


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_file_that_was_cut_off_is_made_again(tmp_path, cache, caplog, kept):
    where = _pairs(tmp_path)
    map_table(*where, "pairs", PAIRS)
    (path,) = cache.glob("*.arrow")
    path.write_bytes(path.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING, logger="xrec"):
        assert map_table(*where, "pairs", PAIRS).equals(ROWS.cast(PAIRS))
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("damage", [None, "delete", "cut"])
def test_arrays_are_made_once_and_again_if_one_is_damaged(cache, damage):
    calls = []

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"numbers": np.arange(9.0), "none": np.empty(0, np.int32)}

    mapped_arrays("counts", make)["numbers"][:] = 7  # the process's own
    file = cache / "counts" / "numbers.npy"
    if damage == "delete":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    found = mapped_arrays("counts", make)
    assert found["numbers"].tolist() == list(range(9))
    assert (found["none"].shape, found["none"].dtype) == ((0,), np.int32)
    assert len(calls) == (1 if damage is None else 2)


def _full(path: Path) -> None:
    path.write_text("a part")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_or_a_folder_that_cannot_be_written_is_told(tmp_path, cache, monkeypatch):
    error = r"mapped/x: this node cannot keep .*No space left.*XDG"
    with pytest.raises(StorageError, match=error):
        mapped("x", _full, Path.read_text)
    monkeypatch.setattr("os.posix_fallocate", lambda file, *sizes: _full(Path(os.devnull)))
    with pytest.raises(StorageError, match=error):
        mapped_arrays("x", lambda: {"numbers": np.arange(9)})
    assert not any("x" in path.name for path in cache.iterdir() if path.suffix != ".lock")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"this node cannot keep .*Not a directory"):
        mapped("x", Path.touch, Path.read_text)


def test_processes_at_once_make_a_file_once(tmp_path):
    target = tmp_path / "made"
    with get_context("spawn").Pool(3) as pool:
        pool.map(_count_making, [target] * 6)
    assert target.read_text() == "1"


def _count_making(target: Path) -> None:
    counter = target.with_name("counter")

    def make(path: Path) -> None:
        with counter.open("a") as file:
            file.write("x")
        time.sleep(0.1)
        path.write_text(str(counter.stat().st_size))

    made_once(target, make)
    assert target.read_text() == "1"


def test_threads_at_once_wait_for_one_that_makes_it(tmp_path):
    target = tmp_path / "folder" / "made"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: _count_making(target), range(4)))
