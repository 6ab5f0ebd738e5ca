"""The driver of a run: it does the chunks that have no result, pass by pass, then publishes.

The budget, the limit and the share of failed rows are checked after each chunk.
"""

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.budget import Meter, Spent, check_failed_share, costs_in_errors
from xrec.bulk.parts import final_rows
from xrec.bulk.plan import ORIGIN
from xrec.bulk.progress import (
    REAL,
    STARTS,
    Clock,
    Progress,
    RunBeat,
    Survey,
    costs_of_starts,
    read_progress,
    refuse_live_driver,
    report,
    store_may_fail,
)
from xrec.bulk.publish import Describe, publish
from xrec.bulk.results import BrokenResultError, Summary
from xrec.bulk.rows import FAILED, ChunkTask, bare
from xrec.bulk.run import BulkRun, Pass
from xrec.bulk.takedown import read_takedowns
from xrec.bulk.worker import WorkerSettings
from xrec.errors import BudgetError, DataError, StorageError
from xrec.storage import Kind, Manifest, row_groups, this_process, with_backoff

if TYPE_CHECKING:
    from xrec.bulk.processes import Pool  # imports Ray, which a status does not need

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class DriveOptions:
    """Options for `drive`.

    chunks_at_once: see `WorkerSettings`.
    retry: once all rows are done, do the rows that failed for these reasons again.
    max_failed_share: end the run if a larger share of its rows failed, 0 to 1.
    max_rows: stop once this many rows are done, including those of earlier calls. Chunks are not
        split, so more rows may be done unless the run was planned with this limit.
    spent: called after each chunk; once it reports a used-up budget, no further chunk starts.
    on_progress: called every few seconds.
    """

    chunks_at_once: int = 1
    retry: Sequence[str] = ()
    max_failed_share: float = 1.0
    max_rows: int | None = None
    spent: Spent = lambda summary: ""
    on_progress: Callable[[Progress], None] = lambda progress: None


def drive(
    run: BulkRun,
    pool: "Pool",
    make_task: Callable[[], ChunkTask],
    options: DriveOptions = DriveOptions(),
    *,
    then: Callable[[], None] = lambda: None,
    clock: Clock = REAL,
) -> Progress:
    """Do what is left of a run, and then its retry.

    make_task: see `WorkerSettings`. then: called once everything is done, while this driver still
        holds the lease.

    Return the progress, which is done unless `max_rows` ended the run. Raise LeaseError if another
    driver is at work or the run was planned again, GateError if more than `max_failed_share` of the
    rows failed, BudgetError if the budget is used up, ConfigError for an unknown reason, ValueError
    for a limit with a retry, ClusterError if processes or Ray fail, or the XRecError that a process
    raised. Results are kept, and the next call continues.
    """
    reasons, max_rows = run.format.check_reasons(options.retry), options.max_rows
    if max_rows is not None and (max_rows < 1 or reasons):
        raise ValueError(f"max_rows = {max_rows}: expected at least 1, or None for a retry")
    refuse_live_driver(run.folder, but=this_process())
    num_wanted = min(run.record.num_rows, max_rows or run.record.num_rows)
    max_failed_share = options.max_failed_share

    def judge(summary: Summary) -> None:
        if not reasons:  # a retry may fix what failed
            check_failed_share(run, summary, max_failed_share, max(num_wanted, summary.num_rows))

    driver = _Driver(run, pool, make_task, options, judge, clock)
    try:
        progress = driver.go(reasons, max_rows)
        check_failed_share(run, progress, max_failed_share)
        if progress.is_done:
            then()
    except KeyboardInterrupt:
        logger.warning(
            "stopped: %d of %d rows are done; run the same command again to continue",
            driver.num_done,
            run.record.num_rows,
        )
        raise
    except (DataError, StorageError):
        with store_may_fail():
            driver.beat.check_is_current()  # report a deleted plan rather than its missing files
        raise
    finally:
        driver.beat.end()
    if driver.used_up and not progress.is_done:
        raise BudgetError(
            f"{run.output}: {driver.used_up}; {driver.num_done} of {run.record.num_rows} rows are "
            "done and kept, and nothing is published. Rerun the same command to continue; raise "
            "the budget first, unless it was `seconds`",
            code="budget_used_up",
            key=driver.used_up.partition(" ")[0],
            saw=driver.num_done,
        )
    return progress


def complete(
    run: BulkRun,
    pool: "Pool",
    make_task: Callable[[], ChunkTask],
    kind: Kind,
    describe: Describe,
    options: DriveOptions = DriveOptions(),
    *,
    republish: bool = False,
    check: Callable[[], None] = lambda: None,
    clock: Clock = REAL,
) -> Manifest | None:
    """Do what is left of a run (`drive`) and publish it (`publish`) under one lease.

    Return the manifest, or None if `max_rows` ended the run. A chunk whose result turns out to be
    damaged is done once more.
    """
    manifest: Manifest | None = None

    def finish() -> None:
        nonlocal manifest
        manifest = publish(run, kind, describe, republish=republish, check=check, clock=clock)

    with costs_in_errors(run):
        while True:  # a result is reported broken once; the second time, another error names it
            try:
                drive(run, pool, make_task, options, then=finish, clock=clock)
                return manifest
            except BrokenResultError as error:
                logger.warning("%s", error)


def has_work(run: BulkRun, *, retry: Sequence[str] = (), max_rows: int | None = None) -> bool:
    """Return whether `drive` would do any rows; reads results only if listings do not show it."""
    if max_rows is None and not all(work.is_done for work in run.passes()):
        return True
    survey = Survey(run)
    if survey.is_done:
        return any(survey.summary.failed.get(reason) for reason in retry)
    return max_rows is None or survey.summary.num_rows < max_rows


@dataclass
class _Driver:
    """The work of `drive`: doing passes and reporting progress.

    used_up: the part of the budget that ended the run, or "".
    """

    run: BulkRun
    pool: "Pool"
    make_task: Callable[[], ChunkTask]
    options: DriveOptions
    judge: Callable[[Summary], None]
    clock: Clock
    used_up: str = ""
    _meter: Meter = field(default_factory=Meter)
    _survey: Survey = field(init=False)

    def __post_init__(self) -> None:
        self._before = costs_of_starts(self.run.folder)
        self._summary: Summary = read_progress(self.run.folder) or Summary()  # until the survey
        self._shown_at = time.monotonic()
        self._name = f"{uuid.uuid4().hex}.json"
        now = self.clock.now()
        self._progress = Progress(holder=this_process(), written_at=now, started_at=now)
        self.beat = RunBeat(self.run, self.clock, self._report)

    @property
    def num_done(self) -> int:
        return self._summary.num_rows

    def go(self, reasons: tuple[str, ...], max_rows: int | None) -> Progress:
        """Do all passes, up to the limit, then the retry.

        Passes that another driver adds meanwhile are done too; if one has the same reasons, it
        is the retry.
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
            for work in passes[num_done:]:
                if not self._do(work, max_rows):
                    return self._progress
            num_done = len(passes)
            if reasons and all(work.reasons != reasons for work in passes[num_before:]):
                self._begin_retry(reasons, passes)
            self._summary += self._survey.look()
        with_backoff(self.beat.check_is_current)
        self._update(is_done=True)
        self._report(True)  # writes this start's costs, which the publisher of the run reads
        return self._progress

    def _do(self, work: Pass, max_rows: int | None) -> bool:
        """Do the rest of a pass; return False if some of its chunks are not done."""
        chunks = self._survey.left(work).tolist()
        num_left = len(chunks)
        if max_rows is not None:
            sizes = work.plan.rows_of_chunks[chunks]
            before = self.num_done + np.cumsum(sizes) - sizes
            chunks = chunks[: int(np.searchsorted(before, max_rows))]
        num_done = 0
        if chunks and not self._is_over():
            logger.info("%d of %d chunks left", len(chunks), work.size.num_chunks)
            self._update(pass_number=work.number, reasons=work.reasons)
            at_once = self.options.chunks_at_once
            settings = WorkerSettings(work, self.run.format, self.make_task, at_once)
            self._meter.read(self.pool.held(len(chunks)))
            kept_at = time.monotonic()
            for chunk, summary in self.pool.summaries(settings, chunks, self._is_over):
                self._survey.add(work, chunk, summary)
                self._count(summary)
                if time.monotonic() - kept_at >= self.clock.seconds_between_signs:
                    self._survey.keep()
                    kept_at = time.monotonic()
                num_done += 1
            self._meter.read({})
            self._show()
        return num_done == num_left

    def _is_over(self) -> bool:
        """Return whether no further chunk may start; raise an error that must end the driver."""
        if self.beat.error is not None:
            raise self.beat.error
        if time.monotonic() - self._shown_at >= self.clock.seconds_between_looks:
            self._show()
        self._meter.read()
        self.used_up = self.used_up or self.options.spent(self._all)
        return bool(self.used_up)

    @property
    def _all(self) -> Summary:
        """The counts and costs of rows and of all starts."""
        return self._summary + self._meter.summary

    def _count(self, summary: Summary) -> None:
        self._summary += summary
        if self._progress.working_since is None:
            self._update(working_since=self.clock.now(), num_rows_before=self.num_done)
        self.judge(self._summary)

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        self._update()
        self.options.on_progress(self._progress)

    def _update(self, **changes: Any) -> None:
        self._progress = self._progress.model_copy(update={**dict(self._all), **changes})

    def _report(self, is_alive: bool) -> None:
        """Write the costs of this start, and the progress."""
        costs = self._meter.read()
        with store_may_fail():
            (self.run.folder / STARTS / self._name).write_bytes(costs.to_bytes())
        progress = self._progress.model_copy(update=dict(self._all))
        report(self.run, progress, self.clock, is_alive=is_alive)

    def _begin_retry(self, reasons: tuple[str, ...], passes: Sequence[Pass]) -> None:
        """Plan a pass of the rows that last failed for one of the reasons."""
        size = max(1, int(passes[0].plan.rows_of_chunks.max()))
        rows = map(read_takedowns(self.run.output).without, last_failed(self.run, passes, reasons))
        chunks = row_groups(rows, size)
        if (chunk := next(chunks, None)) is not None:
            self.run.begin_pass(len(passes), reasons, itertools.chain([chunk], chunks))


def last_failed(run: BulkRun, passes: Sequence[Pass], reasons: Sequence[str]) -> Iterator[pa.Table]:
    """Yield, in the plan's order, the rows that failed in their last pass for one of the reasons.

    Their columns are `bucket`, the columns of a planned row, `reason` and `ORIGIN`.
    """
    names = ["bucket", *run.format.planned_schema.names, "reason"]
    wanted = pc.field("reason").isin(list(reasons)) & (pc.field("status") == FAILED)
    all_rows = final_rows(run.format, passes, 0, passes[0].size.num_chunks - 1)
    for chunk, (rows, _) in enumerate(all_rows):
        failed = rows.filter(wanted).select(names)
        origin = pa.repeat(pa.scalar(chunk, pa.int64()), failed.num_rows)
        yield bare(failed.append_column(ORIGIN, origin))
