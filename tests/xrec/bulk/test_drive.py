"""Rules 3, 4, 7, 10 and 11 of xrec.bulk: results, signs of life, retries, limits, carried rows."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.here import PoolHere
from tests.xrec.bulk.toy_run import (
    EAGER,
    FORMAT,
    OTHER,
    CarryingTask,
    Toy,
    ToyTask,
    batch_of,
    drive_carrying,
    files_of,
    interrupt,
    kill,
    rows_of,
    stopped_after,
    texts_of,
)
from xrec.bulk import (
    BulkRun,
    Outcome,
    Progress,
    RunRequest,
    Summary,
    Survey,
    check_output,
    delete_runs,
    driver,
    empty,
    open_run,
    read_status,
    vacuum,
)
from xrec.bulk.driver import has_work
from xrec.bulk.runs.progress import now, read_progress, refuse_live_driver
from xrec.bulk.runs.result import ResultFolder
from xrec.errors import (
    ArtifactMismatchError,
    BudgetError,
    DataError,
    GateError,
    LeaseError,
    StorageError,
    TableError,
)
from xrec.storage import Manifest


# 3. A chunk is done if its result is there.
def test_rule_3_run_has_each_row_once_as_done_or_failed(there):
    toy = there("a odd-1 dull-2 b", num_users=6)
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


@pytest.mark.parametrize("num_chunks", [0, 3])
def test_rule_3_restarted_run_does_the_chunks_without_a_result(here, num_chunks):
    toy = here()
    kill(toy, num_chunks)
    assert Survey(toy.run).done[0].tolist() == list(range(num_chunks))
    toy.complete(pool := PoolHere())
    assert sorted(pool.done) == list(range(num_chunks, toy.run.record.size.num_chunks))
    assert rows_of(toy.published()) == toy.rows


def test_rule_3_drivers_side_by_side_have_each_row_once_and_count_what_stands(here):
    """Some rows fail in one driver and succeed in the other; the result that stands counts."""
    toy = here("a odd-1 b")
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
        with raises(LeaseError, "driver_at_work", saw=name):
            toy.drive()
        assert read_status(here.uri).phase() == "running"
    assert read_status(here.uri).phase() == "silent"  # it is no more
    kill(toy, 0, term=timedelta(0))
    assert read_status(here.uri).phase() == "silent"  # its term is over
    toy.drive()


def test_rule_3_interrupted_driver_says_so(here, caplog):
    toy, seen = here(), []

    def stop(progress: Any) -> None:
        seen.append(progress.num_rows)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.drive(on_progress=stop, clock=EAGER)
    status = read_status(here.uri, here.storage)
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


@pytest.mark.parametrize("at", ["chunk", "gate", "publish"])
def test_rule_4_driver_is_seen_by_everyone_however_long_its_chunks_or_publication_take(here, at):
    """A chunk, or the gate before the publication, takes five minutes."""
    toy, clock, ages = here(), SlowClock(now() - timedelta(minutes=5)), []

    def age() -> timedelta:
        return clock.now() - read_progress(toy.run.folder).written_at

    def five_minutes(chunk: int = 0) -> None:
        if chunk:
            return
        for _ in range(300 // 30):
            clock.go_on(30, lambda: age() < timedelta(seconds=30))
            ages.append(age())
        # Five minutes after this driver began, its time is everyone's again.
        assert read_status(here.uri).phase() == "running"
        assert has_work(toy.run) == (at == "chunk")
        with raises(LeaseError, "driver_at_work"):
            refuse_live_driver(toy.run.folder)
        with raises(LeaseError, "driver_at_work"):
            delete_runs(here.uri)
        vacuum(here.uri, timedelta(minutes=1))

    if at == "chunk":
        toy.complete(PoolHere(before=five_minutes), clock=clock)
    elif at == "gate":
        toy.complete(check=five_minutes, clock=clock)
    else:
        toy.drive()
        toy.publish(check=five_minutes, clock=clock)
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
    with raises(LeaseError, "plan_replaced"):
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
def test_rule_7_retry_replaces_rows_of_its_reasons_and_keeps_the_others(here):
    toy = here("a odd-1 dull-2", num_users=6)
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


def test_rule_7_interrupted_retry_is_done_before_anything_is_published(here):
    toy = here("a odd-1", num_users=18)
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
    with raises(TableError, "pass_deleted", "pass-1.json"):
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
    with raises(BudgetError, "budget_used_up", "budget.tokens", 12):
        toy.complete(pool, spent=spent)
    with raises(BudgetError, "budget_used_up", "budget.tokens", 12):  # of all starts
        toy.complete(again := PoolHere(), spent=spent)
    assert (Survey(toy.run).summary.num_rows, again.num_starts) == (12, 0)
    with raises(BudgetError, "budget_used_up", "budget.seconds", 12):
        toy.complete(spent=spent_of({"seconds": 1}, since=time.monotonic() - 2))
    assert not (here.location / "_delta_log").exists()
    toy.complete(rest := PoolHere(), spent=spent_of({"tokens": 109}))
    assert rest.done == [2, 3, 4, 5]
    assert rows_of(toy.published()) == toy.rows
    assert toy.complete(spent=spent) == toy.published().manifest  # nothing is left to be spent on


def test_rule_10_hours_and_money_of_all_starts_end_a_run_and_stand_in_its_manifest(there):
    """A chunk takes ten minutes of as many GPUs as chunks are left, and twice as many CPUs."""
    toy, clock = there(), [0.0]
    there.patch.setattr(driver, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    prices = {"gpu_hour": 2.0, "cpu_hour": 0.5, "million_reply_tokens": 1e6 / 36}

    class TenMinutes(ToyTask):
        def do(self, rows: pa.Table) -> Outcome:
            clock[0] += 600
            return super().do(rows)

    def complete(**budget: float) -> Manifest | None:
        task, spent = toy.make_task(TenMinutes), driver.spent_of(budget, prices, 0.0)
        return toy.complete(task=task, spent=spent)

    for _ in range(2):  # the second start begins nothing
        with raises(BudgetError, "budget_used_up", "budget.gpu_hours", 12):
            complete(gpu_hours=2)
    # Two GPU hours, four CPU hours and 36 tokens are 7; four GPUs and a chunk are 2.5 more.
    with raises(BudgetError, "budget_used_up", "budget.money", 18):
        complete(money=8)
    costs = complete(money=100).metrics["costs"]
    hours = 2 + 4 / 6 + 3 * 3 / 6
    assert costs["gpu_hours"] == pytest.approx(hours)
    assert costs["cpu_hours"] == pytest.approx(2 * hours)
    written = there.location.details().items()
    sizes = [info["size"] for path, info in written if "_delta_log" not in path]
    assert sum(sizes) <= costs["bytes_written"] <= 2 * sum(sizes)  # some files several times
    assert costs["bytes_read"] > 0
    assert ("store_requests" in costs) == there.uri.startswith("s3://")
    assert costs.get("store_requests", 99) > len(sizes)


def test_rule_10_failed_share_is_of_the_rows_within_the_limit(here):
    """One row of three fails; of all rows these are few, as long as most are not done."""
    toy = here("a b odd-1")
    for _ in range(2):  # the second time nothing is done
        with raises(GateError, "too_many_failed", saw=4):
            toy.drive(max_rows=7, max_failed_share=0.3)
    assert toy.drive(max_rows=7, max_failed_share=0.4).num_rows == 12
    assert toy.drive(max_failed_share=0.4).is_done


@pytest.mark.parametrize("rows_per_chunk", [3, 100])
def test_rule_11_good_rows_are_carried_and_the_others_done(here, rows_per_chunk):
    """To another number of buckets, and to users that the earlier run had not."""
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 3)
    first = here("a b odd-1", num_users=6)
    first.complete()
    before = texts_of(first)
    settings = {"identity": OTHER, "rows_per_chunk": rows_per_chunk, "carry_from": here.uri}
    toy = here("a b c odd-1", num_users=8, **settings)
    progress = drive_carrying(toy)
    assert (progress.costs["carried"], progress.costs["carried_failed"]) == (12, 6)
    assert (progress.num_ok, progress.failed) == (24, {"odd": 8})
    assert progress.costs["tokens"] == 3 * (24 - 6)
    assert (progress.costs["again: a b"], progress.costs["again: new"]) == (6, 14)
    toy.publish()
    assert rows_of(toy.published()) == toy.rows
    same = {key for key, text in texts_of(toy).items() if before.get(key) == text}
    assert same == {key for key in before if key[1] == "a"}


def test_rule_11_what_happens_to_the_earlier_version_changes_nothing(here):
    earlier, later = here.at("earlier"), here.at("later")
    earlier().complete()
    before = texts_of(earlier())
    toy = later(identity=OTHER, carry_from=earlier.uri)
    empty(earlier.uri, here.storage)
    earlier.location.delete()
    assert drive_carrying(toy).costs["carried"] == 24
    toy.publish()
    after = texts_of(toy)
    same = {key for key in after if after[key] == before[key]}
    assert same == {key for key in after if key[1] != "b"}
    assert later(identity=OTHER, carry_from=earlier.uri).run.record == toy.run.record
    assert check_output(later.uri, here.storage) == []


def test_rule_11_rows_of_a_chunk_that_is_cut_after_deaths_are_carried_by_rows(here):
    here("a").complete()
    toy = here("a c", identity=OTHER, carry_from=here.uri)
    progress = drive_carrying(toy, killers=[("u-5", "c")])
    assert (progress.costs["carried"], progress.failed) == (12, {"task_error": 1})
    toy.publish()
    assert rows_of(toy.published(), "failed") == [("u-5", "c")]
    assert rows_of(toy.published()) == toy.rows


def test_rule_11_nothing_is_carried_where_nothing_is_published_or_a_task_cannot(here):
    toy = here(carry_from=here.uri)
    assert drive_carrying(toy).costs["carried"] == 0
    toy.publish()
    other = here(identity=OTHER, carry_from=here.uri)
    assert other.drive().costs["carried"] == 0
    other.publish()
    assert set(texts_of(other).values()).isdisjoint(texts_of(toy, 0).values())


def test_rule_11_table_of_other_columns_is_refused_unless_it_is_this_output(here):
    first = here()
    first.complete()
    wider = replace(FORMAT, ok=pa.schema([("text", pa.string()), ("num_tokens", pa.int64())]))

    def planned(uri: str, format: Any = wider) -> Any:
        rows = [batch_of(first.rows)]
        return open_run(RunRequest(uri, OTHER, format, lambda: rows, carry_from=here.uri))

    with raises(ArtifactMismatchError, "other_columns", "num_tokens"):
        planned(f"{here.uri}/other")
    assert planned(here.uri).record.num_rows == 36


def test_rule_11_version_that_is_not_sound_or_cannot_be_read_is_refused(here):
    here().complete()
    settings = {"identity": OTHER, "carry_from": here.uri}
    with here.patch.context() as patch:
        patch.setattr("xrec.storage.delta.digest_of", lambda files: "another")
        with raises(TableError, "not_sound"):
            here.at("later")(**settings)
    (file,) = (here.location / path for path in files_of(here()))
    for spoil in (lambda: file.write_bytes(b"spoilt" * 999), file.delete):
        spoil()
        with pytest.raises((DataError, StorageError)):
            here.at("later")(**settings)


def test_wide_rows_are_carried_over_in_less_memory_than_they_take(here):
    """The product has 1 GB, and 9 GB of earlier rows are 15 million."""
    here.patch.setattr("xrec.bulk.runs.spill.MEMORY", "16MB")
    settings = {"num_users": 2000, "rows_per_chunk": 500}
    first = here("a c", **settings)
    first.drive(task=first.make_task(mark="x" * 8_000))
    first.publish()
    toy = here("a c d", identity=OTHER, carry_from=here.uri, **settings)
    progress = toy.drive(task=toy.make_task(CarryingTask))
    assert (progress.costs["carried"], progress.num_ok) == (4000, 6000)


@pytest.mark.parametrize("sizes", [(1, 200), (7, 2)])
def test_each_row_gets_the_earlier_one_of_its_keys_however_many_buckets_there_are(here, sizes):
    """Tables of few and many buckets, read and planned by small ranges, and in several files."""
    here.in_parts(6000)
    here.patch.setattr("xrec.bulk.runs.spill.BYTES_AT_ONCE", 1)
    here.patch.setattr("xrec.bulk.runs.spill.ROWS_AT_ONCE", 16)
    here.patch.setattr("xrec.bulk.earlier.ROWS_AT_ONCE", 5)
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", sizes[0])
    first = here("a c odd-1", num_users=90)
    first.complete()
    before = {
        (row["user"], row["item"]): row
        for row in first.published().dataset(status=None).to_table().to_pylist()
    }
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", sizes[1])
    run = here("a d odd-1", num_users=120, identity=OTHER, carry_from=here.uri).run
    assert {first.run.record.num_buckets, run.record.num_buckets} != {1}
    plan, found = run.passes()[0].plan, {}
    for chunk in range(run.record.size.num_chunks):
        for row in plan.rows(chunk).to_pylist():
            found[row["user"], row["item"]] = row["earlier"]
    assert len(found) == 360
    assert found == {keys: before.get(keys) for keys in found}


@pytest.fixture
def opened(monkeypatch):
    """The results whose footers are read."""
    names, summary = [], ResultFolder.summary

    def counted(results: ResultFolder, name: str) -> Summary | None:
        names.append(name)
        return summary(results, name)

    monkeypatch.setattr(ResultFolder, "summary", counted)
    return names


def counted_anew(toy: Toy) -> tuple[list[int], Summary]:
    """What the results themselves say."""
    for name in toy.run.folder.files():
        if name.endswith("counted.json"):
            (toy.run.folder / name).delete()
    survey = Survey(toy.run)
    return [len(done) for done in survey.done], survey.summary


def test_driver_that_goes_on_opens_no_result_that_was_counted(here, opened):
    toy = here("a odd-1 b")
    with pytest.raises(KeyboardInterrupt):
        toy.drive(stopped_after(3))
    opened.clear()
    survey = Survey(toy.run)
    assert (opened, survey.done[0].tolist()) == ([], [0, 1, 2])
    expected = counted_anew(toy)
    assert ([3], survey.summary) == expected
    assert len(opened) == 3
    toy.drive(retry=["odd"])
    opened.clear()
    survey = Survey(toy.run)
    assert (opened, len(survey.passes)) == ([], 2)
    assert ([len(done) for done in survey.done], survey.summary) == counted_anew(toy)


@pytest.mark.parametrize("what", ["garbage", "gone", "doubted", "second", "older"])
def test_counts_that_do_not_fit_the_results_are_counted_anew(here, opened, what):
    toy = here("a odd-1 b")
    with pytest.raises(KeyboardInterrupt):
        toy.drive(stopped_after(2))
    folder = toy.run.folder
    older = (folder / "counted.json").read_bytes()
    toy.drive()
    if what == "garbage":
        (folder / "counted.json").write_bytes(b'{"chunks": "zz", "second": [], "summary": {}}')
    elif what == "gone":
        (folder / "results" / "0000001.parquet").delete()
    elif what == "doubted":
        (folder / "results" / "0000001.parquet.unreadable").write_bytes(b"")
    elif what == "second":
        data = (folder / "results" / "0000001.parquet").read_bytes()
        (folder / "results" / "0000001~1.parquet").write_bytes(data)
    else:
        (folder / "counted.json").write_bytes(older)
    opened.clear()
    survey = Survey(toy.run)
    assert ([len(done) for done in survey.done], survey.summary) == counted_anew(toy)
    assert survey.is_done == (what not in ("gone", "doubted"))
    assert "0000003.parquet" in opened
    toy.complete()
    assert rows_of(toy.published()) == toy.rows
    assert len(texts_of(toy)) == 24
