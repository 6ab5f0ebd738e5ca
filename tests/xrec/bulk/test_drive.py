"""Rules 3, 4, 7, 10 and 11 of xrec.bulk: results, leases, retries, limits and carried rows."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.here import PoolHere
from tests.xrec.bulk.toy_run import (
    FORMAT,
    OTHER,
    CarryingTask,
    Toy,
    ToyTask,
    batch_of,
    drive_carrying,
    files_of,
    kill,
    rows_of,
    stopped_after,
    texts_of,
)
from xrec import bulk, errors
from xrec.bulk.driver import has_work
from xrec.bulk.progress import read_progress, refuse_live_driver
from xrec.bulk.results import ResultFolder
from xrec.bulk.run import now
from xrec.storage import Manifest


def test_rule_3_concurrent_drivers_do_each_row_once_and_count_valid_results(here):
    """Some rows fail in one driver and succeed in the other; the valid result counts."""
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


def test_rule_3_driver_does_not_start_while_another_may_be_alive(here):
    toy = here()
    kill(toy, 2, "another driver")
    with raises(errors.LeaseError, "driver_at_work", saw="another driver"):
        toy.drive()
    assert bulk.read_status(here.uri).phase == "running"
    (toy.run.folder / "driver.json").delete()
    kill(toy, 0, term=timedelta(0))
    assert bulk.read_status(here.uri).phase == "silent"
    toy.drive()


@pytest.mark.parametrize("what", ["missing", "twice", "reason"])
def test_rule_3_task_that_loses_or_doubles_a_row_is_an_error(here, what):
    class Wrong(ToyTask):
        def do(self, rows: pa.Table) -> bulk.Outcome:
            outcome = super().do(rows)
            ok, failed = outcome.ok, outcome.failed
            if what == "reason":
                strange = pa.array(["strange"] * len(failed))
                return bulk.Outcome(ok, failed.set_column(2, "reason", strange))
            return bulk.Outcome(ok.slice(1) if what == "missing" else ok.take([0, 0, 1]), failed)

    toy = here("a b odd-1", num_users=1)
    with pytest.raises(ValueError, match="'strange'" if what == "reason" else "each row once"):
        toy.drive(task=toy.make_task(Wrong))
    assert bulk.Survey(toy.run).summary.num_rows == 0


class SlowClock:
    """A clock that a test moves while the driver waits."""

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

    def proceed(self, seconds: float, is_seen: Callable[[], bool]) -> None:
        """Let time pass, and wait until the driver has done what is due."""
        self._until(lambda: self._is_waiting)
        self._now += timedelta(seconds=seconds)
        self._until(is_seen)

    def _until(self, is_so: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < give_up_at, "the driver does not report"
            time.sleep(0.005)


@pytest.mark.parametrize("at", ["chunk", "gate", "publish"])
def test_rule_4_driver_counts_as_alive_however_long_a_chunk_or_publishing_takes(here, at):
    toy, clock, ages = here(), SlowClock(now() - timedelta(minutes=2)), []

    def age() -> timedelta:
        return clock.now() - read_progress(toy.run.folder).written_at

    def two_minutes(chunk: int = 0) -> None:
        if chunk:
            return
        for _ in range(4):
            clock.proceed(30, lambda: age() < timedelta(seconds=30))
            ages.append(age())
        assert bulk.read_status(here.uri).phase == "running"
        assert has_work(toy.run) == (at == "chunk")
        with raises(errors.LeaseError, "driver_at_work"):
            refuse_live_driver(toy.run.folder)
        with raises(errors.LeaseError, "driver_at_work"):
            bulk.delete_runs(here.uri)
        bulk.vacuum(here.uri, timedelta(minutes=1))

    if at == "chunk":
        toy.complete(PoolHere(before=two_minutes), clock=clock)
    else:
        toy.drive()
        do = toy.complete if at == "gate" else toy.publish
        do(check=lambda: two_minutes() or {}, clock=clock)
    assert len(ages) == 4
    assert rows_of(toy.published()) == toy.rows
    refuse_live_driver(toy.run.folder)  # it released its lease
    assert bulk.read_status(here.uri).phase == "published"
    assert bulk.delete_runs(here.uri) == 1


def test_rule_4_driver_ends_after_the_chunk_during_which_its_plan_was_deleted(here):
    toy, clock = here(), SlowClock(now())

    class Deleted(ToyTask):
        def do(self, rows: pa.Table) -> bulk.Outcome:
            here.location.delete()
            later.append(here())
            seen = len(asked)
            clock.proceed(60, lambda: len(asked) > seen)
            return super().do(rows)

    def is_current(run: bulk.BulkRun) -> bool:
        try:
            return looks(run)
        finally:
            asked.append(run)

    later, asked, looks = [], [], bulk.BulkRun.is_current
    here.patch.setattr(bulk.BulkRun, "is_current", is_current)
    with raises(errors.LeaseError, "plan_replaced"):
        toy.drive(pool := PoolHere(), toy.make_task(Deleted), clock=clock)
    assert len(pool.done) == 1
    assert later[0].complete() is not None


def test_rule_12_driver_that_cannot_renew_its_lease_continues(here):
    toy, clock, tries = here(), SlowClock(now()), []

    def fail(run: bulk.BulkRun, progress: bulk.Progress) -> None:
        tries.append(progress)
        raise errors.StorageError("no answer")

    def beat(chunk: int) -> None:
        num_tries = len(tries)
        clock.proceed(60, lambda: len(tries) > num_tries)

    here.patch.setattr("xrec.bulk.progress.write_progress", fail)
    assert toy.complete(PoolHere(before=beat), clock=clock) is not None
    assert len(tries) > 8
    assert rows_of(toy.published()) == toy.rows


def test_rule_7_retry_replaces_rows_of_its_reasons_and_keeps_the_others(here):
    toy = here("a odd-1 dull-2", num_users=6)
    first, before = toy.complete(), texts_of(toy)
    again = toy.complete(retry=["odd"])  # which fails again
    assert again.row_counts == first.row_counts
    toy.heal()
    third = toy.complete(pool := PoolHere(), retry=["odd"])
    assert third.row_counts == {"explanations": 12, "failed": 6}
    assert third.metrics["failed_by_reason"] == {"dull": 6}
    assert len(pool.done) == 1
    after = texts_of(toy)
    assert {key: text for key, text in after.items() if key in before} == before
    assert set(after) - set(before) == {row for row in toy.rows if row[1] == "odd-1"}
    for reasons in (["odd", "dull"], ["odd", "dull", "task_error"]):
        toy.complete(retry=reasons)
    assert rows_of(toy.published(), "ok") == toy.rows
    assert len(toy.run.passes()) == 4  # the last retry had no rows
    assert len({manifest.fingerprint for manifest in (first, again, third)}) == 3


def test_rule_7_run_that_lost_the_record_of_a_retry_is_planned_again(here):
    toy = here("a odd-1")
    for _ in range(2):
        toy.drive(retry=["odd"])
    (toy.run.folder / "pass-1.json").delete()
    with raises(errors.TableError, "pass_deleted", "pass-1.json"):
        toy.drive()
    again = here("a odd-1")
    assert again.run.record.nonce != toy.run.record.nonce
    assert again.complete().row_counts == {"explanations": 12, "failed": 12}


def test_rule_7_unknown_reason_or_invalid_limit_changes_nothing(here):
    toy = here()
    before = here.location.files()
    with raises(errors.ConfigError, "unknown_reason", "retry_failed", ("od",)):
        toy.drive(retry=["od"])
    for options in ({"retry": ["odd"], "max_rows": 5}, {"max_rows": 0}):
        with pytest.raises(ValueError, match="max_rows"):
            toy.drive(**options)
    assert here.location.files() == before


def test_rule_10_limit_does_the_fewest_first_chunks_and_the_next_driver_continues(here):
    toy = here(num_users=11)
    sizes = toy.run.passes()[0].plan.rows_of_chunks.tolist()
    progress = toy.drive(limited := PoolHere(), max_rows=sizes[0] + 1)
    assert (progress.is_done, progress.num_rows) == (False, sizes[0] + sizes[1])
    assert limited.done == [0, 1]
    status = bulk.read_status(here.uri)
    assert (status.phase, status.num_done) == ("stopped", progress.num_rows)
    assert toy.complete(again := PoolHere(), max_rows=progress.num_rows) is None
    assert (again.num_starts, toy.publish()) == (0, None)
    assert not has_work(toy.run, max_rows=progress.num_rows)
    assert has_work(toy.run, max_rows=progress.num_rows + 1)
    assert toy.drive(max_rows=sum(sizes[:3])).num_rows == sum(sizes[:3])  # on a chunk's edge
    toy.complete(rest := PoolHere(), max_rows=len(toy.rows) - sizes[-1] + 1)  # in the last chunk
    assert rest.done == list(range(3, len(sizes)))
    assert rows_of(toy.published()) == toy.rows


@pytest.mark.parametrize(
    ("limit", "rows_per_chunk", "sizes"),
    [
        (5, 64, [5, 31]),
        (14, lambda num_rows: -(-num_rows // 4), [4, 4, 1, 4, 1, 4, 9, 9]),
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


def test_rule_10_hours_and_money_of_all_starts_end_a_run_and_are_in_its_manifest(there):
    """A chunk takes ten minutes of as many GPUs as chunks are left, and twice as many CPUs."""
    toy, clock = there(), [0.0]
    there.patch.setattr(bulk.driver, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    prices = {"gpu_hour": 2.0, "cpu_hour": 0.5, "million_reply_tokens": 1e6 / 36}

    class TenMinutes(ToyTask):
        def do(self, rows: pa.Table) -> bulk.Outcome:
            clock[0] += 600
            return super().do(rows)

    def complete(**budget: float) -> Manifest | None:
        task, spent = toy.make_task(TenMinutes), bulk.spent_of(budget, prices, 0.0)
        return toy.complete(task=task, spent=spent)

    for _ in range(2):  # the second start does nothing
        with raises(errors.BudgetError, "budget_used_up", "budget.gpu_hours", 12):
            complete(gpu_hours=2)
    # Two GPU hours, four CPU hours and 36 tokens are 7; four GPUs and a chunk are 2.5 more.
    with raises(errors.BudgetError, "budget_used_up", "budget.money", 18):
        complete(money=8)
    costs = complete(money=100).metrics["costs"]
    hours = 2 + 4 / 6 + 3 * 3 / 6
    assert costs["gpu_hours"] == pytest.approx(hours)
    assert costs["cpu_hours"] == pytest.approx(2 * hours)
    written = there.location.details().items()
    sizes = [info["size"] for path, info in written if "_delta_log" not in path]
    assert sum(sizes) <= costs["bytes_written"] <= 2 * sum(sizes)  # some are rewritten
    assert costs["bytes_read"] > 0
    assert costs["store_requests"] > len(sizes)


def test_rule_10_failed_share_is_relative_to_the_rows_within_the_limit(here):
    """One row in three fails, which is a small share of all rows while most are not done."""
    toy = here("a b odd-1")
    for _ in range(2):  # the second driver has nothing to do
        with raises(errors.GateError, "too_many_failed", saw=4):
            toy.drive(max_rows=7, max_failed_share=0.3)
    assert toy.drive(max_rows=7, max_failed_share=0.4).num_rows == 12
    assert toy.drive(max_failed_share=0.4).is_done


@pytest.mark.parametrize("rows_per_chunk", [3, 100])
def test_rule_11_good_rows_are_carried_and_the_others_done(here, rows_per_chunk):
    """The plan has new users and another number of buckets, and outlives the earlier table."""
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 3)
    earlier, later = here.at("earlier"), here.at("later")
    first = earlier("a b odd-1", num_users=6)
    first.complete()
    before = texts_of(first)
    settings = {"identity": OTHER, "rows_per_chunk": rows_per_chunk, "carry_from": earlier.uri}
    toy = later("a b c odd-1", num_users=8, **settings)
    bulk.empty(earlier.uri)
    earlier.location.delete()
    progress = drive_carrying(toy, killers=[("u-7", "c")])
    assert (progress.costs["carried"], progress.costs["carried_failed"]) == (12, 6)
    assert (progress.num_ok, progress.failed) == (23, {"odd": 8, "task_error": 1})
    assert progress.costs["tokens"] == 3 * (23 - 6)
    assert (progress.costs["again: a b"], progress.costs["again: new"]) == (6, 13)
    toy.publish()
    assert rows_of(toy.published()) == toy.rows
    same = {key for key, text in texts_of(toy).items() if before.get(key) == text}
    assert same == {key for key in before if key[1] == "a"}
    assert later("a b c odd-1", num_users=8, **settings).run.record == toy.run.record
    assert bulk.check_output(later.uri) == []


def test_rule_11_work_of_a_run_that_ended_early_is_carried_unless_it_was_taken_back(here):
    """Of several rows, the one of the latest run counts; a run may also be named."""
    settings = {"rows_per_chunk": 3, "carry_from": here.uri}
    identities = [OTHER.model_copy(update={"config": {"words": n}}) for n in range(5, 11)]
    here("a").complete()
    halves = [here("a b", identity=identities[n], **settings) for n in (0, 1)]
    texts = {}
    for half in halves:
        half.drive(max_rows=12)  # by a task that carries nothing
        results = half.run.passes()[0].results
        for chunk in results.sizes():
            rows = results.read(chunk, half.run.format.table_schema)[0].to_pylist()
            texts |= {(r["user"], r["item"]): r["text"] for r in rows if r["item"] == "a"}
    whole = here("a b c", identity=identities[2], **settings)
    assert drive_carrying(whole).costs["carried"] == 12
    whole.publish()
    assert texts.items() <= texts_of(whole).items()
    bulk.rollback(here.uri, 0)
    after = here("a d", identity=identities[3], **settings)
    assert texts.items().isdisjoint(_earlier_texts(after).items())
    name = f"{here.uri}/_xrec/runs/{halves[1].run.record.run}"
    named = here("a d", identity=identities[4], **{**settings, "carry_from": name})
    assert texts.items() <= _earlier_texts(named).items()
    with raises(errors.ArtifactNotFoundError, "no_run", "carry_from"):
        here("a e", identity=identities[5], **{**settings, "carry_from": f"{name}0"})


def _earlier_texts(toy: Any) -> dict[tuple[str, str], str]:
    plan = toy.run.passes()[0].plan
    rows = [row for n in range(plan.size.num_chunks) for row in plan.rows(n).to_pylist()]
    return {(r["user"], r["item"]): r["earlier"]["text"] for r in rows if r["earlier"]}


def test_rule_11_table_of_other_columns_is_refused_unless_it_is_this_output(here):
    first = here()
    first.complete()
    wider = replace(FORMAT, ok=pa.schema([("text", pa.string()), ("num_tokens", pa.int64())]))

    def planned(uri: str, format: Any = wider) -> Any:
        rows = [batch_of(first.rows)]
        return bulk.open_run(bulk.RunRequest(uri, OTHER, format, lambda: rows, carry_from=here.uri))

    with raises(errors.ArtifactMismatchError, "other_columns", "num_tokens"):
        planned(f"{here.uri}/other")
    assert planned(here.uri).record.num_rows == 36


def test_rule_11_version_that_is_not_sound_or_cannot_be_read_is_refused(here):
    here().complete()
    settings = {"identity": OTHER, "carry_from": here.uri}
    with here.patch.context() as patch:
        patch.setattr("xrec.bulk.log.digest_of", lambda files: "another")
        with raises(errors.TableError, "not_sound"):
            here.at("later")(**settings)
    (file,) = (here.location / path for path in files_of(here()))
    for spoil in (lambda: file.write_bytes(b"spoilt" * 999), file.delete):
        spoil()
        with pytest.raises((errors.DataError, errors.StorageError)):
            here.at("later")(**settings)


def test_wide_rows_are_carried_over_in_less_memory_than_their_size(here):
    here.patch.setattr("xrec.bulk.input.MEMORY", "16MB")
    settings = {"num_users": 250, "rows_per_chunk": 100}
    first = here("a c", **settings)
    first.drive(task=first.make_task(mark="x" * 64_000))
    first.publish()
    toy = here("a c d", identity=OTHER, carry_from=here.uri, **settings)
    progress = toy.drive(task=toy.make_task(CarryingTask))
    assert (progress.costs["carried"], progress.num_ok) == (500, 750)


@pytest.mark.parametrize("sizes", [(1, 80), (7, 2)])
def test_each_row_gets_the_earlier_row_with_its_keys_for_any_numbers_of_buckets(here, sizes):
    """The table has several files; it is read and planned in small ranges."""
    here.in_parts(1000)
    few = {"input.ROWS_AT_ONCE": 16, "earlier.ROWS_AT_ONCE": 5}
    for name, value in {**few, "request.ROWS_PER_BUCKET": sizes[0]}.items():
        here.patch.setattr(f"xrec.bulk.{name}", value)
    first = here("a c odd-1")
    first.complete()
    rows = first.published().dataset(status=None).to_table().to_pylist()
    before = {(row["user"], row["item"]): row for row in rows}
    here.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", sizes[1])
    run = here("a d odd-1", num_users=16, identity=OTHER, carry_from=here.uri).run
    assert {first.run.record.num_buckets, run.record.num_buckets} != {1}
    chunks = map(run.passes()[0].plan.rows, range(run.record.size.num_chunks))
    planned = [row for chunk in chunks for row in chunk.to_pylist()]
    found = {(row["user"], row["item"]): row["earlier"] for row in planned}
    assert len(planned) == len(found) == 48
    assert found == {keys: before.get(keys) for keys in found}


@pytest.fixture
def opened(monkeypatch):
    """The names of the results whose footers are read."""
    names, summary = [], ResultFolder.summary

    def noted(results: ResultFolder, name: str) -> bulk.Summary | None:
        names.append(name)
        return summary(results, name)

    monkeypatch.setattr(ResultFolder, "summary", noted)
    return names


def counts_of(toy: Toy) -> tuple[list[int], bulk.Summary]:
    survey = bulk.Survey(toy.run)
    return [len(tally.done) for tally in survey.tallies], survey.summary


def recount(toy: Toy) -> tuple[list[int], bulk.Summary]:
    """Count all results without the saved counts."""
    for name in toy.run.folder.files():
        if name.endswith("counted.json"):
            (toy.run.folder / name).delete()
    return counts_of(toy)


def test_driver_that_resumes_opens_no_result_that_was_counted(here, opened):
    toy = here("a odd-1 b")
    with pytest.raises(KeyboardInterrupt):
        toy.drive(stopped_after(3))
    for num_done in ([3], [6, 2]):
        opened.clear()
        counts = counts_of(toy)
        assert (opened, counts[0]) == ([], num_done)
        assert counts == recount(toy)
        assert len(opened) == sum(num_done)
        toy.drive(retry=["odd"])
    (toy.run.folder / "counted.json").write_bytes(b'{"chunks": "zz", "second": []}')
    assert counts_of(toy) == recount(toy)
