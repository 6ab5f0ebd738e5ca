"""Rules 3, 7 and 10 of xrec.bulk: results, retries, limits."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.world.here import Killed, PoolHere
from tests.xrec.bulk.toy_run import EAGER, Toy, ToyTask, rows_of
from xrec.bulk import (
    BulkRun,
    Outcome,
    Progress,
    Survey,
    delete_runs,
    driver,
    read_status,
    vacuum,
)
from xrec.bulk.driver import has_work
from xrec.bulk.runs.progress import TERM, now, read_progress, refuse_live_driver, write_progress
from xrec.errors import BudgetError, DataError, LeaseError, StorageError, TableError
from xrec.storage import Manifest


def stopped_after(num_chunks: int, error: type[BaseException] = KeyboardInterrupt) -> PoolHere:
    """A pool whose driver is stopped before it does more than so many chunks."""

    def before(chunk: int) -> None:
        if len(pool.done) > num_chunks:
            pool.done.pop()
            raise error

    pool = PoolHere(before=before)
    return pool


def interrupt(toy: Toy, num_chunks: int, **settings: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy.drive(stopped_after(num_chunks), **settings)


def kill(toy: Toy, num_chunks: int, holder: str = "", term: timedelta = TERM) -> None:
    """Let a driver be killed after so many chunks: it says neither that it ended nor what it did.

    holder: its name, instead of this process's. term: how long it is taken for alive.
    """
    with pytest.raises(Killed):
        toy.drive(stopped_after(num_chunks, Killed))
    last = read_progress(toy.run.folder)
    said = {"holder": holder or last.holder, "expires_at": last.written_at + term}
    write_progress(toy.run, last.model_copy(update=said))
    (toy.run.folder / "counted.json").delete()


def texts_of(toy: Toy, version: int | None = None) -> dict[tuple[str, str], str]:
    """The text of each row that succeeded; each attempt makes another."""
    rows = toy.published(version).dataset().to_table().to_pylist()
    assert len({(row["user"], row["item"]) for row in rows}) == len(rows)
    return {(row["user"], row["item"]): row["text"] for row in rows}


# 3. A chunk is done if its result is there.


def test_rule_3_run_has_each_row_once_as_done_or_failed(toys):
    toy = toys("a odd-1 dull-2 b", num_users=6)
    manifest = toy.complete()
    assert manifest.row_counts == {"explanations": 12, "failed": 12}
    assert manifest.metrics["failed_by_reason"] == {"odd": 6, "dull": 6}
    assert manifest.metrics["costs"]["tokens"] == 36
    assert rows_of(toy.published()) == toy.rows
    assert rows_of(toy.published(), "failed") == [row for row in toy.rows if "-" in row[1]]
    for row in toy.published().dataset(status=None).to_table().to_pylist():
        is_ok = row["status"] == "ok"
        assert [row[name] is None for name in ("text", "num_tokens")] == [not is_ok] * 2
        assert [row[name] is None for name in ("reason", "message", "hint")] == [is_ok] * 3
    assert toy.complete(late := PoolHere()) == manifest  # done already
    assert late.num_starts == 0


@pytest.mark.parametrize(
    ("items", "num_users"),
    [(["a"], 1), (["odd-1"], 9), (["bad-1", "kill-1"], 2), (["é🙂" * 99, "\x00", "\U0010ffff"], 5)],
)
def test_rule_3_run_of_few_or_strange_rows(here, items, num_users):
    toy = here(items, num_users=num_users)
    toy.complete()
    table = toy.published()
    assert rows_of(table) == toy.rows
    assert table.find(table.dataset(status=None), "user", ["u-0"]).num_rows == len(items)
    toy.heal()
    toy.complete(retry=["odd", "task_error"])
    assert rows_of(toy.published(), "ok") == toy.rows


@pytest.mark.parametrize("num_chunks", [0, 1, 3])
def test_rule_3_restarted_run_does_the_chunks_without_a_result(here, num_chunks):
    toy = here()
    kill(toy, num_chunks)
    assert Survey(toy.run).done[0].tolist() == list(range(num_chunks))
    toy.complete(pool := PoolHere())
    assert sorted(pool.done) == list(range(num_chunks, toy.run.record.size.num_chunks))
    assert rows_of(toy.published()) == toy.rows


def test_rule_3_drivers_side_by_side_have_each_row_once_and_count_what_stands(toys):
    """Some rows fail in one driver and succeed in the other; the result that stands counts."""
    toy = toys("a odd-1 b")
    barrier = threading.Barrier(2)

    def drive(is_late: bool) -> Any:
        if is_late:
            toy.heal()
        return toy.complete(PoolHere(before=lambda chunk: barrier.wait(60)))

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(drive, [False, True])
    assert one == other
    assert rows_of(toy.published()) == toy.rows
    assert (one.version, one.row_counts["explanations"]) == (0, len(texts_of(toy)))


def test_rule_3_driver_is_not_started_beside_one_that_may_live(here):
    toy = here()
    code = "from xrec.storage.process import this_process; print(this_process(), flush=True)"
    command = [sys.executable, "-c", f"{code}; input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        name = other.stdout.readline().decode().strip()
        kill(toy, 2, name)
        with pytest.raises(LeaseError, match=r"works on this run, .* alive until .* UTC"):
            toy.drive()
        assert read_status(here.uri).phase() == "running"
    assert read_status(here.uri).phase() == "silent"  # it is no more
    kill(toy, 0, term=timedelta(0))
    assert read_status(here.uri).phase() == "silent"  # its term is over
    toy.drive()


def test_rule_3_interrupted_driver_says_so(toys, caplog):
    toy, seen = toys(), []

    def stop(progress: Any) -> None:
        seen.append(progress.num_rows)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.drive(on_progress=stop, clock=EAGER)
    status = read_status(toys.uri, toys.storage)
    assert (status.phase(), status.num_done) == ("stopped", seen[-1])
    assert Survey(toy.run).summary.num_rows == seen[-1]
    assert f"stopped: {seen[-1]} of 36 rows are done; run the same command again" in caplog.text
    toy.complete()
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("what", ["missing", "twice", "reason"])
def test_rule_3_task_that_loses_or_doubles_a_row_is_an_error(here, what):
    do = ToyTask.do

    def wrong(task: ToyTask, rows: pa.Table) -> Outcome:
        ok, failed = do(task, rows).ok, do(task, rows).failed
        strange = failed.set_column(2, "reason", pa.array(["strange"] * len(failed)))
        wrong_ok = {"missing": ok.slice(1), "twice": ok.take([0, 0, 1]), "reason": ok}
        return Outcome(wrong_ok[what], strange if what == "reason" else failed)

    here.patch.setattr(ToyTask, "do", wrong)
    toy = here("a b odd-1", num_users=1)
    message = "reasons .'strange'.; expected some of odd" if what == "reason" else "each row once"
    with pytest.raises(ValueError, match=message):
        toy.drive()
    assert Survey(toy.run).summary.num_rows == 0


# 4. A driver gives signs of life and looks whether its plan counts, however long a chunk takes.


class SlowClock:
    """A driver's clock that shows when the driver waits, and goes on when the test says so."""

    seconds_between_signs, seconds_between_looks = 15.0, 2.0

    def __init__(self, began_at: datetime):
        self._now, self._is_waiting = began_at, False

    def now(self) -> datetime:
        return self._now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        until, self._is_waiting = self._now + timedelta(seconds=seconds), True
        while self._now < until and not event.wait(0.005):
            pass
        self._is_waiting = False
        return event.is_set()

    def go_on(self, seconds: float, is_seen: Callable[[], bool]) -> None:
        """Let time pass, until the driver has done what it does at that time."""
        self._until(lambda: self._is_waiting)
        self._now += timedelta(seconds=seconds)
        self._until(is_seen)

    def _until(self, is_so: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < give_up_at, "the driver gives no sign of life"
            time.sleep(0.005)


def test_rule_4_driver_with_a_long_chunk_is_seen_by_everyone(toys):
    toy, ages = toys(), []
    clock = SlowClock(now() - timedelta(minutes=10))

    def age() -> timedelta:
        return clock.now() - read_progress(toy.run.folder).written_at

    def ten_minutes(chunk: int) -> None:
        if chunk:
            return
        for _ in range(600 // 30):
            clock.go_on(30, lambda: age() < timedelta(seconds=30))
            ages.append(age())
        # Ten minutes after this driver began, its time is everyone's again.
        assert read_status(toys.uri, toys.storage).phase() == "running"
        assert has_work(toy.run)
        with pytest.raises(LeaseError, match="works on this run"):
            delete_runs(toys.uri, toys.storage)
        vacuum(toys.uri, timedelta(minutes=1), toys.storage)

    toy.complete(PoolHere(before=ten_minutes), clock=clock)
    assert len(ages) == 20
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize("by", ["complete", "publish"])
def test_rule_4_run_that_is_being_published_is_seen_by_everyone_and_not_deleted(here, by):
    """Its gate takes five minutes."""
    toy, clock, ages = here(), SlowClock(now() - timedelta(minutes=5)), []

    def age() -> timedelta:
        return clock.now() - read_progress(toy.run.folder).written_at

    def five_minutes() -> None:
        for _ in range(300 // 30):
            clock.go_on(30, lambda: age() < timedelta(seconds=30))
            ages.append(age())
        with pytest.raises(LeaseError, match="works on this run"):
            refuse_live_driver(toy.run.folder)
        with pytest.raises(LeaseError, match="works on this run"):
            delete_runs(here.uri)
        vacuum(here.uri, timedelta(minutes=1))

    if by == "publish":
        toy.drive()
    assert getattr(toy, by)(check=five_minutes, clock=clock).version == 0
    assert len(ages) == 10
    assert rows_of(toy.published()) == toy.rows
    refuse_live_driver(toy.run.folder)  # it has said that it ended
    assert read_status(here.uri).phase() == "published"
    assert delete_runs(here.uri) == 1


def test_rule_4_driver_ends_after_the_chunk_in_which_its_plan_was_deleted(here):
    toy, clock = here(), SlowClock(now())

    class Deleted(ToyTask):
        def do(self, rows: pa.Table) -> Outcome:
            here.location.delete()
            later.append(here())
            seen = len(asked)
            clock.go_on(60, lambda: len(asked) > seen)
            return super().do(rows)

    def is_current(run: BulkRun) -> bool:
        try:
            return looks(run)
        finally:
            asked.append(run)

    later, asked, looks = [], [], BulkRun.is_current
    here.patch.setattr(BulkRun, "is_current", is_current)
    with pytest.raises(LeaseError, match="deleted and made anew while this driver was at work"):
        toy.drive(pool := PoolHere(), toy.make_task(Deleted), clock=clock)
    assert len(pool.done) == 1
    assert later[0].complete() is not None


def test_rule_12_driver_whose_signs_of_life_cannot_be_written_goes_on(here):
    toy, clock, tries = here(), SlowClock(now()), []

    def fail(run: BulkRun, progress: Progress) -> None:
        tries.append(progress)
        raise StorageError("no answer")

    def beat(chunk: int) -> None:
        num_tries = len(tries)
        clock.go_on(60, lambda: len(tries) > num_tries)

    here.patch.setattr("xrec.bulk.beat.write_progress", fail)
    assert toy.complete(PoolHere(before=beat), clock=clock) is not None
    assert len(tries) > 8  # six chunks, beginnings and ends
    assert rows_of(toy.published()) == toy.rows


# 7. A retry is the next pass.


def test_rule_7_retry_replaces_rows_of_its_reasons_and_keeps_the_others(toys):
    toy = toys("a odd-1 dull-2", num_users=6)
    first, before = toy.complete(), texts_of(toy)
    again = toy.complete(retry=["odd"])  # they fail again
    assert again.row_counts == first.row_counts
    toy.heal()
    third = toy.complete(pool := PoolHere(), retry=["odd"])
    assert third.row_counts == {"explanations": 12, "failed": 6}
    assert third.metrics["failed_by_reason"] == {"dull": 6}
    assert len(pool.done) == 1
    assert rows_of(toy.published()) == toy.rows
    after = texts_of(toy)
    assert {key: text for key, text in after.items() if key in before} == before
    assert set(after) - set(before) == {row for row in toy.rows if row[1] == "odd-1"}
    toy.complete(retry=["odd", "dull"])
    assert rows_of(toy.published(), "ok") == toy.rows
    toy.complete(retry=["odd", "dull", "task_error"])  # nothing is left for it
    assert len(toy.run.passes()) == 4
    assert len({manifest.fingerprint for manifest in (first, again, third)}) == 3


def test_rule_7_interrupted_retry_is_done_before_anything_is_published(toys):
    toy = toys("a odd-1", num_users=18)
    toy.complete()
    interrupt(toy, 1, retry=["odd"])
    assert toy.publish() is None
    assert has_work(toy.run)
    assert len(rows_of(toy.published(), "failed")) == 18
    toy.heal()
    toy.complete(pool := PoolHere())  # no reasons are given again
    assert len(pool.done) == 2
    assert len(texts_of(toy)) == 18 + 12  # what was done of the retry stays
    assert not has_work(toy.run)
    assert (has_work(toy.run, retry=["odd"]), has_work(toy.run, retry=["dull"])) == (True, False)
    toy.complete(retry=["odd"])
    assert rows_of(toy.published(), "ok") == toy.rows


def test_rule_7_run_that_lost_the_record_of_a_retry_is_planned_anew(here):
    toy = here("a odd-1")
    for _ in range(2):
        toy.drive(retry=["odd"])
    (toy.run.folder / "pass-1.json").delete()
    with pytest.raises(TableError, match=r"pass-1\.json was deleted; run the job again"):
        toy.drive()
    again = here("a odd-1")
    assert again.run.record.nonce != toy.run.record.nonce
    assert again.complete().row_counts == {"explanations": 12, "failed": 12}


def test_rule_7_retry_of_other_reasons_follows_the_one_that_was_begun(here):
    toy = here("odd-1 dull-2")
    toy.drive()
    interrupt(toy, 1, retry=["odd"])
    toy.heal()
    progress = toy.drive(retry=["dull"])
    passes = toy.run.passes()
    assert [each.reasons for each in passes] == [(), ("odd",), ("dull",)]
    assert [each.size.num_rows for each in passes] == [24, 12, 12]
    assert (progress.pass_number, progress.reasons) == (2, ("dull",))
    assert progress.failed == {"odd": 6}
    again = toy.drive()  # does nothing
    assert (again.pass_number, again.reasons, again.is_done) == (2, ("dull",), True)


def test_rule_7_drivers_that_begin_a_retry_at_once_do_one(toys):
    toy = toys("a odd-1")
    toy.complete()
    toy.heal()
    with ThreadPoolExecutor(3) as pool:
        done = [*pool.map(lambda _: toy.complete(retry=["odd"]), range(3))]
    assert len(toy.run.passes()) == 2
    assert done == [done[0]] * 3
    assert rows_of(toy.published(), "ok") == toy.rows


@pytest.mark.parametrize("reason", ["odd", "dull"])
def test_rule_7_retry_that_another_driver_began_is_done_first(here, reason):
    toy = here("odd-1 dull-2")

    def begin(chunk: int) -> None:
        if len(pool.done) == toy.run.record.size.num_chunks:
            interrupt(toy, 1, retry=["odd"])
            toy.heal()

    pool = PoolHere(before=begin)
    assert toy.complete(pool, retry=[reason]) is not None
    passes = toy.run.passes()
    assert [each.size.num_rows for each in passes[:2]] == [24, 12]
    assert {each.reasons for each in passes[1:]} == {("odd",), (reason,)}
    assert rows_of(toy.published()) == toy.rows
    assert len(texts_of(toy)) >= 12


def test_rule_7_unknown_reason_or_one_with_a_limit_is_refused_at_the_beginning(here):
    toy = here()
    before = here.location.files()
    for settings, message in (
        ({"retry": ["od"]}, r"\['od'\]: expected .* odd, dull, task_error"),
        ({"retry": ["odd"], "max_rows": 5}, "max_rows = 5: .* a retry has no limit"),
        ({"max_rows": 0}, "max_rows = 0: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            toy.drive(**settings)
    assert here.location.files() == before


# 10. A limit ends a run at the end of a chunk; the next driver goes on.


def test_rule_10_limit_does_the_fewest_first_chunks_and_the_next_driver_goes_on(here):
    toy = here(num_users=11)
    sizes = toy.run.passes()[0].plan.rows_of_chunks.tolist()
    progress = toy.drive(limited := PoolHere(), max_rows=sizes[0] + 1)
    assert (progress.is_done, progress.num_rows) == (False, sizes[0] + sizes[1])
    assert limited.done == [0, 1]
    status = read_status(here.uri)
    assert (status.phase(), status.num_done) == ("stopped", progress.num_rows)
    assert toy.complete(again := PoolHere(), max_rows=progress.num_rows) is None  # is reached
    assert again.num_starts == 0
    assert toy.publish() is None
    assert not (here.location / "_delta_log").exists()
    assert not has_work(toy.run, max_rows=progress.num_rows)
    assert has_work(toy.run, max_rows=progress.num_rows + 1)
    assert toy.drive(max_rows=sum(sizes[:3])).num_rows == sum(sizes[:3])  # on a chunk's edge
    toy.complete(rest := PoolHere(), max_rows=len(toy.rows) - sizes[-1] + 1)  # in the last chunk
    assert rest.done == list(range(3, len(sizes)))
    assert rows_of(toy.published()) == toy.rows
    assert toy.complete(max_rows=1) is not None


@pytest.mark.parametrize(
    ("limit", "rows_per_chunk", "sizes"),
    [
        (5, 64, [5, 31]),
        (14, lambda num_rows: -(-num_rows // 4), [4, 4, 1, 4, 1, 4, 9, 9]),
        (6, 6, [6] * 6),
        (36, 64, [36]),
    ],
)
def test_rule_10_limit_of_a_new_plan_is_kept_to_the_row(here, limit, rows_per_chunk, sizes):
    toy = here(limit=limit, rows_per_chunk=rows_per_chunk)
    plan = toy.run.passes()[0].plan
    rows = [row for chunk in range(len(sizes)) for row in plan.rows(chunk).to_pylist()]
    assert sorted((row["user"], row["item"]) for row in rows) == toy.rows
    assert plan.rows_of_chunks.tolist() == sizes
    assert toy.drive(max_rows=limit).num_rows == limit
    toy.complete()
    assert rows_of(toy.published()) == toy.rows


def test_rule_10_budget_lets_chunks_at_work_end_and_the_next_driver_goes_on(here):
    toy = here()
    spent_of = partial(driver.spent_of, prices={}, since=time.monotonic())
    pool, spent = PoolHere(), spent_of({"tokens": 20, "seconds": 1e9})
    message = r"budget\.tokens = 20 is used up \(36\); 12 of 36 rows are done and stay, nothing is"
    with pytest.raises(BudgetError, match=message):
        toy.complete(pool, spent=spent)
    with pytest.raises(BudgetError, match=message):  # of all starts
        toy.complete(again := PoolHere(), spent=spent)
    assert (Survey(toy.run).summary.num_rows, again.num_starts) == (12, 0)
    with pytest.raises(BudgetError, match=r"budget\.seconds = 1 is used up \(2.*\); 12 of 36"):
        toy.complete(spent=spent_of({"seconds": 1}, since=time.monotonic() - 2))
    assert not (here.location / "_delta_log").exists()
    toy.complete(rest := PoolHere(), spent=spent_of({"tokens": 109}))
    assert rest.done == [2, 3, 4, 5]
    assert rows_of(toy.published()) == toy.rows
    assert toy.complete(spent=spent) == toy.published().manifest  # nothing is left to be spent on


def test_rule_10_hours_and_money_of_all_starts_end_a_run_and_stand_in_its_manifest(toys):
    """A chunk takes ten minutes of as many GPUs as chunks are left, and twice as many CPUs."""
    toy, clock = toys(), [0.0]
    toys.patch.setattr(driver, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    prices = {"gpu_hour": 2.0, "cpu_hour": 0.5, "million_reply_tokens": 1e6 / 36}

    class TenMinutes(ToyTask):
        def do(self, rows: pa.Table) -> Outcome:
            clock[0] += 600
            return super().do(rows)

    def complete(**budget: float) -> Manifest | None:
        task, spent = toy.make_task(TenMinutes), driver.spent_of(budget, prices, 0.0)
        return toy.complete(task=task, spent=spent)

    for _ in range(2):  # the second start begins nothing
        with pytest.raises(BudgetError, match=r"gpu_hours = 2 is used up \(2\); 12 of 36 rows"):
            complete(gpu_hours=2)
    # Two GPU hours, four CPU hours and 36 tokens are 7; four GPUs and a chunk are 2.5 more.
    with pytest.raises(BudgetError, match=r"money = 8 is used up \(9.5\); 18 of 36 rows"):
        complete(money=8)
    costs = complete(money=100).metrics["costs"]
    hours = 2 + 4 / 6 + 3 * 3 / 6
    assert costs["gpu_hours"] == pytest.approx(hours)
    assert costs["cpu_hours"] == pytest.approx(2 * hours)
    written = toys.location.details().items()
    sizes = [info["size"] for path, info in written if "_delta_log" not in path]
    assert sum(sizes) <= costs["bytes_written"] <= 2 * sum(sizes)  # some files several times
    assert costs["bytes_read"] > 0
    assert ("store_requests" in costs) == toys.uri.startswith("s3://")
    assert costs.get("store_requests", 99) > len(sizes)


def test_rule_10_failed_share_is_of_the_rows_within_the_limit(here):
    """One row of three fails; of all rows these are few, as long as most are not done."""
    toy = here("a b odd-1")
    for _ in range(2):  # the second time nothing is done
        with pytest.raises(DataError, match=r"4 of 12 rows failed \(odd 4\), .* 24 are left"):
            toy.drive(max_rows=7, max_failed_share=0.3)
    assert toy.drive(max_rows=7, max_failed_share=0.4).num_rows == 12
    assert toy.drive(max_failed_share=0.4).is_done
