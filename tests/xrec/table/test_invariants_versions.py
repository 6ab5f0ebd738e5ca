"""Invariants 7, 8, 11 to 13 of xrec.table: what readers see, and what stands in the log."""

import random
from datetime import timedelta
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import (
    FORMAT,
    file_of,
    paths_of,
    rows_of,
    users_of,
)
from xrec.errors import (
    LostTableError,
    TableError,
)
from xrec.storage import Location
from xrec.table import Table, Writer
from xrec.table import writer as writer_module
from xrec.table.log import FOLDER, Log

HOUR = timedelta(hours=1)


# 7. A version does not change, and every reader sees its rows once.


def test_invariant_7_reader_at_any_version_sees_each_row_once(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers take over, commit, retry, compact and vacuum in a random order, some of them late.

    The oracle is a list of sets of users, one a version, that grows as commits succeed.
    """
    monkeypatch.setattr(writer_module, "CHECKPOINT_INTERVAL", 7)
    draw = random.Random(18)
    table = disk.table()
    expected: list[list[str]] = [[]]
    drivers: list[Writer] = []
    next_user = iter(range(10_000))

    def commit(writer: Writer) -> None:
        users = [f"u{next(next_user)}" for _ in range(3)]
        writer.commit([file_of(table, draw.randrange(8), *users, status=draw.choice(["ok", "no"]))])
        expected.append(sorted([*expected[-1], *users]))

    def retry(writer: Writer) -> None:
        failed = writer.snapshot().files([("status", "=", "no")])["path"].to_pylist()
        if failed:
            path = draw.choice(failed)
            rows = writer.snapshot().dataset(paths=[path]).to_table()
            users = rows["user"].to_pylist()
            writer.commit([file_of(table, rows["bucket"][0].as_py(), *users)], [path])
            expected.append(expected[-1])

    def compact(writer: Writer) -> None:
        if writer.compact(group_by="bucket", sort_by=["user"], target_bytes=4000) is not None:
            expected.append(expected[-1])

    def vacuum(writer: Writer) -> None:
        writer.vacuum()
        expected.append(expected[-1])

    num_refused = 0
    for _ in range(60):
        if not drivers or draw.random() < 0.08:
            drivers.append(table.take_over(f"driver {len(drivers)}"))
            expected.append(expected[-1])
        driver = draw.choice([*drivers[-2:], *[drivers[-1]] * 6])
        try:
            draw.choice([commit, commit, commit, retry, retry, compact, vacuum])(driver)
        except LostTableError:
            assert driver is not drivers[-1]
            num_refused += 1
    assert num_refused >= 2
    assert len(expected) - 1 == table.newest_version()
    for version, users in enumerate(expected):
        assert users_of(table.snapshot(version)) == users
    delta = deltalake.DeltaTable(table.location.path)
    assert sorted(delta.to_pyarrow_table()["user"].to_pylist()) == expected[-1]


def test_invariant_7_reader_of_an_old_version_reads_on_while_it_is_replaced(place: Place) -> None:
    table = place.table()
    writer = table.take_over("driver")
    writer.commit([file_of(table, bucket, f"u{bucket}") for bucket in range(3)])
    before = table.snapshot()
    writer.compact(group_by="bucket")
    writer.vacuum(retention=HOUR)
    assert users_of(before) == ["u0", "u1", "u2"] == users_of(table.snapshot(before.version))
    assert not paths_of(before) & paths_of(table.snapshot())


# 8. A compaction changes no row.


def test_invariant_8_compaction_keeps_all_rows_and_gives_each_group_one_row_group(
    disk: Place,
) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    draw = random.Random(3)
    for turn in range(3):
        writer.commit(
            [
                file_of(
                    table, bucket, *(f"{turn}-{draw.random()}" for _ in range(4)), status=status
                )
                for bucket in range(6)
                for status in ("ok", "failed")
            ]
        )
    before = table.snapshot().dataset().to_table().sort_by("user")
    writer.compact(group_by="bucket", sort_by=["user"], target_bytes=3000)
    after = table.snapshot()
    assert after.dataset().to_table().sort_by("user").equals(before)
    assert 2 < after.files().num_rows < 36
    groups = []
    for row in after.files().to_pylist():
        file = pq.ParquetFile(pa.BufferReader((table.location / row["path"]).read_bytes()))
        for number in range(file.num_row_groups):
            group = file.read_row_group(number)
            (bucket,) = set(group["bucket"].to_pylist())
            assert group["user"].to_pylist() == sorted(group["user"].to_pylist())
            groups.append((row["partition.status"], bucket))
    assert sorted(groups) == sorted((s, b) for s in ("ok", "failed") for b in range(6))


def test_invariant_8_compaction_that_lost_rows_is_not_committed(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    writer.commit([file_of(table, bucket, f"u{bucket}") for bucket in range(3)])
    one_short = file_of(table, 0, "u0", "u1")
    monkeypatch.setattr(writer_module, "write_piece", lambda *arguments: one_short)
    with pytest.raises(TableError, match="read 3 rows and wrote 2; nothing is committed"):
        writer.compact(group_by="bucket")
    assert users_of(table.snapshot()) == ["u0", "u1", "u2"]


# 11. xrec builds on its own commits only.


@pytest.mark.parametrize("kind", ["append", "optimize", "restore"])
def test_invariant_11_commit_of_another_program_is_seen_and_not_built_upon(
    disk: Place, kind: str
) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    writer.commit([file_of(table, bucket, f"u{bucket}") for bucket in range(3)])
    delta = deltalake.DeltaTable(table.location.path)
    if kind == "append":
        rows = rows_of(9, "theirs").append_column("status", pa.array(["ok"]))
        deltalake.write_deltalake(delta, rows.select(FORMAT.schema.names), mode="append")
    elif kind == "optimize":
        delta.optimize.compact()
    else:
        delta.restore(1)
    message = "version 3 was committed by another program"
    with pytest.raises(TableError, match=message):
        writer.commit([file_of(table, 4, "u4")])
    with pytest.raises(TableError, match=message):
        writer.vacuum()
    with pytest.raises(TableError, match=message):
        table.take_over("another")
    with pytest.raises(TableError, match=message):
        table.snapshot()
    assert users_of(table.snapshot(2)) == ["u0", "u1", "u2"]


# 12. The log holds nothing of the rows but the statistics of the chosen columns.


def test_invariant_12_log_holds_no_values_but_those_of_chosen_columns(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT_INTERVAL", 3)
    table = disk.table()
    writer = table.take_over("driver")
    writer.commit([file_of(table, 4711, "secret-person")])
    writer.commit([file_of(table, 4712, "other")])
    assert Log(table.location).checkpoints() == [3]
    log = b"".join(
        (table.location / name).read_bytes()
        for name in table.location.files()
        if name.startswith(FOLDER)
    )
    assert b"4711" in log
    assert b"secret-person" not in log
    files = table.snapshot().files([("bucket", "=", 4711)])
    assert files["num_rows"].to_pylist() == [1]


# 13. The store has conditional writes.


def test_invariant_13_store_without_conditional_writes_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Place
) -> None:
    table = disk.table()

    def create_or_replace(location: Location, data: bytes) -> bool:
        location.write_bytes(data)  # as a store does that ignores If-None-Match
        return True

    monkeypatch.setattr(type(table.location), "create_bytes", create_or_replace)
    for start in (
        lambda: table.take_over("driver"),
        lambda: Table.create(str(tmp_path / "new"), FORMAT, run="this-run"),
    ):
        with pytest.raises(TableError, match=r"no conditional writes .*a file was created twice"):
            start()
    assert [name for name in table.location.files() if name.startswith("_xrec/cond")] == []
