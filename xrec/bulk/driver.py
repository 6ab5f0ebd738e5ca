"""The driver of a run: it lets the chunks that have no result be done, pass after pass.

A thread gives signs of life and sees whether the plan still counts, however long a chunk takes.
Budget, limit and failed share are judged after each chunk.
"""

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.beat import REAL, Beat, Clock, give_sign, store_may_fail
from xrec.bulk.parts import final_rows
from xrec.bulk.publish import Describe, publish
from xrec.bulk.runs.plan import ORIGIN
from xrec.bulk.runs.progress import (
    STARTS,
    Progress,
    Survey,
    costs_of_starts,
    read_progress,
    refuse_live_driver,
)
from xrec.bulk.runs.result import BrokenResultError, Summary, added, bare
from xrec.bulk.runs.row_format import FAILED, ChunkTask
from xrec.bulk.runs.run import BulkRun, Pass
from xrec.bulk.takedown import read_takedowns
from xrec.bulk.work.worker import WorkerSettings
from xrec.errors import BudgetError, ClusterError, DataError, GateError, StorageError
from xrec.storage import Kind, Manifest, row_groups, this_process, traffic, with_backoff

if TYPE_CHECKING:
    from xrec.bulk.work.pool import Pool  # it imports Ray, which a status needs not

logger = logging.getLogger("xrec")

Spent = Callable[[Summary], str]
"""Says what of a budget is used up, by what is done of a run; an empty text if nothing is."""


def drive(
    run: BulkRun,
    pool: "Pool",
    make_task: Callable[[], ChunkTask],
    *,
    chunks_at_once: int = 1,
    retry: Sequence[str] = (),
    max_failed_share: float = 1.0,
    max_rows: int | None = None,
    spent: Spent = lambda summary: "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    then: Callable[[], None] = lambda: None,
    clock: Clock = REAL,
) -> Progress:
    """Do what is left of a run, then once more the rows that failed for the reasons `retry`.

    make_task, chunks_at_once: see `WorkerSettings`.
    max_rows: end when so many rows are done, those of earlier calls included, and leave the run
        unfinished. Chunks are not divided, so there may be more, unless the run was planned with
        this limit.
    spent: called after each chunk; once something is used up, no further chunk begins, and those at
        work are waited for.
    on_progress: called every few seconds, for progress and metrics.
    then: called once all is done; until it returns, this driver gives signs of life.

    Returns how far the run is; it is done unless `max_rows` ended it before. Raises LeaseError if
    another driver is at work, or the run was planned anew meanwhile; GateError if more than
    `max_failed_share` of the rows failed; BudgetError if something is used up; ValueError for a
    reason that the format has not, or a limit of a retry; what a process raised; ClusterError. What
    has a result stays, and the next call goes on from there.
    """
    reasons = run.format.check_reasons(tuple(retry))
    if max_rows is not None and (max_rows < 1 or reasons):
        raise ValueError(f"max_rows = {max_rows}: expected at least 1, and a retry has no limit")
    refuse_live_driver(run.folder, but=this_process())
    num_wanted = min(run.record.num_rows, max_rows or run.record.num_rows)

    def judge(summary: Summary) -> None:
        if not reasons:  # a retry may fix what failed
            check_failed_share(run, summary, max_failed_share, max(num_wanted, summary.num_rows))

    driver = _Driver(run, pool, make_task, chunks_at_once, on_progress, judge, spent, clock)
    try:
        progress = driver.go(reasons, max_rows)
        check_failed_share(run, progress, max_failed_share)
        if progress.is_done:
            then()
    except KeyboardInterrupt:
        logger.warning(
            "stopped: %d of %d rows are done; run the same command again to go on with the others",
            driver.num_done,
            run.record.num_rows,
        )
        raise
    except (DataError, StorageError):
        with store_may_fail():
            driver.beat.check_is_current()  # files that are gone are not the fault to report then
        raise
    finally:
        driver.beat.end()
    if driver.why and not progress.is_done:
        raise BudgetError(
            f"{run.output}: {driver.why}; {driver.num_done} of {run.record.num_rows} rows are done "
            "and stay, nothing is published; the same command goes on, if it was not for seconds "
            "with a larger budget",
            code="budget_used_up",
            key=driver.why.partition(" ")[0],
            saw=driver.num_done,
        )
    return progress


_PROMPTS = ("prompt_tokens", "num_prompt_tokens")
_REPLIES = ("reply_tokens", "num_generated_tokens")
Amounts = Mapping[Any, float]


def use_of(costs: Amounts, prices: Amounts) -> dict[str, float]:
    """What costs are in the terms of a budget: gpu_hours, tokens, and money if there are prices."""
    prompts, replies = (sum(costs.get(n, 0) for n in names) for names in (_PROMPTS, _REPLIES))
    amounts = {
        "cpu_hour": costs.get("cpu_hours", 0),
        "gpu_hour": costs.get("gpu_hours", 0),
        "million_prompt_tokens": prompts / 1e6,
        "million_reply_tokens": replies / 1e6,
        "million_store_requests": costs.get("store_requests", 0) / 1e6,
    }
    money = {"money": sum(price * amounts[name] for name, price in prices.items())}
    use = {"gpu_hours": amounts["gpu_hour"], "tokens": prompts + replies}
    return use | money if prices else use


def used_up(budget: Amounts, used: Amounts) -> str:
    """What of a budget is used up, for a reader; "" if nothing is."""
    over = (name for name, most in budget.items() if used.get(name, 0) >= most)
    texts = (f"budget.{n} = {budget[n]:,.10g} is used up ({used[n]:,.6g})" for n in over)
    return next(texts, "")


def spent_of(budget: Amounts, prices: Amounts, since: float, *before: Amounts) -> Spent:
    """What says which part of `budget` is used up.

    since: time.monotonic() of the start. before: costs that count too.
    """

    def spent(summary: Summary) -> str:
        used = use_of(reduce(added, before, summary.costs), prices)
        return used_up(budget, {**used, "seconds": time.monotonic() - since})

    return spent


def complete(
    run: BulkRun,
    pool: "Pool",
    make_task: Callable[[], ChunkTask],
    kind: Kind,
    describe: Describe,
    *,
    republish: bool = False,
    check: Callable[[], None] = lambda: None,
    clock: Clock = REAL,
    **options: Any,
) -> Manifest | None:
    """Do what is left of a run (`drive`, with its `options`), and publish it (`publish`).

    Returns the manifest; None if `max_rows` ended the run before it was done. A chunk whose result
    turns out to be damaged is done once more. Signs of life end when all of this does.
    """
    manifest: Manifest | None = None

    def finish() -> None:
        nonlocal manifest
        manifest = publish(run, kind, describe, republish=republish, check=check, clock=clock)

    with costs_told(run):
        while True:  # a result is found to be broken once; after that, another error names it
            try:
                drive(run, pool, make_task, then=finish, clock=clock, **options)
                return manifest
            except BrokenResultError as error:
                logger.warning("%s", error)


@contextmanager
def costs_told(run: BulkRun, *before: Amounts) -> Iterator[None]:
    """Let what ends a run say what its starts and those `before` cost, as a manifest would."""
    try:
        yield
    except (BudgetError, ClusterError, GateError) as error:
        costs = error.metrics.get("costs")  # as `complete` has told them
        costs = costs or (Survey(run).summary + costs_of_starts(run.folder)).costs
        error.metrics = {**error.metrics, "costs": reduce(added, before, costs)}
        raise


def has_work(run: BulkRun, *, retry: Sequence[str] = (), max_rows: int | None = None) -> bool:
    """Whether `drive` would do any row; it reads results only where listings do not tell."""
    if max_rows is None and not all(each.is_done for each in run.passes()):
        return True
    survey = Survey(run)
    if survey.is_done:
        return any(survey.summary.failed.get(reason) for reason in retry)
    return max_rows is None or survey.summary.num_rows < max_rows


def check_failed_share(
    run: BulkRun, progress: Progress | Summary, max_failed_share: float, num_rows: int | None = None
) -> None:
    """Raise GateError if more than `max_failed_share` of `num_rows` rows failed.

    num_rows: those that are done if it is None. Reasons that the run's format expects do not count.
    """
    faults = run.format.faults(progress.failed)
    num_failed, num_done = faults.total(), progress.num_rows
    num_rows = num_done if num_rows is None else num_rows
    if num_failed <= max_failed_share * num_rows:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in faults.most_common())
    raise GateError(
        f"{num_failed} of {num_rows} rows failed ({reasons}), more than max_failed_share = "
        f"{max_failed_share}, so nothing is published; {progress.num_ok} succeeded, "
        f"{run.record.num_rows - num_done} are left. The rows of status=failed in {run.folder} "
        "have texts and messages; correct the cause and retry these rows, or raise "
        "max_failed_share and run again",
        code="too_many_failed",
        key="max_failed_share",
        saw=num_failed,
    )


@dataclass
class _Driver:
    run: BulkRun
    pool: "Pool"
    make_task: Callable[[], ChunkTask]
    chunks_at_once: int
    on_progress: Callable[[Progress], None]
    judge: Callable[[Summary], None]
    spent: Spent
    clock: Clock
    why: str = ""
    own: Summary = field(default_factory=Summary)
    _survey: Survey = field(init=False)

    def __post_init__(self) -> None:
        self._before = costs_of_starts(self.run.folder)
        self._summary: Summary = read_progress(self.run.folder) or Summary()  # until the survey
        self._looked_at = time.monotonic()
        self._name = f"{uuid.uuid4().hex}.json"
        self._held, self._held_since = dict[str, float](), time.monotonic()
        self._counting = threading.Lock()
        began_at = self.clock.now()
        self._progress = Progress(holder=this_process(), written_at=began_at, started_at=began_at)
        self.beat = Beat(self.run, self.clock, self._say)

    @property
    def num_done(self) -> int:
        return self._summary.num_rows

    def go(self, reasons: tuple[str, ...], max_rows: int | None) -> Progress:
        """Do all passes that were begun, or what the limit allows; then the retry.

        If another driver begins passes meanwhile, they are done too; one of these reasons is then
        the retry.
        """
        self.beat.begin()
        self._survey = Survey(self.run)
        try:
            return self._do_passes(reasons, max_rows)
        finally:
            with store_may_fail():
                if self.run.is_current():
                    self._survey.keep()

    def _do_passes(self, reasons: tuple[str, ...], max_rows: int | None) -> Progress:
        self._summary = self._survey.summary + self._before
        passes, num_done = self._survey.passes, 0
        num_before, newest = len(passes), passes[-1]
        self._update(
            pass_number=newest.number, reasons=newest.reasons, num_rows_before=self.num_done
        )
        while num_done < len(passes):
            for each in passes[num_done:]:
                if not self._do(each, max_rows):
                    return self._progress
            num_done = len(passes)
            if reasons and all(each.reasons != reasons for each in passes[num_before:]):
                self._begin_retry(reasons, passes)
            self._summary += self._survey.look()
        with_backoff(self.beat.check_is_current)
        self._update(is_done=True)
        self._say(True)  # what this start cost, for whoever publishes the run
        return self._progress

    def _do(self, each: Pass, max_rows: int | None) -> bool:
        """Do what is left of a pass; False if the limit left some chunks."""
        chunks = self._survey.left(each).tolist()
        num_left = len(chunks)
        if max_rows is not None:
            sizes = each.plan.rows_of_chunks[chunks]
            before = self.num_done + np.cumsum(sizes) - sizes
            chunks = chunks[: int(np.searchsorted(before, max_rows))]
        num_done = 0
        if chunks and not self._is_over():
            logger.info("%d of %d chunks left", len(chunks), each.size.num_chunks)
            self._update(pass_number=each.number, reasons=each.reasons)
            settings = WorkerSettings(each, self.run.format, self.make_task, self.chunks_at_once)
            self._count(self.pool.held(len(chunks)))
            kept_at = time.monotonic()
            for chunk, summary in self.pool.summaries(settings, chunks, self._is_over):
                self._survey.add(each, chunk, summary)
                self._take(summary)
                if time.monotonic() - kept_at >= self.clock.seconds_between_signs:
                    self._survey.keep()
                    kept_at = time.monotonic()
                num_done += 1
            self._count({})
            self._note()
        return num_done == num_left

    def _is_over(self) -> bool:
        """Whether no further chunk may begin; raises an error if the driver must end."""
        if self.beat.error is not None:
            raise self.beat.error
        if time.monotonic() - self._looked_at >= self.clock.seconds_between_looks:
            self._note()
        self._count()
        self.why = self.why or self.spent(self._all)
        return bool(self.why)

    @property
    def _all(self) -> Summary:
        """Counts and costs of rows, and of all drivers' starts."""
        return self._summary + self.own

    def _count(self, held: dict[str, float] | None = None) -> None:
        """Count what this start cost besides rows; from now on its pool holds these CPUs, GPUs."""
        with self._counting:
            hours = (time.monotonic() - self._held_since) / 3600
            costs = added({name: n * hours for name, n in self._held.items()}, traffic())
            self.own += Summary(costs=costs)
            self._held = self._held if held is None else held
            self._held_since = time.monotonic()

    def _take(self, summary: Summary) -> None:
        self._summary += summary
        if self._progress.working_since is None:
            self._update(working_since=self.clock.now(), num_rows_before=self.num_done)
        self.judge(self._summary)

    def _note(self) -> None:
        self._looked_at = time.monotonic()
        self._update()
        self.on_progress(self._progress)

    def _update(self, **changes: Any) -> None:
        self._progress = self._progress.model_copy(update={**dict(self._all), **changes})

    def _say(self, alive: bool) -> None:
        """Write what this start cost, and how far the run is."""
        self._count()
        with store_may_fail():
            (self.run.folder / STARTS / self._name).write_bytes(self.own.to_bytes())
        progress = self._progress.model_copy(update=dict(self._all))
        give_sign(self.run, progress, self.clock, alive=alive)

    def _begin_retry(self, reasons: tuple[str, ...], passes: Sequence[Pass]) -> None:
        """Plan the rows anew whose last result is that they failed for one of the reasons."""
        size = max(1, int(passes[0].plan.rows_of_chunks.max()))
        rows = map(read_takedowns(self.run.output).without, last_failed(self.run, passes, reasons))
        chunks = row_groups(rows, size)
        if (chunk := next(chunks, None)) is not None:
            self.run.begin_pass(len(passes), reasons, itertools.chain([chunk], chunks))


def last_failed(run: BulkRun, passes: Sequence[Pass], reasons: Sequence[str]) -> Iterator[pa.Table]:
    """Yield, in the plan's order, the rows whose last result is that they failed for a reason.

    Their columns are `bucket`, keys, `reason` and `ORIGIN`.
    """
    names = ["bucket", *run.format.keys, "reason"]
    wanted = pc.field("reason").isin(list(reasons)) & (pc.field("status") == FAILED)
    all_rows = final_rows(run.format, passes, 0, passes[0].size.num_chunks - 1)
    for chunk, (rows, _) in enumerate(all_rows):
        failed = rows.filter(wanted).select(names)
        origin = pa.repeat(pa.scalar(chunk, pa.int64()), failed.num_rows)
        yield bare(failed.append_column(ORIGIN, origin))
