"""Commits results in batches, with the state of the run, and finds out what became of a commit."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from xrec.bulk.state import RunState, added, begun, counted, read_state
from xrec.bulk.work import Done, Unit
from xrec.errors import (
    LeaseError,
    LostTableError,
    StaleRemovalError,
    StorageAccessError,
    StorageError,
    TableError,
)
from xrec.storage.process import may_be_at_work
from xrec.table import DataFile, Table, Writer

logger = logging.getLogger("xrec")

COMMIT_SECONDS = 2.0
"""A result waits at most so long for its commit."""
COMMIT_FILES = 256
"""A commit is made at once when so many files wait."""
TERM = timedelta(seconds=90)
"""A driver that has not committed for so long is taken for dead."""
_HEARTBEAT_SECONDS = TERM.total_seconds() / 3
_WAITS_SECONDS = (1.0, 4.0, 16.0)  # before the table is taken over again


@dataclass(frozen=True)
class UnitResult:
    """All files of a unit; its rows are committed together."""

    unit: Unit
    parts: tuple[Done, ...]

    @property
    def files(self) -> list[DataFile]:
        """What the commit adds."""
        return [file for part in self.parts for file in part.files]

    @property
    def removes(self) -> list[str]:
        """What the commit removes: the failed file that a retry replaces."""
        return [self.unit.file] if self.unit.is_retry else []

    def applied_to(self, state: RunState) -> RunState:
        """The state after this unit is committed."""
        num_ok, num_ok_rows = state.num_ok, state.num_ok_rows
        failed, costs = state.failed, state.costs
        for part in self.parts:
            num_ok += part.num_ok
            num_ok_rows += part.num_ok_rows
            failed = counted(failed, part.failed, part.was_failed)
            costs = added(costs, part.costs)
        ranges = f"{self.unit.name}:"
        deaths = {name: n for name, n in state.deaths.items() if not name.startswith(ranges)}
        return state.model_copy(
            update={
                "num_ok": num_ok,
                "num_ok_rows": num_ok_rows,
                "failed": failed,
                "costs": costs,
                "deaths": deaths,
            }
        )


class Ledger:
    """The driver's hold on the table: what is committed, and what waits for the next commit."""

    def __init__(
        self, table: Table, writer: Writer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table = table
        self._writer = writer
        self._clock = clock
        self._committed_at = clock()
        self._waiting: list[UnitResult] = []
        self._waiting_since: float | None = None
        self._state = begun(read_state(table, writer.version)[1])
        self._next = self._state
        self._check_rows()

    @property
    def writer(self) -> Writer:
        """The writer that holds the table."""
        return self._writer

    @property
    def state(self) -> RunState:
        """The state with all results that wait; the next commit states it."""
        return self._next

    def add(self, result: UnitResult) -> None:
        """Let the next commit have this unit."""
        self._waiting.append(result)
        self._next = result.applied_to(self._next)
        self._wait_from_now()

    def count_death(self, name: str, is_innocent: bool) -> None:
        """Let the next commit have a death; it counts against its range if that is not innocent."""
        deaths = dict(self._next.deaths)
        if not is_innocent:
            deaths[name] = deaths.get(name, 0) + 1
        self.set(num_deaths=self._next.num_deaths + 1, deaths=deaths)

    def set(self, **changes: object) -> None:
        """Let the next commit state something else; the names are fields of `RunState`."""
        self._state = self._state.model_copy(update=changes)
        self._next = self._next.model_copy(update=changes)
        self._wait_from_now()

    def seconds_to_commit(self) -> float:
        """In how many seconds `commit` must be called; 0 if it is due."""
        now = self._clock()
        due_at = self._committed_at + _HEARTBEAT_SECONDS
        if self._waiting_since is not None:
            due_at = min(due_at, self._waiting_since + COMMIT_SECONDS)
        if sum(len(result.files) for result in self._waiting) >= COMMIT_FILES:
            due_at = now
        return max(0.0, due_at - now)

    def commit(self, *, is_last: bool = False) -> list[UnitResult]:
        """Commit what waits, if only that the driver is alive; returns units that were refused.

        The files of a unit that is refused are not as they were written; the unit must be done
        again. After the last commit of a driver another one may begin at once.

        Raises LostTableError if another driver took the table over, TableError if another program
        committed to it, StorageError if the store fails for longer than half a minute.
        """
        while True:
            try:
                self._commit(self._waiting, is_last)
                refused: list[UnitResult] = []
                break
            except (LostTableError, StaleRemovalError):
                raise
            except StorageError as error:
                self._take_over_again(error)
            except TableError as error:
                refused = self._commit_one_by_one(error, is_last)
                break
        self._waiting, self._waiting_since = [], None
        self._next = self._state
        return refused

    def _commit(self, results: Sequence[UnitResult], is_last: bool) -> None:
        state = self._after(results)
        expires_at = None if is_last else datetime.now(UTC) + TERM
        state = state.model_copy(update={"expires_at": expires_at})
        self._writer.commit(
            [file for result in results for file in result.files],
            [path for result in results for path in result.removes],
            state.metadata(),
        )
        self._state = state
        self._committed_at = self._clock()
        self._check_rows()

    def _after(self, results: Sequence[UnitResult]) -> RunState:
        """The state once these units are committed."""
        state = self._state
        for result in results:
            state = result.applied_to(state)
        return state

    def _commit_one_by_one(self, error: TableError, is_last: bool) -> list[UnitResult]:
        """Commit each unit alone, because some file of them all is not as it was written."""
        self._commit([], is_last=False)  # raises if it is the table that cannot be used
        logger.warning("a commit is divided: %s", error)
        refused = []
        while self._waiting:
            result = self._waiting[0]
            try:
                self._commit([result], is_last=False)
            except (LostTableError, StaleRemovalError):
                raise
            except StorageError as failure:
                self._take_over_again(failure)
                continue
            except TableError as refusal:
                logger.warning("%s is done again: %s", result.unit.name, refusal)
                refused.append(result)
            self._waiting.pop(0)
        if is_last:
            self._commit([], is_last=True)
        return refused

    def _take_over_again(self, error: StorageError) -> None:
        """Learn whether the commit that failed is in the table, and hold the table again."""
        if isinstance(error, StorageAccessError):
            raise error
        for wait_seconds in _WAITS_SECONDS:
            logger.warning("the table is taken over again in %g s: %s", wait_seconds, error)
            time.sleep(wait_seconds)
            try:
                self._hold_again()
                self._forget_committed()
            except StorageError as failure:
                error = failure
                continue
            return
        raise error

    def _hold_again(self) -> None:
        """Take the table over from oneself; raises LostTableError if another driver did."""
        version = self._table.newest_version(self._writer.version)
        newest = self._table.commit(version)
        own = self._writer.holder, "take-over"
        # An earlier attempt of ours may have taken over and failed after that.
        if newest.epoch != self._writer.epoch and (newest.holder, newest.kind) != own:
            raise LostTableError(
                f"{self._table.location}: {newest.holder} took the table over (version {version}), "
                "so this driver must stop"
            )
        writer = self._table.take_over(self._writer.holder)
        if writer.epoch != newest.epoch + 1:
            raise LostTableError(
                f"{self._table.location}: another driver took the table over meanwhile, so this "
                "one must stop; run it again"
            )
        self._writer = writer

    def _forget_committed(self) -> None:
        """Drop the results that are in the table already, and take the state from there."""
        there = set(self._writer.snapshot().files()["path"].to_pylist())
        left = [
            result
            for result in self._waiting
            if not any(file.path in there for file in result.files)
        ]
        _, committed = read_state(self._table, self._writer.version)
        if committed is not None and len(left) < len(self._waiting):
            self._waiting, self._state = left, committed
            self._next = self._after(left)
        self._check_rows()

    def _check_rows(self) -> None:
        """Raise TableError unless the table has the rows that the state counts."""
        if self._state.num_table_rows != self._writer.num_rows:
            raise TableError(
                f"{self._table.location}: the run's state counts {self._state.num_table_rows} "
                f"rows, the table has {self._writer.num_rows} at version {self._writer.version}; "
                "the versions before may be read, but the run cannot go on"
            )

    def _wait_from_now(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = self._clock()


def refuse_live_driver(table: Table) -> None:
    """Raise LeaseError if a driver committed so lately that it may be at work.

    This is a courtesy to the user, by the drivers' clocks; `Table.take_over` is what protects rows.
    """
    commit, state = read_state(table, table.newest_version())
    if state is None or not may_be_at_work(commit.holder, state.expires_at):
        return
    assert state.expires_at is not None
    raise LeaseError(
        f"{table.location}: {commit.holder} runs this job, and is taken for alive until "
        f"{state.expires_at:%Y-%m-%d %H:%M:%S} UTC, or longer if it commits again; wait until it "
        "ends, or stop it. If it is dead, run again after that time, or take the run over"
    )
