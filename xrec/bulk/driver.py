"""The driver of a run: it does the chunks that have no result, pass by pass, then publishes.

The budget, the limit and the share of failed rows are checked after each chunk.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.plan import ORIGIN
from xrec.bulk.progress import (
    Progress,
    RunLease,
    Survey,
    read_progress,
    refuse_live_driver,
    start_costs,
    store_may_fail,
)
from xrec.bulk.publisher import Describe, publish
from xrec.bulk.results import BrokenResultError
from xrec.bulk.rows import FAILED, Amounts, ChunkTask, Summary, added, bare
from xrec.bulk.run import BulkRun, Pass, final_rows
from xrec.bulk.takedown import read_takedowns
from xrec.bulk.worker import ChunkWorker
from xrec.errors import BudgetError, ClusterError, DataError, GateError, StorageError
from xrec.storage import Kind, Manifest, row_groups, this_process, traffic, with_backoff

if TYPE_CHECKING:
    from xrec.processes import Pool  # which imports Ray, and few commands need it

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class DriveOptions:
    """Options for `drive`.

    chunks_at_once: see `ChunkWorker`.
    retry: once all rows are done, do the rows that failed for these reasons again.
    max_failed_share: end the run if a larger share of its rows failed, 0 to 1.
    max_rows: stop once this many rows are done, including those of earlier calls. Chunks are not
        split, so more rows may be done unless the run was planned with this limit.
    spent: called after each chunk with the summary of all work; once it describes a part of a
        budget that is used up instead of returning "", no further chunk starts.
    on_progress: called every few seconds.
    """

    chunks_at_once: int = 1
    retry: Sequence[str] = ()
    max_failed_share: float = 1.0
    max_rows: int | None = None
    spent: Callable[[Summary], str] = lambda summary: ""
    on_progress: Callable[[Progress], None] = lambda progress: None


def drive(
    run: BulkRun,
    pool: "Pool",
    make_task: Callable[[], ChunkTask],
    options: DriveOptions = DriveOptions(),
    *,
    then: Callable[[], None] = lambda: None,
) -> Progress:
    """Do what is left of a run, and then its retry.

    make_task: see `ChunkWorker`. then: called once everything is done, while this driver still
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
    driver = _Driver(run, pool, make_task, options, reasons)
    with driver.lease as lease:
        try:
            progress = driver.go()
            check_failed_share(run, progress, options.max_failed_share)
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
                lease.check_is_current()  # report a deleted plan rather than its missing files
            raise
    if driver.used_up and not progress.is_done:
        raise BudgetError(
            f"{run.output}: {driver.used_up}; {progress.num_rows} of {run.record.num_rows} rows "
            "are done and kept, and nothing is published. Rerun the same command to continue; "
            "raise the budget first, unless it was `seconds`",
            code="budget_used_up",
            key=driver.used_up.partition(" ")[0],
            saw=progress.num_rows,
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
    check: Callable[[], Amounts] = dict,
) -> Manifest | None:
    """Do what is left of a run (`drive`) and publish it (`publish`) under one lease.

    Return the manifest, or None if `max_rows` ended the run. A chunk whose result turns out to be
    damaged is done once more.
    """
    manifest: Manifest | None = None

    def finish() -> None:
        nonlocal manifest
        manifest = publish(run, kind, describe, republish=republish, check=check)

    with costs_in_errors(run):
        while True:  # a result is reported broken once; the second time, another error names it
            try:
                drive(run, pool, make_task, options, then=finish)
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


@contextmanager
def costs_in_errors(run: BulkRun, *before: Amounts) -> Iterator[None]:
    """Add the costs of a run, and those in `before`, to the metrics of an error that ends it."""
    try:
        yield
    except (BudgetError, ClusterError, GateError) as error:
        costs = error.metrics.get("costs")  # set by `complete`
        costs = costs or (Survey(run).summary + start_costs(run.folder)).costs
        error.metrics = {**error.metrics, "costs": reduce(added, before, costs)}
        raise


def check_failed_share(
    run: BulkRun, counts: Summary, max_failed_share: float, num_rows: int = 0
) -> None:
    """Raise GateError if more than `max_failed_share` of the rows failed.

    num_rows: compare with at least this many rows. Failures for expected reasons do not count.
    """
    faults = run.format.faults(counts.failed)
    num_failed, num_rows = faults.total(), max(num_rows, counts.num_rows)
    if num_failed <= max_failed_share * num_rows:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in faults.most_common())
    raise GateError(
        f"{num_failed} of {num_rows} rows failed ({reasons}), more than max_failed_share = "
        f"{max_failed_share}, so nothing is published; {counts.num_ok} succeeded, "
        f"{run.record.num_rows - counts.num_rows} are left. See the texts and messages of the rows "
        f"with status=failed in {run.folder}; fix the cause and retry these rows, or raise "
        "max_failed_share, and run again",
        code="too_many_failed",
        key="max_failed_share",
        saw=num_failed,
    )


class Meter:
    """The costs of one driver start, excluding those of rows: CPU and GPU hours, store traffic."""

    def __init__(self) -> None:
        self._costs, self._held, self._since = dict[str, float](), dict[str, float](), 0.0
        self._lock = threading.Lock()

    def read(self, holding: dict[str, float] | None = None) -> Summary:
        """Return the costs so far; from now on, count the CPUs and GPUs in `holding`, if given."""
        with self._lock:
            now = time.monotonic()
            hours = {name: n * (now - self._since) / 3600 for name, n in self._held.items()}
            self._costs = added(self._costs, added(hours, traffic()))
            self._held, self._since = self._held if holding is None else holding, now
            return Summary(costs=self._costs)


class _Driver:
    """The work of `drive`: doing passes and reporting progress.

    used_up: the part of the budget that ended the run, or "".
    """

    def __init__(
        self,
        run: BulkRun,
        pool: "Pool",
        make_task: Callable[[], ChunkTask],
        options: DriveOptions,
        reasons: tuple[str, ...],
    ):
        self._run, self._pool, self._make_task = run, pool, make_task
        self._options, self._reasons, self._clock = options, reasons, run.clock
        self.used_up, self._meter, self._before = "", Meter(), start_costs(run.folder)
        self._survey: Survey | None = None
        last, at = read_progress(run.folder), run.clock.now()
        counts = {name: getattr(last, name) for name in Summary.model_fields} if last else {}
        self._progress = Progress(**counts, holder=this_process(), written_at=at, started_at=at)
        self._shown_at = time.monotonic()
        self.lease = RunLease(run, self._now)

    @property
    def num_done(self) -> int:
        return self._now().num_rows

    def go(self) -> Progress:
        """Do all passes, up to the limit, then the retry.

        Passes that another driver adds meanwhile are done too; if one has the same reasons, it
        is the retry.
        """
        survey = self._survey = Survey(self._run)
        try:
            return self._do_passes(survey)
        finally:
            with store_may_fail():
                if self._run.is_current():
                    survey.keep()

    def _do_passes(self, survey: Survey) -> Progress:
        passes, num_done = survey.passes, 0
        num_before, newest = len(passes), passes[-1]
        self._update(pass_number=newest.number, reasons=newest.reasons)
        self._update(num_rows_before=self._progress.num_rows)
        while num_done < len(passes):
            for work in passes[num_done:]:
                if not self._do(survey, work):
                    return self._now()
            num_done = len(passes)
            wanted = self._reasons
            if wanted and all(work.reasons != wanted for work in passes[num_before:]):
                self._begin_retry(passes)
            survey.look()
        with_backoff(self.lease.check_is_current)
        self._update(is_done=True)
        self.lease.report()  # with this start's costs, which the publisher of the run reads
        return self._progress

    def _do(self, survey: Survey, work: Pass) -> bool:
        """Do the rest of a pass; return False if some of its chunks are not done."""
        tally = survey.tallies[work.number]
        chunks = tally.left.tolist()
        if self._options.max_rows is not None:
            sizes = work.plan.rows_of_chunks[chunks]
            before = survey.summary.num_rows + np.cumsum(sizes) - sizes
            chunks = chunks[: int(np.searchsorted(before, self._options.max_rows))]
        if chunks and not self._is_over():
            logger.info("%d of %d chunks left", len(chunks), work.size.num_chunks)
            self._update(pass_number=work.number, reasons=work.reasons)
            at_once, kept_at = self._options.chunks_at_once, time.monotonic()
            self._meter.read(self._pool.held(len(chunks)))
            make = partial(ChunkWorker, work, self._run.format, self._make_task, at_once)
            for chunk, summary in self._pool.run(make, chunks, self._is_over, at_once):
                tally.add(chunk, summary)
                self._check()
                if time.monotonic() - kept_at >= self._clock.seconds_between_signs:
                    tally.keep()
                    kept_at = time.monotonic()
            self._meter.read({})
            self._show()
        return not len(tally.left)

    def _check(self) -> None:
        """Note the time of the first result, and raise GateError if too many rows failed."""
        progress = self._now()
        if progress.working_since is None:
            self._update(working_since=self._clock.now(), num_rows_before=progress.num_rows)
        if not self._reasons:  # a retry may fix what failed
            num_rows = self._run.record.num_rows
            num_wanted = min(num_rows, self._options.max_rows or num_rows)
            check_failed_share(self._run, progress, self._options.max_failed_share, num_wanted)

    def _is_over(self) -> bool:
        """Return whether no further chunk may start; raise an error that must end the driver."""
        if self.lease.error is not None:
            raise self.lease.error
        if time.monotonic() - self._shown_at >= self._clock.seconds_between_looks:
            self._show()
        self.used_up = self.used_up or self._options.spent(self._now())
        return bool(self.used_up)

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        self._update()
        self._options.on_progress(self._progress)

    def _update(self, **changes: Any) -> None:
        self._progress = self._now().model_copy(update=changes)

    def _now(self) -> Progress:
        """Return the progress with the counts and costs of all rows and of all starts."""
        start = self._before + self._meter.read()
        counts = dict(self._survey.summary + start) if self._survey else {}
        return self._progress.model_copy(update={**counts, "start_costs": start.costs})

    def _begin_retry(self, passes: Sequence[Pass]) -> None:
        """Plan a pass of the rows that last failed for one of the reasons."""
        size = max(1, int(passes[0].plan.rows_of_chunks.max()))
        failed = last_failed(self._run, passes, self._reasons)
        chunks = row_groups(map(read_takedowns(self._run.output).without, failed), size)
        if (chunk := next(chunks, None)) is not None:
            self._run.begin_pass(len(passes), self._reasons, itertools.chain([chunk], chunks))


def last_failed(run: BulkRun, passes: Sequence[Pass], reasons: Sequence[str]) -> Iterator[pa.Table]:
    """Yield, in the plan's order, the rows that failed in their last pass for one of the reasons.

    Their columns are `bucket`, the columns of a planned row, `reason` and `ORIGIN`.
    """
    names = ["bucket", *run.format.planned_schema.names, "reason"]
    wanted = pc.field("reason").isin(list(reasons)) & (pc.field("status") == FAILED)
    all_rows = final_rows(run.format, passes, range(passes[0].size.num_chunks))
    for chunk, (rows, _) in enumerate(all_rows):
        failed = rows.filter(wanted).select(names)
        origin = pa.repeat(pa.scalar(chunk, pa.int64()), failed.num_rows)
        yield bare(failed.append_column(ORIGIN, origin))
