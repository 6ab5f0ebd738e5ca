"""The driver of a run: it sends what is left to actors, and commits what they wrote."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from xrec.bulk.attempts import after_death, works_of
from xrec.bulk.ledger import Ledger, UnitResult, refuse_live_driver
from xrec.bulk.pool import Pool
from xrec.bulk.retry import check_reasons, failed_files, retry_units
from xrec.bulk.run import BulkRun, committed_chunks
from xrec.bulk.state import RunState, read_state
from xrec.bulk.work import Died, Done, Unit, Work
from xrec.errors import DataError, LostTableError, StorageError, TableError

logger = logging.getLogger("xrec")

_CHANCES_OF_FILES = 2


def drive(
    run: BulkRun,
    pool: Pool,
    *,
    holder: str,
    retry: Sequence[str] = (),
    max_failed_share: float = 1.0,
    take_over: bool = False,
    on_commit: Callable[[RunState], None] = lambda state: None,
) -> RunState:
    """Do what is left of a run, then retry rows that failed for the reasons `retry`.

    holder: who this driver is, for messages: a host and a process, for instance.
    take_over: begin also if another driver seems to be at work; that one can commit no more.
    on_commit: called with the state after each commit, for progress and metrics.

    Returns the state of the finished run. If the run is finished already and there is nothing to
    retry, nothing is written and no actor started. The pool is closed in any case.

    Raises LeaseError if another driver is at work; LostTableError if one took over; DataError if
    more than `max_failed_share` of all rows failed; ValueError for a reason that the format has
    not; what an actor raised; StorageError if the store fails for longer. What is committed stays,
    and the next call goes on from there.
    """
    reasons = check_reasons(run.format, retry) if retry else ()
    try:
        if not reasons and (finished := _finished(run)) is not None:
            return finished
        if not take_over:
            refuse_live_driver(run.table)
        ledger = Ledger(run.table, run.table.take_over(holder))
        driver = _Driver(run, pool, ledger, max_failed_share, on_commit)
        try:
            return driver.run_to_the_end(reasons)
        except LostTableError:
            raise
        except BaseException:
            driver.leave()
            raise
    finally:
        pool.close()


def _finished(run: BulkRun) -> RunState | None:
    _, state = read_state(run.table, run.table.newest_version())
    return state if state is not None and state.state == "finished" else None


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

    def run_to_the_end(self, reasons: tuple[str, ...]) -> RunState:
        """Do the chunks that are left, then the retry, and finish."""
        self._ledger.set(state="running")
        self._commit()  # says that this driver is at work
        num_rows = self._run.plan.record.num_rows
        if self._ledger.state.num_rows < num_rows:
            self._do_chunks(may_fail=bool(reasons))
        if self._ledger.state.num_rows != num_rows:
            raise TableError(
                f"{self._run.table.location}: the plan has {num_rows} rows, the table "
                f"{self._ledger.state.num_rows}, and no chunk is left"
            )
        if reasons:
            self._retry(reasons)
        self._check_share()
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

    def _do_chunks(self, may_fail: bool) -> None:
        snapshot = self._ledger.writer.snapshot()
        num_chunks = self._run.plan.record.num_chunks
        num_left = num_chunks - len(committed_chunks(snapshot))
        logger.info("%d of %d chunks left", num_left, num_chunks)
        self._do(self._run.units_left(snapshot), num_left, may_fail)

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
            self._pool.submit(self._again.popleft())
        while next_work is not None and self._pool.can_take(next_work.is_alone):
            self._pool.submit(next_work)
            next_work = next(works, None)
        return next_work

    def _take(self, done: Done) -> None:
        """Note a result; the unit is to be committed once all of its works are done."""
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
        works = after_death(work, self._ledger.state.deaths)
        self._open[work.unit.name].num_open += len(works) - 1
        self._again.extend(works)

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
        """Raise DataError if too many of all rows failed."""
        state, num_rows = self._ledger.state, self._run.plan.record.num_rows
        if state.num_failed > self._max_failed_share * num_rows:
            reasons = ", ".join(
                f"{reason} {count}"
                for reason, count in sorted(state.failed.items(), key=lambda item: -item[1])
            )
            raise DataError(
                f"{state.num_failed} of {num_rows} rows failed ({reasons}), more than "
                f"max_failed_share = {self._max_failed_share}; {state.num_ok} succeeded, "
                f"{num_rows - state.num_rows} are left. The rows of status=failed in "
                f"{self._run.table.location} have texts and messages; correct the cause and retry "
                "these rows, or raise max_failed_share and run again"
            )
