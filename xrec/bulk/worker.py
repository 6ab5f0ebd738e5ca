"""The work of one process: read a chunk's rows, process them, and write the chunk's result."""

import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.plan import EARLIER
from xrec.bulk.rows import (
    AGAIN,
    FAILED,
    CarryingTask,
    ChunkTask,
    Outcome,
    RowFormat,
    Summary,
    added,
    counts_of,
    summary_of,
)
from xrec.bulk.run import Pass
from xrec.errors import ClusterError
from xrec.storage import traffic, with_backoff

if TYPE_CHECKING:
    from xrec.processes import Attempt, Marks  # which imports Ray, and few commands need it

logger = logging.getLogger("xrec")

_POISONED = re.compile(r"CUDA error|device-side assert|CUBLAS_STATUS_EXECUTION_FAILED")
_OUT_OF_MEMORY = re.compile(r"out of memory", re.IGNORECASE)
POISONED_EXIT_CODE = 70


class Done(NamedTuple):
    """Rows with `RowFormat.table_schema`, and their costs by name."""

    rows: pa.Table
    costs: Mapping[str, float]


@dataclass(eq=False)
class Share:
    """The seconds of process time charged to one piece of work."""

    seconds: float = 0.0


class Room:
    """Charges concurrent pieces of work for their time, and lets one be alone.

    While n pieces are inside, each is charged 1/n of the time, so the shares add up to the time
    during which the process did any work.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: list[Share] = []
        self._num_alone = 0  # inside or waiting
        self._charged_until = 0.0

    @contextmanager
    def enter(self, *, alone: bool = False) -> Iterator[Share]:
        """Wait for room; `alone` waits until nobody is inside and admits nobody else."""
        share = Share()
        with self._changed:
            self._num_alone += alone
            self._changed.wait_for(lambda: not (self._inside if alone else self._num_alone))
            self._charge()
            self._inside.append(share)
        try:
            yield share
        finally:
            with self._changed:
                self._charge()
                self._inside.remove(share)
                self._num_alone -= alone
                self._changed.notify_all()

    def _charge(self) -> None:
        now = time.monotonic()
        for share in self._inside:
            share.seconds += (now - self._charged_until) / len(self._inside)
        self._charged_until = now


class ChunkWorker:
    """Does chunks of a pass in one process, which reads no other settings.

    make_task: called once. chunks_at_once: the number of chunks that are done concurrently, in
    threads. node, name: those of this process.
    """

    def __init__(
        self,
        work: Pass,
        format: RowFormat,
        make_task: Callable[[], ChunkTask],
        chunks_at_once: int,
        marks: "Marks",
        node: str,
        name: str,
    ):
        self._plan, self._results, self._format = work.plan, work.results, format
        self._at_once, self._room = chunks_at_once, Room()
        self._marks, self._node, self._name = marks, node, name
        self._task = make_task()

    def __call__(self, number: int) -> Summary:
        """Make sure that the chunk has a result; return its summary, and report it to the marks.

        Raise StorageError if the store fails for about 20 seconds, ClusterError if too many
        processes died, and any error of the task that is not one of its `row_errors`.
        """
        found = with_backoff(lambda: self._results.find(number))
        summary = self._make_result(number) if found is None else found[1]
        self._marks.done(number, summary)
        return summary

    def _make_result(self, number: int) -> Summary:
        """Do the chunk in the attempts given by the marks, and create its result."""
        planned = with_backoff(lambda: self._plan.rows(number))
        answer = self._marks.attempts(number, planned.num_rows, self._name)
        if isinstance(answer, str):
            raise ClusterError(answer, code="processes_died", key=str(number))
        attempts, num_deaths = answer
        parts = [self._attempt(number, planned, attempt, len(attempts) > 1) for attempt in attempts]
        done = joined(parts)
        rows = self._format.sorted(done.rows)
        reasons = planned["reason"].to_pylist() if "reason" in planned.column_names else []
        summary = summary_of(
            rows,
            costs=added(done.costs, traffic()),
            was_failed=Counter(reasons),
            num_deaths=num_deaths,
        )
        return with_backoff(lambda: self._results.create(number, rows, summary))

    def _attempt(self, number: int, planned: pa.Table, attempt: "Attempt", is_part: bool) -> Done:
        """Do some rows of a chunk once there is room.

        Concurrent chunks may share an engine that fails for all of them, so rows are blamed for an
        error only if they are done alone.
        """
        if attempt.kept is not None:
            kept: Done = attempt.kept
            return kept
        which, alone = (attempt.start, attempt.stop), attempt.is_alone or self._at_once == 1
        rows = planned.slice(attempt.start, attempt.stop - attempt.start)
        done, seconds = None, 0.0
        while done is None:
            with self._room.enter(alone=alone) as share:
                self._marks.begin(number, which, self._name, self._node)
                try:
                    done = self._done(rows, attempt.num_deaths, halve=alone)
                except self._task.row_errors:
                    if alone:
                        raise
                    alone = True
            seconds += share.seconds
        done = Done(done.rows, added(done.costs, {"seconds": seconds}))
        if is_part:
            self._marks.end(number, which, done)
        return done

    def _done(self, rows: pa.Table, num_deaths: int, *, halve: bool) -> Done:
        if num_deaths:
            message = f"{num_deaths} processes died while they worked on this row alone"
            return self._failed(rows, message)
        carried = self._carried(rows)
        if carried.rows.num_rows:
            rows = rows.filter(pc.invert(self._format.are_among(rows, carried.rows)))
        if not rows.num_rows:
            return carried
        return joined([carried, self._do(rows, halve=halve)])

    def _carried(self, rows: pa.Table) -> Done:
        """Return the earlier rows that are carried over, and counts."""
        counts = Counter({"carried": 0})
        good = self._format.table_schema.empty_table()
        if EARLIER in rows.schema.names and isinstance(self._task, CarryingTask):
            structs = rows[EARLIER].combine_chunks().drop_null()
            counts[f"{AGAIN}new"] = rows.num_rows - len(structs)
            if len(structs):
                earlier = self._format.with_planned(pa.Table.from_struct_array(structs), rows)
                why = self._task.why_again(earlier)
                counts.update(f"{AGAIN}{reason}" for reason in why.drop_null().to_pylist())
                good = earlier.filter(pc.is_null(why))
        counts["carried"] = good.num_rows
        counts["carried_failed"] = counts_of(good["status"]).get(FAILED, 0)
        return Done(good, counts)

    def _do(self, rows: pa.Table, *, halve: bool) -> Done:
        """Let the task process rows; `halve` them to find a row that raises its `row_errors`.

        End this process if its GPU is no longer usable.
        """
        expected: tuple[type[Exception], ...] = (RuntimeError, *self._task.row_errors)
        try:
            outcome = self._task.do(self._planned(rows))
        except expected as error:
            if is_poisoned(error):
                end_process(error)
            if not halve or not isinstance(error, self._task.row_errors):
                raise
            if rows.num_rows == 1:
                return self._failed(rows, f"{type(error).__name__}: {error}")
        else:
            return Done(self._format.rows_of(outcome, rows), outcome.costs)
        middle = rows.num_rows // 2
        halves = (rows.slice(0, middle), rows.slice(middle))
        return joined([self._do(half, halve=True) for half in halves])

    def _failed(self, rows: pa.Table, message: str) -> Done:
        failed = self._task.fail(self._planned(rows), self._format.error_reason, message)
        outcome = Outcome(self._format.ok_schema.empty_table(), failed)
        return Done(self._format.rows_of(outcome, rows), {})

    def _planned(self, rows: pa.Table) -> pa.Table:
        schema = self._format.planned_schema
        return rows.select(schema.names).cast(schema)


def joined(parts: Sequence[Done]) -> Done:
    nothing: Mapping[str, float] = {}
    costs = reduce(added, (part.costs for part in parts), nothing)
    return Done(pa.concat_tables([part.rows for part in parts]), costs)


def is_poisoned(error: Exception) -> bool:
    """Return whether this process can no longer use its GPU.

    After a failed kernel, every later CUDA call in the process fails, regardless of its rows.
    Running out of memory is not such an error.
    """
    text = f"{type(error).__name__}: {error}"
    if _OUT_OF_MEMORY.search(text):
        return False
    return type(error).__name__ == "AcceleratorError" or bool(_POISONED.search(text))


def end_process(error: Exception) -> NoReturn:
    """End this process at once, so that its rows are done elsewhere."""
    logger.critical("this process ends because its GPU is no longer usable: %s", error)
    for handler in (*logger.handlers, *logging.getLogger().handlers):
        with suppress(Exception):  # a broken log must not keep the process alive
            handler.flush()
    os._exit(POISONED_EXIT_CODE)
