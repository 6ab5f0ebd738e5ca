"""Invariants 9 and 10 of xrec.table: what vacuum leaves."""

from datetime import timedelta
from typing import Any

import deltalake
import pytest

from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import (
    data_files,
    file_of,
    make_older,
    users_of,
)
from xrec.errors import (
    TableError,
)
from xrec.table import DataFile, Table, Writer
from xrec.table import writer as writer_module

HOUR = timedelta(hours=1)


# 9. Vacuum deletes nothing that is needed.


def _old_table(disk: Place) -> tuple[Table, Writer, list[DataFile]]:
    """A table with three files that are two days old, all of it."""
    table = disk.table()
    writer = table.take_over("driver")
    files = [file_of(table, bucket, f"u{bucket}") for bucket in range(3)]
    writer.commit(files)
    make_older(table.location, 48 * HOUR)
    return table, writer, files


def test_invariant_9_vacuum_spares_what_versions_within_retention_and_pins_need(
    disk: Place,
) -> None:
    table, writer, files = _old_table(disk)
    old_version = writer.version
    originals = {file.path for file in files}
    writer.compact(group_by="bucket")
    assert writer.vacuum(retention=HOUR).num_files == 0  # they were live within the last hour
    make_older(table.location, 48 * HOUR)
    assert writer.vacuum(retention=49 * HOUR).num_files == 0
    table.pin("published", old_version)
    assert writer.vacuum(retention=HOUR).num_files == 0
    assert users_of(table.snapshot(old_version)) == ["u0", "u1", "u2"]
    table.unpin("published")
    assert writer.vacuum(retention=HOUR).num_files == 3
    assert not originals & data_files(table.location)
    assert users_of(table.snapshot()) == ["u0", "u1", "u2"]


def test_invariant_9_vacuum_spares_young_files_and_all_that_is_not_a_data_file(disk: Place) -> None:
    table, writer, _ = _old_table(disk)
    left_over = file_of(table, 7, "x").path
    unfinished = "status=ok/.part-7-0a.parquet.x1y2z3"
    spared = [
        "_xrec/plan/00000.parquet",
        "_xrec/plan.json",
        "manifest.json",
        "report.parquet",
        "status=ok/_hidden.parquet",
        "status=ok/notes.txt",
        "other/part-1.parquet",
    ]
    for name in [*spared, unfinished]:
        (table.location / name).write_bytes(b"x")
    make_older(table.location, 48 * HOUR, [*spared, unfinished, left_over])
    young = file_of(table, 8, "in flight").path
    assert writer.vacuum().num_files == 2
    there = set(table.location.files())
    assert {*spared, young} <= there
    assert not {unfinished, left_over} & there


def test_invariant_9_file_that_a_vacuum_may_delete_is_not_added(disk: Place) -> None:
    table, writer, _ = _old_table(disk)
    late = file_of(table, 5, "late")
    make_older(table.location, 21 * HOUR, [late.path])
    with pytest.raises(TableError, match=r"written 21.0 hours ago.*write it again"):
        writer.commit([late])


def test_invariant_9_vacuum_that_sleeps_in_the_middle_deletes_nothing_that_came_since(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xrec.table import vacuum as module

    table, asleep, files = _old_table(disk)
    garbage = file_of(table, 6, "attempt that nobody committed")
    make_older(table.location, 48 * HOUR, [garbage.path])
    delete = module._delete_if_older

    def delete_later(*arguments: Any) -> bool:
        monkeypatch.setattr(module, "_delete_if_older", delete)
        awake = table.take_over("awake")
        with pytest.raises(TableError, match="write it again"):
            awake.commit([garbage])
        awake.commit([file_of(table, 6, "u6")])
        awake.commit([file_of(table, 0, "u0")], [files[0].path])
        awake.compact(group_by="bucket")
        return delete(*arguments)

    monkeypatch.setattr(module, "_delete_if_older", delete_later)
    assert asleep.vacuum(retention=HOUR).num_files == 1
    for version in range(asleep.version, table.newest_version() + 1):
        expected = ["u0", "u1", "u2"] + (["u6"] if version > asleep.version + 1 else [])
        assert users_of(table.snapshot(version)) == expected


# 10. The log is kept as far as versions within its retention and pins need it.


def test_invariant_10_versions_within_the_log_s_retention_and_pins_can_be_opened(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_INTERVAL", 4)
    table = disk.table()
    writer = table.take_over("driver")
    for bucket in range(12):
        writer.commit([file_of(table, bucket, f"u{bucket:02d}")], metadata={"bucket": bucket})
        make_older(table.location, 10 * HOUR)
    # Version v is 10 * (14 - v) hours old.
    table.pin("published", 6)
    assert writer.vacuum(log_retention=200 * HOUR).num_versions == 0
    assert writer.vacuum(retention=HOUR, log_retention=35 * HOUR).num_versions == 4
    assert users_of(table.snapshot(6)) == [f"u{bucket:02d}" for bucket in range(5)]
    table.unpin("published")
    assert writer.vacuum(retention=HOUR, log_retention=35 * HOUR).num_versions == 4
    assert next(version for version, _ in table.history()) == 8
    for version in range(8, 14):
        assert len(users_of(table.snapshot(version))) == version - 1
    with pytest.raises(TableError, match="version 7 is not in the log, which has 8 to 16;"):
        table.snapshot(7)
    assert Table.open(disk.uri).snapshot().rows == 12
    assert deltalake.DeltaTable(table.location.path).to_pyarrow_table().num_rows == 12
    writer.commit([file_of(table, 12, "u12")])
    assert table.snapshot().rows == 13
