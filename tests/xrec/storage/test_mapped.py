"""Files that the processes of a node share, a cache limited in bytes, and forgotten people."""

import errno
import logging
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from xrec.errors import ArtifactMismatchError, DataError, StorageError
from xrec.schemas import PAIRS
from xrec.storage import (
    ByteCache,
    Forgotten,
    Location,
    Manifest,
    made_once,
    map_file,
    map_table,
    mapped,
    mapped_arrays,
    node_folder,
    open_location,
    write_contents,
)

ROWS = pa.table({"user_id": [f"u{n}" for n in range(70_000)], "item_id": ["i"] * 70_000})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of shared files of a node that has none yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return node_folder() / "mapped"


def _artifact(folder: Path, **contents: bytes) -> tuple[Location, Manifest]:
    location = open_location(str(folder / "artifact"))
    return location, Manifest.model_construct(files=write_contents(location, contents))


def _pairs(folder: Path, table: pa.Table = ROWS) -> tuple[Location, Manifest]:
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(PAIRS), sink)
    return _artifact(folder, pairs=sink.getvalue().to_pybytes())


def test_mapped_table_equals_the_written_one_and_takes_no_memory_of_arrow(tmp_path, cache):
    where = _pairs(tmp_path)
    before = pa.total_allocated_bytes()
    table = map_table(*where, "pairs", PAIRS)
    assert pa.total_allocated_bytes() - before < 50_000  # its texts take a megabyte
    assert table.equals(ROWS.cast(PAIRS))
    assert [len(chunk) for chunk in table["user_id"].chunks] == [65_536, 70_000 - 65_536]
    (where[0] / "pairs").delete()  # the mapped file exists
    assert map_table(*where, "pairs", PAIRS).equals(table)
    assert map_table(*_pairs(tmp_path, ROWS.slice(0, 0)), "pairs", PAIRS).num_rows == 0


def test_file_is_copied_in_parts_and_padded_with_zeros(tmp_path, monkeypatch):
    monkeypatch.setattr("xrec.storage.artifact.PART_BYTES", 7)
    where = _artifact(tmp_path, weights=bytes(range(100)), none=b"")
    assert map_file(*where, "weights", Path.read_bytes) == bytes(range(100))
    assert map_file(*where, "none", Path.read_bytes, 3) == b"\0\0\0"


@pytest.mark.parametrize("code", ["changed_file", "missing_file"])
def test_missing_or_changed_file_is_refused_and_leaves_nothing(tmp_path, cache, code):
    location, manifest = _pairs(tmp_path)
    file = location / "pairs"
    if code == "changed_file":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.delete()
    for read in (map_table, map_file):
        with raises(ArtifactMismatchError, code, "pairs"):
            read(location, manifest, "pairs", PAIRS)
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_table_of_another_schema_is_refused_even_once_it_is_mapped(tmp_path):
    where = _pairs(tmp_path)
    for _ in range(2):
        with raises(DataError, "other_columns", saw=["user_id", "item_id"]):
            map_table(*where, "pairs", pa.schema([("other", pa.string())]))


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_truncated_file_is_made_again(tmp_path, cache, caplog, kept):
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

    mapped_arrays("counts", make)["numbers"][:] = 7  # a private copy
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


def test_full_disk_or_unwritable_folder_is_reported(tmp_path, cache, monkeypatch):
    with raises(StorageError, "no_room", str(cache / "x")):
        mapped("x", _full, Path.read_text)
    full = {"posix_fallocate": lambda file, *sizes: _full(Path(os.devnull))}
    module = sys.modules["xrec.storage.mapped"]  # a function hides it
    monkeypatch.setattr(module, "os", SimpleNamespace(**{**vars(os), **full}))
    with raises(StorageError, "no_room", str(cache / "x")):
        mapped_arrays("x", lambda: {"numbers": np.arange(9)})
    assert not any("x" in path.name for path in cache.iterdir() if path.suffix != ".lock")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with raises(StorageError, "no_room"):
        mapped("x", Path.touch, Path.read_text)


def test_concurrent_processes_and_threads_make_a_file_once(tmp_path):
    target = tmp_path / "folder" / "made"
    with get_context("spawn").Pool(1) as pool, ThreadPoolExecutor(2) as threads:
        making = pool.map_async(_count_making, [target] * 4)
        list(threads.map(_count_making, [target] * 4))
        making.get(300)
    assert target.read_text() == "1"


def _count_making(target: Path) -> None:
    def make(path: Path) -> None:
        counter = target.with_name("counter")
        with counter.open("a") as file:
            file.write("x")
        time.sleep(0.1)
        path.write_text(str(counter.stat().st_size))

    made_once(target, make)
    assert target.read_text() == "1"


def test_cache_stays_within_its_bytes_and_evicts_the_least_recently_used_entry():
    cache, kept, rng = ByteCache[int, int](500), dict[int, int](), random.Random(0)
    for _ in range(2000):
        key, size = rng.randrange(40), rng.choice([rng.randrange(1, 120), 500, 501])
        cache.put(key, size, size)
        kept.pop(key, None)
        if size <= 500:
            kept[key] = size
        while sum(kept.values()) > 500:
            del kept[next(iter(kept))]
        used = rng.randrange(40)
        assert cache.get(used) == kept.get(used)
        if used in kept:
            kept[used] = kept.pop(used)
        assert cache.num_bytes == sum(kept.values())


def test_file_that_nobody_opened_for_a_week_is_deleted_by_who_makes_another(cache):
    def use(name: str) -> str:
        return mapped(name, lambda path: path.write_text(name), Path.read_text)

    for name in ("old", "used", "other"):
        use(name)
        os.utime(cache / name, (0, 0))
    use("used")
    use("new")
    assert {path.name for path in cache.iterdir() if path.suffix != ".lock"} == {"used", "new"}


def test_forgotten_people_are_recognized_by_their_hashes_alone():
    nobody, key = Forgotten(), b"k" * 32
    people = Forgotten(key, frozenset({Forgotten(key).hash_of("ann")}))
    rows = pa.table({"user_id": ["ann", "ben", "ann", None], "item_id": ["1", "2", "3", "4"]})
    assert [people.has("ann"), people.has("ben"), nobody.has("ann")] == [True, False, False]
    assert Forgotten(b"l" * 32, people.hashes).has("ann") is False
    assert people.among(rows["user_id"]) == ["ann"]
    assert people.without(rows)["item_id"].to_pylist() == ["2", "4"]
    assert nobody.without(rows) is rows
