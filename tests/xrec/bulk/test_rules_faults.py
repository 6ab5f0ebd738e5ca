"""Rules 9 to 13 of xrec.bulk: lost tables and answers, deaths, errors, the store, the end."""

import io
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.bulk.test_rules_drive import DriverDied
from tests.xrec.bulk.toy_run import FORMAT, Toy, ToyTask, die_here, rows_of, toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import backoff, read_status, worker
from xrec.bulk.driver import _Driver
from xrec.bulk.state import read_state
from xrec.bulk.work import Died, Done, Work
from xrec.bulk.worker import POISONED_EXIT_CODE, is_poisoned
from xrec.errors import (
    ClusterError,
    DataError,
    LostTableError,
    ModelError,
    StorageAccessError,
    StorageError,
)
from xrec.table import Writer
from xrec.table.log import Log


def fail_commits(
    monkeypatch: pytest.MonkeyPatch,
    *,
    num_calls: int,
    is_written: bool,
    do: Callable[[], object] = lambda: None,
) -> list[int]:
    """Let some attempts at an entry that adds files fail, with or without having written it.

    `do` is called after the first. Returns the versions of the attempts, as they come.
    """
    create, failed = Log.create, []

    def create_badly(log: Log, version: int, commit: Any, actions: Any) -> bool:
        lines = list(actions)
        if not any("add" in line for line in lines) or len(failed) >= num_calls:
            return create(log, version, commit, lines)
        failed.append(version)
        if is_written:
            create(log, version, commit, lines)
        if len(failed) == 1:
            do()
        raise StorageError("the store does not answer")

    monkeypatch.setattr(Log, "create", create_badly)
    return failed


# 9. A driver that lost the table ends; one whose commit failed finds out what became of it.


@pytest.mark.parametrize("is_written", [True, False])
def test_rule_9_commit_that_failed_is_in_the_table_once(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_FILES", 2)
    failed = fail_commits(monkeypatch, num_calls=4, is_written=is_written)  # one commit
    pool = toy.pool()
    state = toy.drive(pool)
    assert failed == [failed[0]] * 4
    assert rows_of(toy.snapshot()) == toy.rows
    assert (state.num_ok, state.failed) == (12, {"odd": 12})
    assert len(pool.done) == toy.run.plan.record.num_chunks  # nothing is done again


def test_rule_9_driver_that_lost_the_table_while_the_store_failed_ends(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    with monkeypatch.context() as patch:
        fail_commits(
            patch,
            num_calls=4,
            is_written=True,
            do=lambda: toy.run.table.take_over("another"),
        )
        with pytest.raises(LostTableError, match="another"):
            toy.drive()
    newest = toy.run.table.newest_version()
    assert toy.run.table.commit(newest).holder == "another"  # its table was not taken from it
    toy.drive(take_over=True)
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_9_store_that_fails_again_after_the_take_over_is_tried_again(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    fail_commits(
        monkeypatch,
        num_calls=4,
        is_written=True,
        do=lambda: failed.append(fail_some(monkeypatch, Writer, "snapshot", 2)),
    )
    failed: list[list[int]] = []
    toy.drive()
    assert failed == [[0, 1]]
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_9_driver_whose_take_over_failed_after_it_is_not_taken_for_another(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    fail_commits(monkeypatch, num_calls=4, is_written=False)
    take_over, epochs = type(toy.run.table).take_over, []

    def failing(table: Any, holder: str) -> Any:
        writer = take_over(table, holder)
        epochs.append(writer.epoch)
        if len(epochs) == 2:
            raise StorageError("the store does not answer")
        return writer

    monkeypatch.setattr(type(toy.run.table), "take_over", failing)
    toy.drive()
    assert epochs == [epochs[0], epochs[0] + 1, epochs[0] + 2]
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_9_driver_that_is_replaced_while_it_takes_over_again_ends(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    fail_commits(monkeypatch, num_calls=4, is_written=False)
    take_over, holders = type(toy.run.table).take_over, []

    def beaten(table: Any, holder: str) -> Any:
        holders.append(holder)
        if len(holders) == 2:
            take_over(table, "another")
        return take_over(table, holder)

    monkeypatch.setattr(type(toy.run.table), "take_over", beaten)
    with pytest.raises(LostTableError, match="took the table over meanwhile"):
        toy.drive()
    toy.drive(take_over=True)
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_9_file_that_was_deleted_before_its_commit_is_written_again_once(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path)
    deleted: list[str] = []

    def delete(done: Done | Died) -> list[Done | Died]:
        assert isinstance(done, Done)
        if len(deleted) < 2:
            deleted.append(done.work.unit.name)
            (disk.location / done.files[0].path).delete()
        return [done]

    pool = toy.pool(after=delete)
    toy.drive(pool)
    assert rows_of(toy.snapshot()) == toy.rows
    assert [work.unit.name for work in pool.done].count(deleted[0]) == 2
    assert len(pool.done) == toy.run.plan.record.num_chunks + 2


def test_rule_9_file_that_is_deleted_each_time_ends_the_run(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path)

    def delete(done: Done | Died) -> list[Done | Died]:
        assert isinstance(done, Done)
        if done.work.unit.name == done_first[0]:
            (disk.location / done.files[0].path).delete()
        return [done]

    done_first = [next(toy.run.units_left(toy.snapshot())).name]
    with pytest.raises(StorageError, match=f"files of {done_first[0]} were not .* 2 times"):
        toy.drive(toy.pool(after=delete))
    assert toy.snapshot().rows > 0


# 10. An actor that dies costs only its work, and a row that kills becomes a failed row.


def test_rule_10_row_that_kills_is_found_and_the_others_are_done(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "b"])
    killers = [toy.rows[3], toy.rows[16]]
    pool = toy.pool()
    kills = Killing(toy, killers)
    pool.settings = kills.settings()
    state = toy.drive(pool)
    assert rows_of(toy.snapshot()) == toy.rows
    assert rows_of(toy.snapshot(), "failed") == killers
    (message,) = set(
        toy.snapshot().dataset([("status", "=", "failed")]).to_table()["message"].to_pylist()
    )
    assert message == "2 processes died while they worked on this row alone"
    assert state.deaths == {}
    assert state.num_deaths >= 10  # twice the chunk, its halves, the row twice


def test_rule_10_run_whose_actors_all_die_ends_and_goes_on_when_they_live(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "b"], num_users=64, rows_per_chunk=64)
    pool = toy.pool()
    pool.settings = Killing(toy, toy.rows).settings()
    with pytest.raises(ClusterError, match="64 processes died one after the other"):
        toy.drive(pool)
    state = toy.drive()
    assert (state.num_ok, state.failed) == (len(toy.rows), {})
    assert state.num_deaths == 64


def test_rule_10_what_died_is_tried_alone(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path, ["a", "b"])
    pool = toy.pool(num_slots=4)
    pool.settings = Killing(toy, [toy.rows[3]]).settings()
    beside: list[int] = []
    pool.before = lambda work: beside.append(len(pool.works)) if work.is_alone else None
    state = toy.drive(pool)
    assert len(beside) > 4
    assert set(beside) == {0}
    assert rows_of(toy.snapshot(), "failed") == [toy.rows[3]]
    assert state.failed == {"task_error": 1}


def test_rule_10_restarted_driver_knows_of_the_deaths(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path, ["a"], num_users=4, rows_per_chunk=8)
    monkeypatch.setattr("xrec.bulk.ledger.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(_Driver, "leave", lambda driver: None)
    sizes: list[int] = []
    deaths: list[dict[str, int]] = []

    def die_if_something_died(work: Work) -> None:
        if died[-1]:
            raise DriverDied
        sizes.append(work.stop - work.start)

    def note(event: Done | Died) -> list[Done | Died]:
        died.append(isinstance(event, Died))
        return [event]

    while True:  # each driver dies right after it has committed a death
        died = [False]
        pool = toy.pool(before=die_if_something_died, after=note)
        pool.settings = Killing(toy, [toy.rows[1]]).settings()
        try:
            toy.drive(pool, take_over=True)
            break
        except DriverDied:
            _, state = read_state(toy.run.table, toy.run.table.newest_version())
            assert state is not None
            deaths.append(state.deaths)
    assert [sum(counts.values()) for counts in deaths] == [1, 2, 3, 4, 5]
    assert len(deaths[-1]) == 3  # the chunk, its half, the row
    assert sizes[:3] == [4, 4, 2]
    assert rows_of(toy.snapshot()) == toy.rows
    assert rows_of(toy.snapshot(), "failed") == [toy.rows[1]]


def test_rule_10_machine_that_was_taken_away_does_not_count(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path, ["a"], num_users=4, rows_per_chunk=8)
    num_losses = 0

    def lost(event: Done | Died) -> list[Done | Died]:
        nonlocal num_losses
        num_losses += 1
        return [Died(event.work, "preempted", is_innocent=True)] if num_losses < 6 else [event]

    pool = toy.pool(after=lost)
    state = toy.drive(pool)
    assert {work.stop - work.start for work in pool.done} == {4}
    assert (state.num_ok, state.num_deaths) == (4, 5)


# 11. An error fails its row, ends the process, or ends the run.


def test_rule_11_error_of_a_row_fails_that_row_alone(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path, ["a", "bad-1"])
    state = toy.drive()
    assert (state.num_ok, state.failed) == (12, {"task_error": 12})
    rows = toy.snapshot().dataset([("status", "=", "failed")]).to_table().to_pylist()
    assert {row["item"] for row in rows} == {"bad-1"}
    assert {row["message"] for row in rows} == {"ValueError: bad-1 is bad"}
    assert {row["hint"] for row in rows} == {"a hint"}
    assert state.costs["tokens"] == 36


@pytest.mark.parametrize("error", [ModelError("no model"), RuntimeError("no model")])
def test_rule_11_any_other_error_ends_the_run(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(task: ToyTask, rows: Any) -> Any:
        raise error

    toy = toy_run(disk, tmp_path)
    monkeypatch.setattr(ToyTask, "do", refuse)
    with pytest.raises(type(error), match="no model"):
        toy.drive()
    assert toy.snapshot().rows == 0


POISONED = [
    RuntimeError("CUDA error: device-side assert triggered"),
    type("AcceleratorError", (RuntimeError,), {})("an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
]


@pytest.mark.parametrize("error", POISONED)
def test_rule_11_process_whose_gpu_can_no_longer_be_used_ends(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    toy = toy_run(disk, tmp_path)
    codes: list[int] = []

    def exit_here(code: int) -> None:
        codes.append(code)
        die_here()

    def poisoned(task: ToyTask, rows: Any) -> Any:
        if len(codes) < 2:
            raise error
        return do(task, rows)

    closed = io.StringIO()
    closed.close()
    do = ToyTask.do
    monkeypatch.setattr("xrec.bulk.worker.os._exit", exit_here)
    monkeypatch.setattr(ToyTask, "do", poisoned)
    logging.getLogger("xrec").addHandler(logging.StreamHandler(closed))  # must not keep it alive
    state = toy.drive()
    assert codes == [POISONED_EXIT_CODE] * 2
    assert (state.num_ok, state.failed) == (36, {})  # no row was to blame


def test_rule_11_lack_of_memory_does_not_end_the_process() -> None:
    assert not is_poisoned(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_poisoned(RuntimeError("CUDA error: out of memory"))
    assert not is_poisoned(RuntimeError("shapes do not match"))


# 12. A store that fails is tried again, and then ends the run.


def test_rule_12_failed_reads_and_writes_are_tried_again_with_backoff(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toy = toy_run(disk, tmp_path)
    waits: list[float] = []
    monkeypatch.setattr(backoff, "_WAITS_SECONDS", (1.0, 4.0, 16.0))
    monkeypatch.setattr("xrec.bulk.backoff.time.sleep", waits.append)
    write = fail_some(monkeypatch, worker, "write_file", 3)
    read = fail_some(monkeypatch, worker.PlanFiles, "rows", 2)
    with caplog.at_level(logging.WARNING, "xrec"):
        toy.drive()
    assert (len(write), len(read)) == (3, 2)
    assert list(filter(None, waits)) == [1.0, 4.0, 1.0, 4.0, 16.0]
    assert "the store is tried again in 16 s: no answer" in caplog.text
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_12_store_that_fails_for_longer_ends_the_run_and_what_is_committed_stays(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    num_done = 0

    def fail_later(done: Done | Died) -> list[Done | Died]:
        nonlocal num_done
        num_done += 1
        if num_done == 3:
            fail_some(monkeypatch, worker, "write_file", 99)
        return [done]

    with monkeypatch.context(), pytest.raises(StorageError, match="no answer"):
        toy.drive(toy.pool(after=fail_later))
    monkeypatch.undo()
    assert len(rows_of(toy.snapshot())) > 0
    toy.drive()
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_12_refusal_is_not_tried_again(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = toy_run(disk, tmp_path)
    calls = fail_some(monkeypatch, worker, "write_file", 99, StorageAccessError("refused"))
    with pytest.raises(StorageAccessError, match="refused"):
        toy.drive()
    assert len(calls) == 1


# 13. A run that ends in any way but a kill commits what is done.


def test_rule_13_interrupted_run_commits_what_is_done_and_the_next_may_begin(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path)
    seen: list[Work] = []

    def interrupt(work: Work) -> None:
        seen.append(work)
        if len(seen) == 4:
            raise KeyboardInterrupt

    pool = toy.pool(before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        toy.drive(pool)
    assert pool.is_closed
    num_rows = sum(work.stop - work.start for work in seen[:3])
    assert toy.snapshot().rows == num_rows
    status = read_status(disk.uri)
    assert not status.is_running()
    assert status.num_left == len(toy.rows) - num_rows
    toy.drive()
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_13_rows_that_fail_for_an_expected_reason_are_not_too_many(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1", "dull-1"])
    run = replace(toy.run, format=replace(FORMAT, expected_reasons=("odd",)))
    toy = replace(toy, run=run)
    with pytest.raises(DataError, match=r"12 of 36 rows failed \(dull 12\)"):
        toy.drive(max_failed_share=0.3)
    assert toy.drive(max_failed_share=0.34).failed == {"odd": 12, "dull": 12}


def test_rule_13_run_with_too_many_failed_rows_ends_and_can_go_on(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    message = r"rows failed \(odd \d+\), more than max_failed_share = 0.2; .* are left"
    with pytest.raises(DataError, match=message):
        toy.drive(toy.pool(), max_failed_share=0.2)
    assert 0 < toy.snapshot().rows < len(toy.rows)
    with pytest.raises(DataError, match="12 of 24 rows failed"):
        toy.drive(max_failed_share=0.4, retry=["odd"])  # a retry may mend it, but does not
    assert rows_of(toy.snapshot()) == toy.rows
    toy.heal()
    assert toy.drive(max_failed_share=0.0, retry=["odd"]).failed == {}


class Killing:
    """Settings with which some rows kill their process."""

    def __init__(self, toy: Toy, killers: list[tuple[str, str]]):
        self._settings = toy.run.worker_settings(
            lambda: KillingTask(str(toy.healed), die_here, killers=tuple(killers))
        )

    def settings(self) -> worker.WorkerSettings:
        """What the actors get."""
        return self._settings


class KillingTask(ToyTask):
    """A toy task that is killed by given rows."""

    def __init__(self, healed: str, kill: Any, killers: tuple[tuple[str, str], ...]):
        super().__init__(healed, kill)
        object.__setattr__(self, "killers", killers)

    def do(self, rows: Any) -> Any:
        """See ChunkTask."""
        if any((row["user"], row["item"]) in self.killers for row in rows.to_pylist()):
            self.kill()
        return super().do(rows)


def fail_some(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    num_calls: int,
    error: Exception | None = None,
) -> list[int]:
    """Let the first calls of a function raise an error; returns a list that has one entry each."""
    function, failed = getattr(owner, name), []

    def fails(*arguments: Any, **settings: Any) -> Any:
        if len(failed) < num_calls:
            failed.append(len(failed))
            raise error or StorageError("no answer")
        return function(*arguments, **settings)

    monkeypatch.setattr(owner, name, fails)
    return failed
