"""The driver of a run: it sends what is left to actors, and commits what they wrote."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from xrec.bulk.attempts import after_death, works_of
from xrec.bulk.ledger import Ledger, UnitResult, refuse_live_driver
from xrec.bulk.limits import check_failed_share, check_limit, first_chunks, nothing_left
from xrec.bulk.retry import check_reasons, failed_files, retry_units
from xrec.bulk.run import BulkRun
from xrec.bulk.state import RunState
from xrec.bulk.work import Died, Done, Pool, Unit, Work
from xrec.errors import ClusterError, LostTableError, StorageError, TableError

logger = logging.getLogger("xrec")

_CHANCES_OF_FILES = 2
_MOST_DEATHS_IN_A_ROW = 64
"""Some thirty rows of one chunk, each of which kills, are found within so many deaths. More without
anything that was done in between are no row's fault: each actor dies."""


def drive(
    run: BulkRun,
    pool: Pool,
    *,
    holder: str,
    retry: Sequence[str] = (),
    max_failed_share: float = 1.0,
    max_rows: int | None = None,
    take_over: bool = False,
    on_commit: Callable[[RunState], None] = lambda state: None,
) -> RunState:
    """Do what is left of a run, then retry rows that failed for the reasons `retry`.

    holder: who this driver is, `this_process()`; another one of this machine that finds it dead
        need not wait.
    max_rows: end when so many rows are committed, those of earlier calls included, and leave the
        run unfinished. Chunks are not divided, so the last one may bring more.
    take_over: begin also if another driver seems to be at work; that one can commit no more.
    on_commit: called with the state after each commit, for progress and metrics.

    Returns the state of the run, which is finished unless `max_rows` ended it before. If there is
    nothing to do, nothing is written and no actor started. The pool is closed in any case.

    Raises LeaseError if another driver is at work; LostTableError if one took over; DataError if
    more than `max_failed_share` of all rows failed, or of those that `max_rows` allows; ValueError
    for a reason that the format has not, and for `max_rows` that is less than 1 or stands beside
    `retry`; what an actor raised; ClusterError if one actor after the other dies; StorageError if
    the store fails for longer. What is committed stays, and the next call goes on from there.
    """
    try:
        reasons = check_reasons(run.format, retry) if retry else ()
        check_limit(max_rows, reasons)
        if not reasons and (state := nothing_left(run, max_rows, max_failed_share)) is not None:
            return state
        if not take_over:
            refuse_live_driver(run.table)
        ledger = Ledger(run.table, run.table.take_over(holder))
        driver = _Driver(run, pool, ledger, max_failed_share, on_commit)
        try:
            return driver.run(reasons, max_rows)
        except LostTableError:
            raise
        except BaseException:
            driver.leave()
            raise
    finally:
        pool.close()


@dataclass
class _OpenUnit:
    """A unit at work: how many of its works are not done, and the results of the others."""

    unit: Unit
    num_open: int
    parts: list[Done] = field(default_factory=list)


class _Driver:
    def __init__(
        self,
        run: BulkRun,
        pool: Pool,
        ledger: Ledger,
        max_failed_share: float,
        on_commit: Callable[[RunState], None],
    ):
        self._run = run
        self._pool = pool
        self._ledger = ledger
        self._max_failed_share = max_failed_share
        self._on_commit = on_commit
        self._open: dict[str, _OpenUnit] = {}
        self._again: deque[Work] = deque()  # works that wait besides those of new units
        self._num_refused: dict[str, int] = {}
        self._num_deaths_in_a_row = 0  # since a work was done
        self._num_wanted = run.plan.record.num_rows  # of rows that are to be committed in the end

    def run(self, reasons: tuple[str, ...], max_rows: int | None) -> RunState:
        """Do the chunks that are left, or those within the limit; then the retry, and finish."""
        self._ledger.set(state="running")
        self._commit()  # says that this driver is at work
        num_rows = self._run.plan.record.num_rows
        if self._ledger.state.num_rows < num_rows:
            self._do_chunks(bool(reasons), max_rows)
        if self._ledger.state.num_rows != self._num_wanted:
            raise TableError(
                f"{self._run.table.location}: {self._num_wanted} rows were to be committed, "
                f"{self._ledger.state.num_rows} are, and no chunk is left"
            )
        if reasons:
            self._retry(reasons)
        self._check_share()
        if self._num_wanted < num_rows:
            self._commit(is_last=True)
            return self._ledger.state
        # A retry that was interrupted and is not asked for any more is over too.
        self._ledger.set(state="finished", is_retrying=False)
        self._commit(is_last=True)
        if self._run.plan.record.carry is not None:
            self._run.plan.record.carry.release(self._run.table.storage)
        return self._ledger.state

    def leave(self) -> None:
        """Commit what is done, and let another driver begin at once, if the table can be used."""
        try:
            self._commit(is_last=True)
        except (TableError, StorageError) as error:
            logger.warning("what was done last could not be committed: %s", error)

    def _do_chunks(self, may_fail: bool, max_rows: int | None) -> None:
        num_chunks = self._run.plan.record.num_chunks
        chunks = self._run.chunks_left(self._ledger.writer.snapshot())
        logger.info("%d of %d chunks left", chunks.num_rows, num_chunks)
        if max_rows is not None:
            num_done, num_left = self._ledger.state.num_rows, chunks.num_rows
            chunks = first_chunks(chunks, max_rows - num_done)
            if chunks.num_rows < num_left:
                self._num_wanted = num_done + sum(chunks["rows"].to_pylist())
                logger.info("%d of them are within the limit", chunks.num_rows)
        self._do(self._run.units(chunks), chunks.num_rows, may_fail)

    def _retry(self, reasons: tuple[str, ...]) -> None:
        """Do the failed files; those that are left of a retry of these reasons, if there is one."""
        state = self._ledger.state
        if not (state.is_retrying and state.retry_reasons == reasons):
            self._ledger.set(retry=state.retry + 1, retry_reasons=reasons, is_retrying=True)
            self._commit()
        number = self._ledger.state.retry
        files = failed_files(self._ledger.writer.snapshot(), number)
        logger.info("retry %d of %s: %d files", number, ", ".join(reasons), files.num_rows)
        self._do(retry_units(files, number, reasons), files.num_rows, may_fail=True)
        self._ledger.set(is_retrying=False)

    def _do(self, units: Iterable[Unit], num_units: int, may_fail: bool) -> None:
        """Do units until all of them are committed.

        may_fail: whether more rows than `max_failed_share` may fail.
        """
        if not num_units:
            return
        self._pool.start(num_units)
        works = self._works(units)
        next_work = next(works, None)
        while next_work is not None or self._again or self._open:
            next_work = self._feed(works, next_work)
            for event in self._pool.wait(self._ledger.seconds_to_commit()):
                if isinstance(event, Died):
                    self._divide(event)
                else:
                    self._take(event)
            if self._ledger.seconds_to_commit() == 0 or not (next_work or self._open):
                self._commit()
            if not may_fail:
                self._check_share()

    def _works(self, units: Iterable[Unit]) -> Iterator[Work]:
        """The works of units that begin; a unit is open from its first work on."""
        for unit in units:
            works = works_of(unit, self._ledger.state.deaths)
            self._open[unit.name] = _OpenUnit(unit, len(works))
            yield from works

    def _feed(self, works: Iterator[Work], next_work: Work | None) -> Work | None:
        """Send works as long as an actor can take one; returns the next work that has to wait."""
        while self._again and self._pool.can_take(self._again[0].is_alone):
            self._submit(self._again.popleft())
        while next_work is not None and self._pool.can_take(next_work.is_alone):
            self._submit(next_work)
            next_work = next(works, None)
        return next_work

    def _submit(self, work: Work) -> None:
        """Send a work; at the first one an actor is ready, and the driver's rate counts from it."""
        if self._ledger.state.working_since is None:
            self._ledger.set(working_since=datetime.now(UTC))
        self._pool.submit(work)

    def _take(self, done: Done) -> None:
        """Note a result; the unit is to be committed once all of its works are done."""
        self._num_deaths_in_a_row = 0
        unit = done.work.unit
        open_unit = self._open.get(unit.name)
        if open_unit is None or done.work in (part.work for part in open_unit.parts):
            logger.warning("%s was done twice; the later result is dropped", done.work.name)
            return
        open_unit.parts.append(done)
        open_unit.num_open -= 1
        if open_unit.num_open:
            return
        del self._open[unit.name]
        if any(part.files for part in open_unit.parts):
            self._ledger.add(UnitResult(unit, tuple(open_unit.parts)))

    def _divide(self, died: Died) -> None:
        """Count a death, and try the rows again, in parts if need be."""
        work = died.work
        if work.unit.name not in self._open:
            return  # its unit was done meanwhile
        self._ledger.count_death(work.name, died.is_innocent)
        self._refuse_to_go_on_if_all_die(died)
        works = after_death(work, self._ledger.state.deaths)
        self._open[work.unit.name].num_open += len(works) - 1
        self._again.extend(works)

    def _refuse_to_go_on_if_all_die(self, died: Died) -> None:
        if died.is_innocent:
            return
        self._num_deaths_in_a_row += 1
        if self._num_deaths_in_a_row >= _MOST_DEATHS_IN_A_ROW:
            raise ClusterError(
                f"{self._num_deaths_in_a_row} processes died one after the other and nothing was "
                f"done in between, the last one with {died.work.name}: {died.cause}. So it is not "
                "the rows. Look at the actors' logs, at memory and at the GPUs, and run again; "
                "what is committed stays"
            )

    def _commit(self, is_last: bool = False) -> None:
        for refused in self._ledger.commit(is_last=is_last):
            self._do_again(refused.unit)
        self._on_commit(self._ledger.state)

    def _do_again(self, unit: Unit) -> None:
        """Do a unit again whose files were not in the store as they were written."""
        self._num_refused[unit.name] = self._num_refused.get(unit.name, 0) + 1
        if self._num_refused[unit.name] >= _CHANCES_OF_FILES:
            raise StorageError(
                f"{self._run.table.location}: the files of {unit.name} were not in the store as "
                f"they were written, {_CHANCES_OF_FILES} times; check that nothing else deletes or "
                "changes files there"
            )
        works = works_of(unit, self._ledger.state.deaths)
        self._open[unit.name] = _OpenUnit(unit, len(works))
        self._again.extend(works)

    def _check_share(self) -> None:
        """Raise DataError if too many of the rows failed that are to be committed."""
        check_failed_share(self._run, self._ledger.state, self._num_wanted, self._max_failed_share)
