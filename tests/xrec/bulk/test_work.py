"""Rules 5, 6, 9 and 12 of xrec.bulk: errors, deaths, too many failed rows, failing stores."""

import io
import itertools
import logging
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.here import PoolHere
from tests.world.store import Faults, faulty_proxy
from tests.xrec.bulk.toy_run import FORMAT, ToyTask, die_here, rows_of
from xrec import errors
from xrec.bulk import Outcome, Survey
from xrec.bulk import worker as worker_module
from xrec.bulk.plan import Plan
from xrec.bulk.results import ResultFolder
from xrec.bulk.worker import POISONED_EXIT_CODE, ChunkWorker, Room, is_poisoned
from xrec.processes import Marks


def fail_some(
    patch: pytest.MonkeyPatch, where: tuple[Any, str], num_calls: int, error: Any = None
) -> list[int]:
    """Make the first calls of a function raise an error; return a list with an entry for each."""
    function, failed = getattr(*where), []

    def fails(*arguments: Any, **settings: Any) -> Any:
        if len(failed) < num_calls:
            failed.append(len(failed))
            raise error or errors.StorageError("no answer")
        return function(*arguments, **settings)

    patch.setattr(*where, fails)
    return failed


def test_rule_5_error_of_concurrent_chunks_fails_only_the_row_to_blame(here):
    toy = here("a bad-1", num_users=2, rows_per_chunk=2)
    both, calls, alone = threading.Barrier(2), itertools.count(), threading.Lock()

    class Sharing(ToyTask):
        def do(self, rows: pa.Table) -> Outcome:
            if next(calls) < 2:
                both.wait(10)
                raise ValueError("perhaps another row's fault")
            assert alone.acquire(blocking=False), "another thread is working"
            try:
                return super().do(rows)
            finally:
                alone.release()

    (first,) = toy.run.passes()
    worker = ChunkWorker(first, FORMAT, toy.make_task(Sharing), 2, Marks(1), "", "process")
    with ThreadPoolExecutor(2) as pool:
        failed = [each.failed for each in pool.map(worker, range(first.size.num_chunks))]
    assert failed == [{"task_error": 1}] * 2


@pytest.mark.parametrize("error", [errors.ModelError("no model"), RuntimeError("no model")])
def test_rule_5_any_other_error_ends_the_run(here, error):
    fail_some(here.patch, (ToyTask, "do"), 1, error)
    toy = here()
    with pytest.raises(type(error), match="no model"):
        toy.drive()
    assert Survey(toy.run).summary.num_rows == 0


def test_rule_5_process_whose_gpu_is_unusable_ends(here):
    codes: list[int] = []

    def exit_here(code: int) -> None:
        codes.append(code)
        die_here()

    closed = io.StringIO()
    closed.close()
    broken = logging.StreamHandler(closed)  # must not keep the process alive
    here.patch.setattr(logging.getLogger("xrec"), "handlers", [broken])
    here.patch.setattr("xrec.bulk.worker.os", SimpleNamespace(_exit=exit_here))
    error = RuntimeError("CUDA error: device-side assert triggered")
    fail_some(here.patch, (ToyTask, "do"), 2, error)
    progress = here().drive()
    assert codes == [POISONED_EXIT_CODE] * 2
    assert (progress.num_ok, progress.failed) == (36, {})  # no row is to blame


def test_rule_5_only_errors_that_break_the_gpu_end_the_process():
    lost = type("AcceleratorError", (RuntimeError,), {})("an illegal memory access")
    broken = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm")
    assert is_poisoned(lost)
    assert is_poisoned(broken)
    for text in ("CUDA out of memory. Tried to allocate", "CUDA error: out of memory", "shapes"):
        assert not is_poisoned(RuntimeError(text))


@pytest.mark.parametrize("rows_per_chunk", [6, 64])
def test_rule_6_rows_that_kill_are_found_and_others_done(here, rows_per_chunk):
    toy = here("a b", rows_per_chunk=rows_per_chunk, num_users=32)
    killers = [toy.rows[3], toy.rows[4], toy.rows[40]]
    progress = toy.drive(task=toy.make_task(killers=killers))
    assert progress.failed == {"task_error": 3}
    assert 6 <= progress.num_deaths <= 12
    toy.publish()
    assert rows_of(toy.published()) == toy.rows
    rows = toy.published().dataset(status="failed").to_table().to_pylist()
    assert sorted((row["user"], row["item"]) for row in rows) == killers
    message = "2 processes died while they worked on this row alone"
    assert {row["message"] for row in rows} == {message}
    task = toy.make_task(killers=killers[:1])
    assert toy.drive(task=task, retry=["task_error"]).failed == {"task_error": 1}


def test_rule_6_run_whose_processes_all_die_ends_and_can_continue(here):
    toy = here("a b", num_users=64, rows_per_chunk=64)
    with raises(errors.ClusterError, "processes_died"):
        toy.drive(task=toy.make_task(killers=toy.rows))
    progress = toy.drive()
    assert (progress.num_ok, progress.failed) == (len(toy.rows), {})


def test_rule_9_run_with_too_many_failed_rows_publishes_nothing_and_can_continue(here):
    toy = here("a odd-1")
    with raises(errors.GateError, "too_many_failed", saw=6):  # after the second of four chunks
        toy.complete(max_failed_share=0.2)
    with raises(errors.GateError, "too_many_failed", saw=12):
        toy.complete(max_failed_share=0.2, retry=["odd"])  # could fix it, but does not
    assert not (here.location / "_delta_log").exists()
    toy.heal()
    toy.complete(max_failed_share=0.0, retry=["odd"])
    assert rows_of(toy.published(), "ok") == toy.rows


def test_rule_9_rows_that_fail_for_an_expected_reason_do_not_count(here):
    toy = here("a odd-1 dull-1")
    expecting = replace(toy.run.format, expected_reasons=("odd",))
    toy = replace(toy, run=replace(toy.run, format=expecting))
    with raises(errors.GateError, "too_many_failed", saw=12):
        toy.drive(max_failed_share=0.3)
    assert toy.drive(max_failed_share=0.34).failed == {"odd": 12, "dull": 12}


STEPS = [(ResultFolder, "find"), (Plan, "rows"), (ResultFolder, "create")]


@pytest.mark.parametrize("step", STEPS)
def test_rule_12_store_that_keeps_failing_ends_the_run(here, step):
    toy, calls = here(), []
    pool = PoolHere(
        before=lambda chunk: chunk == 3 and calls.append(fail_some(here.patch, step, 9))
    )
    with pytest.raises(errors.StorageError, match="no answer"):
        toy.drive(pool)
    assert len(calls[0]) == 4  # it was tried again three times
    assert Survey(toy.run).tallies[0].done.tolist() == [0, 1, 2]
    calls = fail_some(here.patch, step, 99, errors.StorageAccessError("refused"))
    with pytest.raises(errors.StorageAccessError, match="refused"):
        toy.drive()
    assert len(calls) == 1  # a refusal is not retried


@pytest.mark.parametrize("hangs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rule_12_store_that_fails_or_hangs_has_each_row_once(there, hangs):
    """Half of the failing requests succeed, but their responses are lost."""
    faults = Faults(0.04, burst=3, drops=0.3, statuses=(500, 503), draw=random.Random(1))
    there.patch.setattr("xrec.storage.s3.MAX_ATTEMPTS", 12 if hangs else 2)
    if hangs:
        faults = Faults(0.0, delay_seconds=0.02, stalls=0.1, stall_seconds=3.0, burst=8)
        there.patch.setattr("xrec.storage.s3.READ_TIMEOUT_SECONDS", 1.0)
    with faulty_proxy(there.storage.endpoint_url, faults) as url:
        storage = there.storage.model_copy(update={"endpoint_url": url})
        replace(there, storage=storage)("a odd-1", num_users=6).complete()
    toy = there("a odd-1", num_users=6)
    assert (faults.num_failed >= 4, faults.num_stalled >= 2) == (True, hangs)
    assert rows_of(toy.published()) == toy.rows


def test_room_divides_time_among_concurrent_work(monkeypatch):
    clock = iter([0.0, 10.0, 30.0, 90.0, 200.0, 201.0])
    # Only the module's clock, because other threads, such as fsspec's, use `time` too.
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    room = Room()
    with room.enter() as first:
        with room.enter() as second:
            pass
        assert second.seconds == 10
    assert first.seconds == 10 + 10 + 60
    with room.enter(alone=True) as third:
        pass
    assert third.seconds == 1  # idle time is not charged
