"""Bad places for a run: a full disk, another program in the table, a plan that loses a part, a
store without conditional writes. Each is a clear error, and nothing that was committed is lost.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import deltalake
import pytest

from tests.xrec.bulk.toy_run import FORMAT, IDENTITY, Toy, rows_of, toy_run
from tests.xrec.table.conftest import Place
from tests.xrec.table.unconditional_store import unconditional_store
from xrec.bulk import check_output, open_run
from xrec.bulk.work import Work
from xrec.config.shared import StorageConfig
from xrec.errors import DataError, StorageError, TableError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root, where it may mount, can make a disk that is full")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_run_on_a_full_disk_says_so_and_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    place = Place(str(small_disk / "out"), StorageConfig())
    toy = toy_run(place, tmp_path, num_users=60, rows_per_chunk=3)
    with pytest.raises(StorageError, match="No space left on device"):
        toy.drive()
    check_goes_on(
        toy,
        lambda: subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True),
    )


def test_run_whose_writes_find_no_room_says_so_and_goes_on_once_there_is_room(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    toy = toy_run(disk, tmp_path)
    sync, synced = os.fsync, []

    def fill_up(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 15:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(StorageError, match="No space left on device"):
        toy.drive()
    check_goes_on(toy, lambda: monkeypatch.setattr(os, "fsync", sync))


def check_goes_on(toy: Toy, mend: Callable[[], object]) -> None:
    """See that a run that was stopped has rows, keeps them, and ends once `mend` was called."""
    version = toy.run.table.newest_version()
    committed = rows_of(toy.snapshot(version))
    assert 0 < len(committed) < len(toy.rows)
    assert len(set(committed)) == len(committed)
    mend()
    toy.drive(take_over=True)  # there may have been no room to say that the driver ended
    assert rows_of(toy.snapshot()) == toy.rows
    assert rows_of(toy.snapshot(version)) == committed


def test_run_in_whose_table_another_program_commits_ends_and_names_it(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    toy = toy_run(disk, tmp_path)
    done: list[Work] = []
    last: list[int] = []

    def commit_another(work: Work) -> None:
        done.append(work)
        if len(done) == 4:
            last.append(toy.run.table.newest_version())
            deltalake.DeltaTable(disk.uri).delete("user = 'u-1'")

    error = r"version \d+ was committed by another program \(delta-rs.*: DELETE\)"
    with pytest.raises(TableError, match=error):
        toy.drive(toy.pool(before=commit_another))
    rows = rows_of(toy.snapshot(last[0]))
    assert len(rows) == len(set(rows)) == sum(work.stop - work.start for work in done[:3])
    with pytest.raises(TableError, match="another program"):
        toy.drive(take_over=True)
    assert f"read version {last[0]}" in check_output(disk.uri)[0].mend


def test_run_whose_plan_loses_a_part_ends_and_goes_on_once_it_is_restored(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path)
    part = disk.location / toy.run.plan.record.folder / "part-00000.parquet"
    content = part.read_bytes()
    pool = toy.pool(before=lambda work: part.delete() if len(pool.done) == 3 else None)
    with pytest.raises(DataError, match=r"no longer whole: .*/part-00000\.parquet is missing"):
        toy.drive(pool)
    committed = rows_of(toy.snapshot())
    assert committed
    part.write_bytes(content)
    toy.drive()
    assert rows_of(toy.snapshot()) == toy.rows


@pytest.mark.parametrize("refuses", [True, False])
def test_run_on_a_store_without_conditional_writes_is_refused_before_the_input_is_read(
    refuses: bool,
) -> None:
    def batches() -> list[tuple[object, object]]:
        raise AssertionError("the input was read")

    with (
        unconditional_store(refuses) as storage,
        pytest.raises(TableError, match="no conditional writes"),
    ):
        open_run(
            "s3://bucket/run",
            IDENTITY,
            FORMAT,
            batches,  # type: ignore[arg-type]
            listing={},
            rows_per_chunk=6,
            storage=storage,
        )
