"""The work of an actor: it reads rows, does them, writes files, and says what it wrote.

It commits nothing: the driver does.
"""

import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.backoff import with_backoff
from xrec.bulk.carry import Carried, CarryFrom, EarlierRows
from xrec.bulk.plan import PlanFiles
from xrec.bulk.row_format import FAILED, OK, RowFormat
from xrec.bulk.shared_time import SharedTime
from xrec.bulk.state import added
from xrec.bulk.task import CarryingTask, ChunkTask, Outcome
from xrec.bulk.work import Done, Work
from xrec.config.shared import StorageConfig
from xrec.storage import open_location, read_table
from xrec.table import DataFile, copy_file, write_file

logger = logging.getLogger("xrec")

T = TypeVar("T")

_POISONED = re.compile(r"CUDA error|device-side assert|CUBLAS_STATUS_EXECUTION_FAILED")
_OUT_OF_MEMORY = re.compile(r"out of memory", re.IGNORECASE)
POISONED_EXIT_CODE = 70


@dataclass(frozen=True)
class WorkerSettings:
    """Everything that an actor gets; it reads no other settings and no environment.

    output: the URI of the output, which does not depend on the working directory.
    num_buckets: of the run.
    make_task: called once in each actor.
    chunks_at_once: how many chunks the task does at the same time, in threads. The actor reads one
        more chunk meanwhile, so that the task need not wait for it.
    carry: the earlier run that rows are carried over from.
    """

    output: str
    storage: StorageConfig
    format: RowFormat
    num_buckets: int
    make_task: Callable[[], ChunkTask]
    chunks_at_once: int = 1
    carry: CarryFrom | None = None


class ChunkWorker:
    """Does the works that the driver sends, several of them in threads of their own."""

    def __init__(self, settings: WorkerSettings):
        self._format = settings.format
        self._output = open_location(settings.output, settings.storage)
        self._plan = PlanFiles(self._output)
        self._task = settings.make_task()
        self._turns = threading.Semaphore(settings.chunks_at_once)
        self._time = SharedTime()
        self._earlier = (
            EarlierRows(settings.carry, settings.format, settings.num_buckets, settings.storage)
            if settings.carry is not None
            else None
        )

    def do(self, work: Work) -> Done:
        """Do the rows of a work and write what became of them.

        Raises StorageError if the store fails for longer than some 20 seconds, and any error of the
        task that is not one of its `row_errors`.
        """
        rows = with_backoff(lambda: self._read(work))
        wanted, kept = self._divide(work, rows)
        if work.unit.is_retry and work.is_whole and not wanted.num_rows:
            return Done(work, (), 0, 0, {})
        keys = wanted.select(self._format.keys).cast(self._format.key_schema)
        earlier = self._read_earlier(work, keys)
        with self._turns, self._time.share() as share:
            carried, left = self._carried(work, earlier, keys)
            outcome = self._outcome(work, left)
        succeeded = pa.concat_tables([carried.rows, outcome.ok])
        failed = pa.concat_tables([outcome.failed, kept])
        buckets = _buckets(work, rows, self._format.keys[0])
        files = [
            self._write(work, status, self._format.file_rows(part, buckets))
            for status, part in ((OK, succeeded), (FAILED, failed))
            if part.num_rows
        ]
        return Done(
            work,
            (*files, *(self._copy(work, *file) for file in carried.files.items())),
            rows.num_rows - failed.num_rows,
            succeeded.num_rows + carried.keys.num_rows,
            Counter(failed["reason"].to_pylist()),
            Counter(rows["reason"].to_pylist()) if work.unit.is_retry else {},
            added(
                outcome.costs,
                {"seconds": share.seconds, "carried": keys.num_rows - left.num_rows},
            ),
        )

    def _read(self, work: Work) -> pa.Table:
        unit = work.unit
        rows = (
            read_table(self._output / unit.file, self._format.table.file_schema)
            if unit.row_group is None
            else self._plan.rows(unit.file, unit.row_group)
        )
        if rows.num_rows != unit.num_rows:
            raise ValueError(f"{unit.name}: expected {unit.num_rows} rows, saw {rows.num_rows}")
        return rows.slice(work.start, work.stop - work.start)

    def _read_earlier(self, work: Work, keys: pa.Table) -> pa.Table | None:
        """The rows of the earlier run with these keys; a retry carries none over."""
        if self._earlier is None or work.unit.is_retry or work.num_deaths:
            return None
        earlier = self._earlier
        return with_backoff(lambda: earlier.of(keys))

    def _carried(
        self, work: Work, earlier: pa.Table | None, keys: pa.Table
    ) -> tuple[Carried, pa.Table]:
        """The earlier rows that are still good, and the keys that are left.

        What one key became is carried over as a whole or not at all.
        """
        if self._earlier is None or earlier is None or not earlier.num_rows:
            return Carried(self._format.ok_schema.empty_table(), {}, keys.slice(0, 0)), keys
        if not isinstance(self._task, CarryingTask):
            raise ValueError(
                f"{type(self._task).__name__}: expected a CarryingTask, because rows are to be "
                "carried over"
            )
        is_good = self._task.is_still_good(earlier.select(self._format.ok_schema.names))
        good = earlier.filter(is_good)
        if self._format.ok_keys:
            good = self._format.without(good, earlier.filter(pc.invert(is_good)))
        carried = self._earlier.divide(good, may_copy=work.is_whole)
        names = list(self._format.keys)
        done = pa.concat_tables([carried.rows.select(names), carried.keys])
        return carried, self._format.without(keys, done)

    def _divide(self, work: Work, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The rows that are to be done, and those that stay failed as they are."""
        schema = self._format.failed_schema
        if not work.unit.is_retry:
            return rows, schema.empty_table()
        is_wanted = pc.is_in(rows["reason"], pa.array(work.unit.reasons, pa.string()))
        kept = rows.filter(pc.invert(is_wanted)).select(schema.names).cast(schema)
        return rows.filter(is_wanted), kept

    def _outcome(self, work: Work, rows: pa.Table) -> Outcome:
        if not rows.num_rows:
            return self._failed(rows, "", "")
        if work.num_deaths:
            message = f"{work.num_deaths} processes died while they worked on this row alone"
            outcome = self._failed(rows, self._format.error_reason, message)
        else:
            outcome = self._do_or_halve(rows)
        self._check(rows, outcome)
        return outcome

    def _do_or_halve(self, rows: pa.Table) -> Outcome:
        """Do the rows; if the task raises one of its `row_errors`, find the row to blame."""
        expected: tuple[type[Exception], ...] = (RuntimeError, *self._task.row_errors)
        try:
            outcome = self._task.do(rows)
            return Outcome(
                outcome.ok.select(self._format.ok_schema.names).cast(self._format.ok_schema),
                outcome.failed.select(self._format.failed_schema.names).cast(
                    self._format.failed_schema
                ),
                outcome.costs,
            )
        except expected as error:
            if is_poisoned(error):
                end_process(error)
            if not isinstance(error, self._task.row_errors):
                raise
            if rows.num_rows == 1:
                message = f"{type(error).__name__}: {error}"
                return self._failed(rows, self._format.error_reason, message)
        middle = rows.num_rows // 2
        one, other = self._do_or_halve(rows.slice(0, middle)), self._do_or_halve(rows.slice(middle))
        return Outcome(
            pa.concat_tables([one.ok, other.ok]),
            pa.concat_tables([one.failed, other.failed]),
            added(one.costs, other.costs),
        )

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

    def _write(self, work: Work, status: str, rows: pa.Table) -> DataFile:
        return with_backoff(
            lambda: write_file(
                self._output,
                self._format.table,
                rows,
                name=work.unit.prefix,
                partition={"status": status},
            )
        )

    def _copy(self, work: Work, path: str, num_bytes: int) -> DataFile:
        assert self._earlier is not None
        source = self._earlier.location(path)
        return with_backoff(
            lambda: copy_file(
                source,
                self._output,
                self._format.table,
                num_bytes=num_bytes,
                name=work.unit.prefix,
                partition={"status": OK},
            )
        )


def _buckets(work: Work, rows: pa.Table, key: str) -> int | dict[str, int]:
    """The bucket of all rows of a work, or of each of their values of the first key."""
    if work.unit.bucket is not None:
        return work.unit.bucket
    return dict(zip(rows[key].to_pylist(), rows["bucket"].to_pylist(), strict=True))


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
