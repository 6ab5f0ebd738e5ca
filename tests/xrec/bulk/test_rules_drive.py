"""Rules 4 to 8 of xrec.bulk: the driver's hold, chunks, commits, retries."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.bulk.toy_run import Toy, ToyTask, rows_of, toy_run
from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import make_older
from xrec.bulk import compact, read_status, vacuum
from xrec.bulk.attempts import works_of
from xrec.bulk.driver import _Driver
from xrec.bulk.ledger import Ledger, UnitResult
from xrec.bulk.run import committed_chunks
from xrec.bulk.state import read_state
from xrec.bulk.work import Died, Done, Work
from xrec.bulk.worker import ChunkWorker
from xrec.errors import LeaseError, LostTableError, StorageNotFoundError, TableError


class DriverDied(BaseException):
    """The driver's process is killed here."""


def die_after(num_works: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a pool calls before each work, so that the driver dies and commits nothing more."""
    monkeypatch.setattr(_Driver, "leave", lambda driver: None)
    seen: list[Work] = []

    def before(work: Work) -> None:
        seen.append(work)
        if len(seen) > num_works:
            raise DriverDied

    return before


def results_of(toy: Toy, num_units: int) -> list[UnitResult]:
    """The results of the first units that are left, none of them committed."""
    worker = ChunkWorker(toy.settings())
    units = list(toy.run.units_left(toy.snapshot()))[:num_units]
    return [
        UnitResult(unit, tuple(worker.do(work) for work in works_of(unit, {}))) for unit in units
    ]


class Clock:
    """Seconds that a test moves on."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


# 4. One driver commits.


def test_rule_4_driver_that_was_replaced_commits_nothing_and_ends(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path)
    versions: list[int] = []

    def replace(work: Work) -> None:
        if not versions:
            versions.append(toy.run.table.take_over("another").version)

    pool = toy.pool(before=replace)
    with pytest.raises(LostTableError, match="another"):
        toy.drive(pool)
    assert pool.is_closed
    assert toy.run.table.newest_version() == versions[0]
    toy.drive(take_over=True)
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_4_driver_is_not_started_beside_one_that_lives(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(2, patch)), holder="the first")
    with pytest.raises(LeaseError, match="the first runs this job, and is taken for alive until"):
        toy.drive()
    assert read_status(disk.uri).is_running()
    later = datetime.now(UTC) + timedelta(seconds=91)
    assert not read_status(disk.uri).is_running(later)
    toy.drive(take_over=True)
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_4_driver_that_died_is_replaced_after_its_term(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    monkeypatch.setattr("xrec.bulk.ledger.TERM", timedelta(0))
    with monkeypatch.context() as patch, pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(2, patch)))
    toy.drive()
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_4_driver_is_replaced_at_once_if_it_was_a_process_of_this_machine_and_is_no_more(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    gone = subprocess.run(
        [
            sys.executable,
            "-c",
            "from xrec.storage.process import this_process; print(this_process())",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    with monkeypatch.context() as patch, pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(2, patch)), holder=gone.stdout.strip())
    assert read_status(disk.uri).phase() == "silent"
    toy.drive()
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_4_driver_without_results_says_every_30_seconds_that_it_lives(
    disk: Place, tmp_path: Path
) -> None:
    toy, clock = toy_run(disk, tmp_path), Clock()
    ledger = Ledger(toy.run.table, toy.run.table.take_over("test"), clock)
    assert ledger.seconds_to_commit() == 30
    clock.now = 29
    assert ledger.seconds_to_commit() == 1
    clock.now = 31
    assert ledger.seconds_to_commit() == 0
    ledger.commit()
    assert ledger.seconds_to_commit() == 30
    _, state = read_state(toy.run.table, ledger.writer.version)
    assert state is not None
    assert state.expires_at is not None
    assert timedelta(seconds=80) < state.expires_at - datetime.now(UTC) <= timedelta(seconds=90)


# 5. Each row is done once, and the files of a chunk are committed together.


def test_rule_5_run_has_each_row_once_as_done_or_failed(place: Place, tmp_path: Path) -> None:
    toy = toy_run(place, tmp_path, ["a", "odd-1", "dull-2", "b"], num_users=6)
    pool = toy.pool()
    state = toy.drive(pool)
    assert rows_of(toy.snapshot()) == toy.rows
    failed = [row for row in toy.rows if row[1] in ("odd-1", "dull-2")]
    assert rows_of(toy.snapshot(), "failed") == failed
    assert (state.state, state.num_ok, state.failed) == ("finished", 12, {"odd": 6, "dull": 6})
    assert state.costs["tokens"] == 36
    assert toy.drive(late := toy.pool()) == state  # done already
    assert late.num_starts == 0


def test_rule_5_rows_have_the_columns_of_their_status_and_others_null(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    toy.drive()
    rows = toy.snapshot().dataset().to_table().to_pylist()
    for row in rows:
        is_ok = row["status"] == "ok"
        assert [row[name] is None for name in ("text", "num_tokens")] == [not is_ok] * 2
        assert [row[name] is None for name in ("reason", "message", "hint")] == [is_ok] * 3
    files = toy.snapshot().files([("bucket", "=", rows[0]["bucket"])])
    assert 0 < files.num_rows < toy.snapshot().files().num_rows


@pytest.mark.parametrize("num_works", [0, 1, 3])
def test_rule_5_restarted_run_does_the_chunks_that_are_not_committed(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_works: int
) -> None:
    toy = toy_run(disk, tmp_path)
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    with monkeypatch.context() as patch, pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(num_works, patch)))
    assert len(committed_chunks(toy.snapshot())) == num_works
    assert len(rows_of(toy.snapshot())) == toy.snapshot().rows
    pool = toy.pool()
    toy.drive(pool, take_over=True)
    assert len(pool.done) == toy.run.plan.record.num_chunks - num_works
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_5_uncommitted_files_of_a_dead_driver_are_not_in_the_table(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(3, patch)))
    assert toy.snapshot().rows == 0  # two seconds had not passed
    written = [name for name in disk.location.files() if name.startswith("status=")]
    assert len(written) == 3
    toy.drive(take_over=True)
    paths = set(toy.snapshot().files()["path"].to_pylist())
    assert not paths & set(written)
    assert rows_of(toy.snapshot()) == toy.rows


@pytest.mark.parametrize("what", ["missing", "twice", "reason"])
def test_rule_5_task_that_loses_or_doubles_a_row_is_an_error(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    do = ToyTask.do

    def wrong(task: ToyTask, rows: Any) -> Any:
        outcome = do(task, rows)
        if what == "reason":
            failed = task.fail(outcome.failed.select(["user", "item"]), "unheard of", "")
            return type(outcome)(outcome.ok, failed)
        ok = (
            outcome.ok.slice(1)
            if what == "missing"
            else outcome.ok.take([0, *range(len(outcome.ok))])
        )
        return type(outcome)(ok, outcome.failed)

    monkeypatch.setattr(ToyTask, "do", wrong)
    with pytest.raises(ValueError, match="unheard of" if what == "reason" else "each row once"):
        ChunkWorker(toy.settings(row_errors=())).do(
            works_of(next(toy.run.units_left(toy.snapshot())), {})[0]
        )


# 6. A unit is committed once, whatever arrives late.


def test_rule_6_results_that_arrive_twice_are_committed_once(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "kill-1"], num_users=6)
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    earlier: list[Done | Died] = []

    def doubled(event: Done | Died) -> list[Done | Died]:
        if isinstance(event, Died):
            return [event]
        earlier.append(event)
        return [event, *earlier]

    state = toy.drive(toy.pool(after=doubled))
    assert rows_of(toy.snapshot()) == toy.rows
    assert state.num_rows == len(toy.rows)


# 7. Results are committed within two seconds, and each commit states the totals.


def test_rule_7_result_is_due_after_two_seconds_or_at_many_files(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, clock = toy_run(disk, tmp_path), Clock()
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 3)
    ledger = Ledger(toy.run.table, toy.run.table.take_over("test"), clock)
    first, second, third, *_ = results_of(toy, 3)
    clock.now = 10
    ledger.add(first)
    clock.now = 11.5
    ledger.add(second)  # does not put the first off
    assert ledger.seconds_to_commit() == 0.5
    ledger.add(third)
    assert ledger.seconds_to_commit() == 0
    ledger.commit()
    assert ledger.seconds_to_commit() == 30
    assert set(committed_chunks(toy.snapshot())) == {
        int(result.unit.name.split()[1]) for result in (first, second, third)
    }


def test_rule_7_each_version_has_the_rows_that_its_totals_count(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1", "kill-2"], num_users=8)
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    toy.drive()
    toy.heal()
    state = toy.drive(retry=["odd", "task_error"])
    counts = []
    for version, _ in toy.run.table.history():
        _, stated = read_state(toy.run.table, version)
        if stated is not None:
            snapshot = toy.snapshot(version)
            assert len(rows_of(snapshot, "ok")) == stated.num_ok
            assert len(rows_of(snapshot, "failed")) == stated.num_failed
            counts.append(stated.num_rows)
    assert counts == sorted(counts)  # a retry loses none
    assert len(set(counts)) > 3
    assert state.num_ok == len(toy.rows)
    assert state.failed == {}
    assert state.num_deaths > 0


def test_rule_7_totals_that_are_not_the_tables_rows_end_the_run(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path)
    (result,) = results_of(toy, 1)
    toy.run.table.take_over("careless").commit(result.files)
    with pytest.raises(TableError, match=r"state counts 0 rows, the table has \d+"):
        toy.drive()


# 8. A retry replaces failed rows, and all versions from then on have the plan's rows.


def test_rule_8_retry_replaces_rows_of_its_reasons_and_keeps_the_others(
    place: Place, tmp_path: Path
) -> None:
    toy = toy_run(place, tmp_path, ["a", "odd-1", "dull-2"], num_users=6)
    before = toy.drive()
    was_dull = failed_rows(toy, "dull")
    assert toy.drive(retry=["odd"]).failed == before.failed  # they fail again
    toy.heal()
    state = toy.drive(retry=["odd"])
    assert (state.num_ok, state.failed, state.retry) == (12, {"dull": 6}, 2)
    assert rows_of(toy.snapshot()) == toy.rows
    assert failed_rows(toy, "dull") == was_dull
    assert all(
        row["text"]
        for row in toy.snapshot().dataset([("status", "=", "ok")]).to_table().to_pylist()
    )
    assert toy.drive(retry=["odd", "dull"]).failed == {}
    assert rows_of(toy.snapshot(), "ok") == toy.rows


def test_rule_8_every_version_from_the_last_chunk_on_has_each_row_once(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1", "dull-2"])
    toy.drive()
    done = toy.run.table.newest_version()
    toy.heal()
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    toy.drive(retry=["odd"])
    versions = range(done, toy.run.table.newest_version() + 1)
    assert len(versions) > 4
    assert all(rows_of(toy.snapshot(version)) == toy.rows for version in versions)


def test_rule_8_interrupted_retry_goes_on_with_the_files_that_are_left(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1", "dull-2"])
    toy.drive()
    num_files = toy.snapshot().files([("status", "=", "failed")]).num_rows
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    with monkeypatch.context() as patch, pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(2, patch)), retry=["odd"])  # they fail again
    pool = toy.pool()
    state = toy.drive(pool, retry=["odd"], take_over=True)
    assert len(pool.done) == num_files - 2
    assert (state.retry, state.failed) == (1, {"odd": 12, "dull": 12})
    assert rows_of(toy.snapshot()) == toy.rows
    assert len((again := toy.pool()).done) == 0
    assert toy.drive(again, retry=["odd"]).retry == 2  # another retry does all files
    assert len(again.done) == num_files


def test_rule_8_interrupted_retry_is_over_once_the_run_was_finished_without_it(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1", "dull-2"])
    toy.drive()
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 1)
    with monkeypatch.context() as patch, pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(2, patch)), retry=["odd"])
    assert toy.drive(take_over=True).state == "finished"
    toy.heal()
    assert toy.drive(retry=["odd"]).failed == {"dull": 12}


def test_rule_8_unknown_reason_is_refused_before_anything_is_written(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path)
    version = toy.run.table.newest_version()
    with pytest.raises(ValueError, match=r"\['od'\]: expected .* odd, dull, task_error"):
        toy.drive(retry=["od"])
    assert toy.run.table.newest_version() == version


def test_rule_8_compaction_and_vacuum_are_refused_before_the_run_is_finished(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1", "dull-2"])
    for upkeep in (compact, vacuum):
        with pytest.raises(TableError, match="0 of 36 rows are done"):
            upkeep(toy.run, holder="upkeep")
    toy.drive()
    monkeypatch.setattr("xrec.bulk.ledger.TERM", timedelta(0))
    with monkeypatch.context() as patch, pytest.raises(DriverDied):
        toy.drive(toy.pool(before=die_after(1, patch)), retry=["odd"])
    with pytest.raises(TableError, match="36 of 36 rows are done; run it to its end first"):
        compact(toy.run, holder="upkeep")


def test_rule_8_retry_of_a_compacted_table_changes_no_other_row(
    place: Place, tmp_path: Path
) -> None:
    toy = toy_run(place, tmp_path, ["a", "odd-1", "dull-2"], num_users=6)
    toy.drive()
    assert compact(toy.run, holder="upkeep") is not None
    vacuum(toy.run, holder="upkeep")
    assert toy.snapshot().files().num_rows == 2
    assert toy.drive().state == "finished"
    toy.heal()
    state = toy.drive(retry=["odd"])
    assert (state.num_ok, state.failed) == (12, {"dull": 6})
    assert rows_of(toy.snapshot()) == toy.rows
    buckets = toy.snapshot().dataset().to_table(columns=["user", "bucket"]).to_pylist()
    assert len({(row["user"], row["bucket"]) for row in buckets}) == 6


def test_rule_8_state_of_a_finished_run_outlives_the_log_s_old_entries(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.table.writer.CHECKPOINT_INTERVAL", 2)
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    state = toy.drive()
    finished_at = toy.run.table.newest_version()
    compact(toy.run, holder="upkeep")
    for _ in range(2):
        vacuum(toy.run, holder="upkeep")
        make_older(disk.location, timedelta(days=20))
    assert vacuum(toy.run, holder="upkeep").num_versions > finished_at
    with pytest.raises(StorageNotFoundError):
        toy.run.table.commit(finished_at)
    assert toy.drive() == state
    assert read_status(disk.uri).state == state
    compact(toy.run, holder="upkeep")
    toy.heal()
    assert toy.drive(retry=["odd"]).num_ok == len(toy.rows)


def failed_rows(toy: Toy, reason: str) -> list[dict[str, object]]:
    """The failed rows with this reason, in full."""
    rows = toy.snapshot().dataset([("status", "=", "failed")]).to_table().to_pylist()
    found = [row for row in rows if row["reason"] == reason]
    return sorted(found, key=lambda row: (row["user"], row["item"]))
