"""Invariants 4 to 6 of xrec.table: failing stores, removals, files that are added."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pyarrow as pa
import pytest

from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import ObjectStore
from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import (
    FORMAT,
    file_of,
    paths_of,
    users_of,
)
from xrec.errors import (
    StaleRemovalError,
    StorageUnreachableError,
    TableError,
)
from xrec.storage import Location
from xrec.table import DataFile, Table, TableFormat, write_file
from xrec.table import writer as writer_module
from xrec.table.log import FOLDER

HOUR = timedelta(hours=1)


# 4. A commit is in the table once or not at all, whatever happens to its request.


@contextmanager
def failing_create(
    monkeypatch: pytest.MonkeyPatch, location: Location, outcomes: list[str]
) -> Iterator[None]:
    """Let writes of the log's entries fail in turn, before they are done or after."""
    create = type(location).create_bytes

    def fail(target: Location, data: bytes) -> bool:
        outcome = outcomes.pop(0) if FOLDER in target.path and outcomes else "done"
        if outcome == "before":
            raise StorageUnreachableError(f"{target}: no answer")
        done = create(target, data)
        if outcome == "after":
            raise StorageUnreachableError(f"{target}: no answer")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(type(location), "create_bytes", fail)
        patch.setattr(writer_module, "_WAITS_SECONDS", (0.0, 0.0))
        yield


@pytest.mark.parametrize(
    "outcomes",
    [["after"], ["before"], ["before", "after"], ["after", "before"]],
    ids="-then-".join,
)
def test_invariant_4_commit_whose_request_fails_is_there_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, outcomes: list[str]
) -> None:
    table = place.table()
    with failing_create(monkeypatch, table.location, [*outcomes]):
        writer = table.take_over("driver")  # its commit fails so too
    with failing_create(monkeypatch, table.location, [*outcomes]):
        assert writer.commit([file_of(table, 1, "a")]) == 2
    assert writer.commit([file_of(table, 2, "b")]) == 3
    assert users_of(table.snapshot()) == ["a", "b"]
    assert table.newest_version() == 3


@pytest.mark.parametrize("landed", [False, True])
def test_invariant_4_commit_that_fails_for_long_closes_the_writer_and_a_take_over_tells(
    disk: Place, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    outcomes = ["after" if landed else "before", "before", "before"]
    with (
        failing_create(monkeypatch, table.location, outcomes),
        pytest.raises(StorageUnreachableError),
    ):
        writer.commit([file_of(table, 1, "a")])
    with pytest.raises(StorageUnreachableError):
        writer.commit([file_of(table, 2, "b")])
    again = table.take_over("driver, again")
    assert users_of(again.snapshot()) == (["a"] if landed else [])


@pytest.mark.slow
def test_invariant_4_store_that_fails_and_loses_answers_has_each_commit_once(
    s3: ObjectStore,
) -> None:
    """A fifth of all requests fails, half of these after the store did them."""
    faults = Faults(share=0.2, draw=random.Random(7))
    with faulty_proxy(s3.endpoint_url, faults) as endpoint_url:
        storage = s3.storage.model_copy(update={"endpoint_url": endpoint_url, "max_attempts": 8})
        place = Place(f"{s3.new_bucket()}/table", storage)
        table = place.table()
        writer = table.take_over("driver")
        for bucket in range(8):
            writer.commit([file_of(table, bucket, f"u{bucket}")])
    assert faults.num_failed >= 5
    there = Table.open(place.uri, storage=s3.storage)
    assert users_of(there.snapshot()) == [f"u{bucket}" for bucket in range(8)]
    assert there.newest_version() == 9


# 5. What is removed was in the table.


def test_invariant_5_stale_removal_is_refused_and_the_writer_goes_on(place: Place) -> None:
    table = place.table()
    writer = table.take_over("driver")
    failed = file_of(table, 1, "a", status="failed")
    writer.commit([failed])
    writer.commit([file_of(table, 1, "a")], [failed.path])
    for removes in ([failed.path], ["status=ok/never-there.parquet"]):
        with pytest.raises(StaleRemovalError, match=r"1 are not in the table at version 3"):
            writer.commit([file_of(table, 1, "a")], removes)
    assert users_of(table.snapshot()) == ["a"]
    assert writer.commit([file_of(table, 2, "b")]) == 4


def test_invariant_5_compaction_in_mid_retry_makes_the_retry_look_again(disk: Place) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    failed = [file_of(table, bucket, f"u{bucket}", status="failed") for bucket in range(3)]
    writer.commit(failed)
    explained = file_of(table, 1, "u1")  # of a retry, while its driver compacts
    writer.compact(group_by="bucket")
    with pytest.raises(StaleRemovalError, match="compaction"):
        writer.commit([explained], [failed[1].path])
    assert users_of(table.snapshot()) == ["u0", "u1", "u2"]
    (compacted,) = paths_of(writer.snapshot())
    left = [file_of(table, bucket, f"u{bucket}", status="failed") for bucket in (0, 2)]
    writer.commit([explained, *left], [compacted])
    assert users_of(table.snapshot()) == ["u0", "u1", "u2"]


# 6. What is added was seen.


def test_invariant_6_file_that_is_not_as_stated_is_refused_and_the_writer_goes_on(
    place: Place,
) -> None:
    table = place.table()
    writer = table.take_over("driver")
    good = file_of(table, 1, "a")
    cut = file_of(table, 2, "b")
    (table.location / cut.path).write_bytes((table.location / cut.path).read_bytes()[:-20])
    text = b"no Parquet" * 10
    (table.location / "status=ok/text.parquet").write_bytes(text)
    other = write_file(
        table.location,
        TableFormat(pa.schema([FORMAT.schema.field("status"), ("x", pa.int32())]), ("status",)),
        pa.table({"x": pa.array([1], pa.int32())}),
        name="other",
        partition={"status": "ok"},
    )
    (table.location / "status=ok/empty.parquet").write_bytes(b"")
    refused = {
        "has .* bytes, its writer stated": cut,
        "not a readable Parquet file": DataFile(
            path="status=ok/text.parquet", num_bytes=len(text), partition={"status": "ok"}
        ),
        r"has 0 bytes, its writer stated 100": DataFile(
            path="status=ok/empty.parquet", num_bytes=100, partition={"status": "ok"}
        ),
        "is not there": DataFile(
            path="status=ok/none.parquet", num_bytes=1, partition={"status": "ok"}
        ),
        "expected columns": other,
    }
    for message, file in refused.items():
        with pytest.raises(TableError, match=message):
            writer.commit([good, file])
    with pytest.raises(TableError, match="in the table twice"):
        writer.commit([good, good])
    assert table.newest_version() == 1
    writer.commit([good])
    with pytest.raises(TableError, match="in the table twice"):
        writer.commit([good])
    assert users_of(table.snapshot()) == ["a"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd.parquet",
        "s3://bucket/status=ok/a.parquet",
        "file:///a.parquet",
        "status=ok/../a.parquet",
        "../status=ok/a.parquet",
        "status=ok//a.parquet",
        "status=ok/./a.parquet",
        "status=ok/deep/a.parquet",
        "status=failed/a.parquet",
        "a.parquet",
        "status=ok/_a.parquet",
        "status=ok/.a.parquet",
        "status=ok/a%20b.parquet",
        "status=ok/a b.parquet",
        "status=ok/a.txt",
        "_xrec/a.parquet",
    ],
)
def test_invariant_6_path_outside_the_partition_s_folder_is_refused(disk: Place, path: str) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    with pytest.raises(TableError, match=r"expected a relative path status=ok/NAME\.parquet"):
        writer.commit([DataFile(path=path, num_bytes=1, partition={"status": "ok"})])


@pytest.mark.parametrize("value", ["", "a/b", "..", "a=b", "ü", "x" * 65, "a b"])
def test_invariant_6_partition_value_that_others_read_differently_is_refused(
    disk: Place, value: str
) -> None:
    table = disk.table()
    with pytest.raises(ValueError, match="expected a string of 1 to 64 letters"):
        file_of(table, 1, "a", status=value)
    file = DataFile(path=f"status={value}/a.parquet", num_bytes=1, partition={"status": value})
    with pytest.raises(ValueError, match="expected a string of 1 to 64 letters"):
        table.take_over("driver").commit([file])
