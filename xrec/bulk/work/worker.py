"""The work of a process: it reads a chunk's rows, does them, and writes the chunk's result."""

import logging
import os
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import reduce
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.runs.plan import EARLIER
from xrec.bulk.runs.result import Summary, added, summary_of
from xrec.bulk.runs.row_format import AGAIN, CarryingTask, ChunkTask, Outcome, RowFormat
from xrec.bulk.runs.run import Pass
from xrec.bulk.work.marks import Attempt, Marks
from xrec.errors import ClusterError
from xrec.storage import traffic, with_backoff

logger = logging.getLogger("xrec")

_POISONED = re.compile(r"CUDA error|device-side assert|CUBLAS_STATUS_EXECUTION_FAILED")
_OUT_OF_MEMORY = re.compile(r"out of memory", re.IGNORECASE)
POISONED_EXIT_CODE = 70


@dataclass(frozen=True)
class WorkerSettings:
    """Everything that a process gets; it reads no other settings and no environment.

    work: the pass whose chunks are done. make_task: called once in each process.
    chunks_at_once: how many chunks the task does at the same time, in threads. The process reads
        one more chunk meanwhile, so that the task need not wait for it.
    """

    work: Pass
    format: RowFormat
    make_task: Callable[[], ChunkTask]
    chunks_at_once: int = 1


@dataclass(eq=False)
class Share:
    """The part of the process's time that one work took, in seconds; whole once it has ended."""

    seconds: float = 0.0


class Room:
    """At most `size` works at a time, or one that is alone.

    While n works are at it, each takes an n-th of the time, so the shares of all works add up to
    the time in which the process did any.
    """

    def __init__(self, size: int):
        self._size = size
        self._changed = threading.Condition()
        self._inside: list[Share] = []
        self._num_waiting_alone = 0
        self._divided_until = 0.0

    @contextmanager
    def enter(self, *, alone: bool = False) -> Iterator[Share]:
        """Wait for a place; `alone` waits until nobody is inside, and lets nobody else in."""
        share = Share()
        with self._changed:
            self._num_waiting_alone += alone
            self._changed.wait_for(lambda: self._has_place(alone))
            self._divide()
            self._inside += [share] * (self._size if alone else 1)
        try:
            yield share
        finally:
            with self._changed:
                self._divide()
                self._inside = [other for other in self._inside if other is not share]
                self._num_waiting_alone -= alone
                self._changed.notify_all()

    def _has_place(self, alone: bool) -> bool:
        if alone:
            return not self._inside
        return not self._num_waiting_alone and len(self._inside) < self._size

    def _divide(self) -> None:
        now = time.monotonic()
        for share in self._inside:
            share.seconds += (now - self._divided_until) / len(self._inside)
        self._divided_until = now


class _NotBegunError(BaseException):
    """A chunk must not begin. (No error of a row, whatever a task takes for one.)"""


class ChunkWorker:
    """Does chunks of a pass, several at the same time in threads of their own."""

    def __init__(self, settings: WorkerSettings, marks: Marks, node: str = "", name: str = ""):
        self._format = settings.format
        self._plan, self._results = settings.work.plan, settings.work.results
        self._size, self._room = settings.chunks_at_once, Room(settings.chunks_at_once)
        self._marks = marks
        self._name, self._node = name or uuid.uuid4().hex, node
        self._task = settings.make_task()

    def do(self, number: int) -> Summary | None:
        """Make sure that the chunk has a result, and return its summary, also to the marks.

        Return None if the chunk must not begin, because the run is over or another worker has it.

        Raises StorageError if the store fails for longer than about 20 seconds, ClusterError if too
        many processes died, and any error of the task that is not one of its `row_errors`.
        """
        standing = with_backoff(lambda: self._results.standing(number))
        if standing is None:
            try:
                standing = self._make_result(number)
            except _NotBegunError:
                return None
        self._marks.done(number, standing)
        return standing

    def _make_result(self, number: int) -> Summary:
        planned = with_backoff(lambda: self._plan.rows(number))
        outcome, num_deaths = self._by_attempts(number, planned)
        rows = self._format.as_results(planned, outcome.ok, outcome.failed)
        reasons = planned["reason"].to_pylist() if "reason" in planned.column_names else []
        summary = summary_of(
            rows,
            list(self._format.keys),
            costs=added(outcome.costs, traffic()),
            was_failed=Counter(reasons),
            num_deaths=num_deaths,
        )
        return with_backoff(lambda: self._results.create(number, rows, summary))

    def _by_attempts(self, number: int, planned: pa.Table) -> tuple[Outcome, int]:
        """The chunk done as `Marks.attempts` says, and how many processes died with it."""
        told = self._marks.attempts(number, planned.num_rows, self._name)
        if isinstance(told, str):
            raise ClusterError(told, code="processes_died", key=str(number))
        attempts, num_deaths = told
        parts = [self._attempt(number, planned, attempt, len(attempts) > 1) for attempt in attempts]
        return joined(parts), num_deaths

    def _attempt(self, number: int, planned: pa.Table, attempt: Attempt, is_part: bool) -> Outcome:
        if attempt.kept is not None:
            return attempt.kept
        which = (attempt.start, attempt.stop)
        rows = planned.slice(attempt.start, attempt.stop - attempt.start)

        def begin() -> None:
            if not self._marks.begin(number, which, self._name, self._node):
                raise _NotBegunError

        outcome = self._in_room(rows, begin, attempt.num_deaths, alone=attempt.is_alone)
        if is_part:
            self._marks.end(number, which, outcome)
        return outcome

    def _in_room(
        self, rows: pa.Table, begin: Callable[[], None], num_deaths: int, *, alone: bool
    ) -> Outcome:
        """What becomes of rows, which the process begins with once it has room for them.

        Chunks that are at work at the same time may share an engine, which fails for all of them.
        So rows are blamed for an error only if they are done alone.
        """
        alone = alone or self._size == 1
        try:
            with self._room.enter(alone=alone) as share:
                begin()
                outcome = self._outcome(rows, num_deaths, halves=alone)
        except self._task.row_errors:
            if alone:
                raise
            outcome = self._in_room(rows, begin, num_deaths, alone=True)
        return replace(outcome, costs=added(outcome.costs, {"seconds": share.seconds}))

    def _outcome(self, rows: pa.Table, num_deaths: int, *, halves: bool) -> Outcome:
        keys = rows.select(self._format.keys).cast(self._format.key_schema)
        if num_deaths:
            message = f"{num_deaths} processes died while they worked on this row alone"
            outcome = self._failed(keys, self._format.error_reason, message)
            self._check(keys, outcome)
            return outcome
        carried = self._carried(rows)
        names = keys.column_names
        there = pa.concat_tables([carried.ok.select(names), carried.failed.select(names)])
        left = self._format.sorted(self._format.without(keys, there)) if len(there) else keys
        do = self._do_or_halve if halves else self._do
        outcome = do(left) if left.num_rows else self._failed(left, "", "")
        self._check(left, outcome)
        return joined([carried, outcome])

    def _carried(self, rows: pa.Table) -> Outcome:
        """The earlier rows that are still good, and counts."""
        counts = Counter({"carried": 0})
        good = self._format.table_schema.empty_table()
        if EARLIER in rows.schema.names and isinstance(self._task, CarryingTask):
            earlier = rows[EARLIER].combine_chunks()
            there = earlier.filter(pc.is_valid(earlier))
            counts[f"{AGAIN}new"] = rows.num_rows - len(there)
            if len(there):
                found = pa.Table.from_struct_array(there).cast(good.schema)
                why = self._task.why_again(found)
                counts.update(f"{AGAIN}{each}" for each in why.to_pylist() if each is not None)
                good = found.filter(pc.is_null(why))
        ok, failed = self._format.by_status(good)
        counts["carried"], counts["carried_failed"] = good.num_rows, failed.num_rows
        return Outcome(ok, failed, counts)

    def _do(self, rows: pa.Table) -> Outcome:
        """What the task does; ends the process if its GPU can no longer be used."""
        ok, failed = self._format.ok_schema, self._format.failed_schema
        expected: tuple[type[Exception], ...] = (RuntimeError, *self._task.row_errors)
        try:
            outcome = self._task.do(rows)
        except expected as error:
            if is_poisoned(error):
                end_process(error)
            raise
        return Outcome(
            outcome.ok.select(ok.names).cast(ok),
            outcome.failed.select(failed.names).cast(failed),
            outcome.costs,
        )

    def _do_or_halve(self, rows: pa.Table) -> Outcome:
        """Do the rows; if the task raises one of its `row_errors`, find the row to blame."""
        try:
            return self._do(rows)
        except self._task.row_errors as error:
            if rows.num_rows == 1:
                message = f"{type(error).__name__}: {error}"
                return self._failed(rows, self._format.error_reason, message)
        middle = rows.num_rows // 2
        halves = (rows.slice(0, middle), rows.slice(middle))
        return joined([self._do_or_halve(half) for half in halves])

    def _failed(self, rows: pa.Table, reason: str, message: str) -> Outcome:
        schema = self._format.failed_schema
        failed = (
            self._task.fail(rows, reason, message).select(schema.names).cast(schema)
            if rows.num_rows
            else schema.empty_table()
        )
        return Outcome(self._format.ok_schema.empty_table(), failed)

    def _check(self, rows: pa.Table, outcome: Outcome) -> None:
        """Raise ValueError unless each row is in the outcome once, and its reasons are known."""
        keys = list(self._format.keys)
        returned = pa.concat_tables([self._keys_of(outcome.ok), outcome.failed.select(keys)])
        if not self._format.sorted(returned).equals(self._format.sorted(rows)):
            raise ValueError(
                f"{type(self._task).__name__} got {rows.num_rows} rows and returned "
                f"{outcome.ok.num_rows} that succeeded and {outcome.failed.num_rows} that failed; "
                "expected each row once"
            )
        unknown = set(outcome.failed["reason"].to_pylist()) - set(self._format.all_reasons)
        if unknown:
            raise ValueError(
                f"{type(self._task).__name__}: reasons {sorted(unknown)}; expected some of "
                f"{', '.join(self._format.all_reasons)}"
            )

    def _keys_of(self, ok: pa.Table) -> pa.Table:
        """The keys of what rows became that succeeded, once each if its rows are distinct."""
        keys = ok.select(self._format.keys)
        if not self._format.ok_keys:
            return keys
        row_keys = ok.select(self._format.row_keys)
        if row_keys.group_by(row_keys.column_names).aggregate([]).num_rows < ok.num_rows:
            return keys
        return keys.group_by(keys.column_names).aggregate([]).cast(keys.schema)


def joined(parts: Sequence[Outcome]) -> Outcome:
    return Outcome(
        pa.concat_tables([part.ok for part in parts]),
        pa.concat_tables([part.failed for part in parts]),
        reduce(added, (part.costs for part in parts), {}),
    )


def is_poisoned(error: Exception) -> bool:
    """True if nothing more can be done on the GPU in this process.

    After a failed kernel, every later call of CUDA in the process fails too, whatever its rows are.
    Lack of memory is not such an error.
    """
    text = f"{type(error).__name__}: {error}"
    if _OUT_OF_MEMORY.search(text):
        return False
    return type(error).__name__ == "AcceleratorError" or bool(_POISONED.search(text))


def end_process(error: Exception) -> NoReturn:
    """End this process at once, so that the rows are done again elsewhere."""
    logger.critical("this process ends, because its GPU can no longer be used: %s", error)
    for handler in (*logger.handlers, *logging.getLogger().handlers):
        with suppress(Exception):  # a log that cannot be written must not keep the process alive
            handler.flush()
    os._exit(POISONED_EXIT_CODE)
