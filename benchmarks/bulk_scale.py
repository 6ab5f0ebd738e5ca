"""What the driver of a bulk run costs by the number of chunks: memory, seconds, and the slope.

    python -m benchmarks.bulk_scale [--chunks 65536 ...] [--left 4096]
        [--output workspace/benchmarks/bulk-scale]

A run of so many chunks of one row each is planned, all but `--left` of its chunks are committed,
and then a driver in a process of its own does the rest. Its pool has no actors: a result is there
at once, and its file is a hard link. So what is measured is the driver alone: opening the run,
taking the table over, finding what is left, and commits of 256 files, whose footers it looks at. A
line of the result is one number of chunks:

| field | what it is |
|---|---|
| `plan_s` | reading the rows and writing the plan |
| `open_s` | `open_run` of the plan that is there |
| `start_s` | from `drive` to the first work: take-over, what is left, the first commit |
| `commit_ms` | the median commit of 256 files, and the longest |
| `checkpoint_s` | one checkpoint, and after how many commits there is one |
| `status_ms` | `read_status` |
| `peak_mb` | the driver's greatest resident memory; `base_mb` before it opened the run |
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from benchmarks.bulk import FORMAT
from xrec.bulk import BulkRun, Identity, clean_keys, drive, open_run, read_status
from xrec.bulk.ledger import COMMIT_FILES, Ledger, UnitResult
from xrec.bulk.row_format import OK
from xrec.bulk.work import Died, Done, Unit, Work
from xrec.table import DataFile, write_file, writer
from xrec.table.data_file import CheckedFile, check_file

_BATCH = 65_536  # rows that are read, and files that are committed, at a time
_PARTITION = {"status": OK}


def opened(output: Path, num_chunks: int) -> BulkRun:
    """The run; it is planned if it is not yet."""

    def batches() -> Any:
        for start in range(0, num_chunks, _BATCH):
            numbers = range(start, min(start + _BATCH, num_chunks))
            rows = pa.table({"user": [f"user-{number}" for number in numbers]})
            yield clean_keys(rows, FORMAT.keys, file="rows", first_line=start + 1)

    return open_run(
        str(output),
        Identity(kind="benchmark", config={}, inputs={}),
        FORMAT,
        batches,
        listing={},
        rows_per_chunk=1,
    )


def file_of_one_row(run: BulkRun) -> DataFile:
    """A file of the table that a result can link to."""
    rows = pa.table({"user": ["user"], "text": ["text"]})
    rows = FORMAT.file_rows(rows, 0)
    return write_file(run.table.location, FORMAT.table, rows, name="original", partition=_PARTITION)


def result_of(unit: Unit, num_bytes: int) -> tuple[str, Done]:
    """A path, and the result that has written it."""
    path = f"status={OK}/{unit.prefix}-{uuid.uuid4().hex}.parquet"
    file = DataFile(path=path, num_bytes=num_bytes, partition=_PARTITION)
    work, num_rows = Work(unit, 0, unit.num_rows), unit.num_rows
    done = Done(work, (file,), num_ok=num_rows, num_ok_rows=num_rows, failed={})
    return path, done


def commit_most(output: Path, num_chunks: int, num_left: int) -> float:
    """Plan the run and commit all but `num_left` chunks, whose files need not be there.

    Returns the seconds of the plan.
    """
    began = time.perf_counter()
    run = opened(output, num_chunks)
    seconds = time.perf_counter() - began
    file = file_of_one_row(run)
    checked = check_file(run.table.location, FORMAT.table, file)

    def trusted(table: object, format: object, file: DataFile) -> CheckedFile:
        return CheckedFile(file, 1, checked.statistics, checked.modified_at_ms)

    with mock.patch.object(writer, "check_file", trusted):
        ledger = Ledger(run.table, run.table.take_over("benchmark"))
        units = list(run.units_left(run.table.snapshot()))[: num_chunks - num_left]
        for number, unit in enumerate(units, 1):
            ledger.add(UnitResult(unit, (result_of(unit, file.num_bytes)[1],)))
            if number % _BATCH == 0 or number == len(units):
                ledger.commit(is_last=True)
    return seconds


class LinkPool:
    """A pool whose works are done at once: the file of a result is a link to a file of one row."""

    def __init__(self, output: Path, original: DataFile):
        self._output = output
        self._original = original
        self._works: deque[Work] = deque()
        self.started_at = 0.0

    def start(self, num_works: int) -> None:
        """See Pool."""

    def can_take(self, is_alone: bool) -> bool:
        """See Pool."""
        return len(self._works) < COMMIT_FILES

    def submit(self, work: Work) -> None:
        """See Pool."""
        self.started_at = self.started_at or time.perf_counter()
        self._works.append(work)

    def wait(self, timeout_seconds: float) -> list[Done | Died]:
        """See Pool."""
        ended: list[Done | Died] = []
        while self._works:
            path, done = result_of(self._works.popleft().unit, self._original.num_bytes)
            os.link(self._output / self._original.path, self._output / path)
            ended.append(done)
        return ended

    def close(self) -> None:
        """See Pool."""


def drive_the_rest(output: Path, num_chunks: int) -> dict[str, Any]:
    """Do what is left; returns fields of the result."""
    base_mb = _peak_mb()
    began = time.perf_counter()
    run = opened(output, num_chunks)
    open_seconds = time.perf_counter() - began
    pool = LinkPool(output, file_of_one_row(run))
    commits: list[float] = []
    commit = writer.Writer.commit

    def timed(self: writer.Writer, adds: Any = (), *arguments: Any) -> int:
        began = time.perf_counter()
        version = commit(self, adds, *arguments)
        if len(adds) == COMMIT_FILES:
            commits.append(1000 * (time.perf_counter() - began))
        return version

    began = time.perf_counter()
    with mock.patch.object(writer.Writer, "commit", timed):
        state = drive(run, pool, holder="benchmark")
    assert state.num_ok == num_chunks, state
    peak_mb = _peak_mb()
    holder = run.table.take_over("benchmark")
    checkpoint_began = time.perf_counter()
    holder._checkpoint()
    checkpoint_seconds = time.perf_counter() - checkpoint_began
    status_began = time.perf_counter()
    read_status(str(output))
    interval = max(writer.CHECKPOINT_INTERVAL, num_chunks // writer.FILES_PER_COMMIT)
    return {
        "open_s": round(open_seconds, 2),
        "start_s": round(pool.started_at - began, 2),
        "commit_ms": [round(statistics.median(commits), 1), round(max(commits), 1)],
        "num_commits": len(commits),
        "checkpoint_s": [round(checkpoint_seconds, 2), interval],
        "status_ms": round(1000 * (time.perf_counter() - status_began), 1),
        "base_mb": base_mb,
        "peak_mb": peak_mb,
        "peak_mb_with_checkpoint": _peak_mb(),
    }


def main() -> None:
    """Measure each number of chunks and print a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="+", default=[2**14, 2**16, 2**18])
    parser.add_argument("--left", type=int, default=4096)
    parser.add_argument("--output", type=Path, default=Path("workspace/benchmarks/bulk-scale"))
    arguments = parser.parse_args()
    for num_chunks in arguments.chunks:
        shutil.rmtree(arguments.output, ignore_errors=True)
        plan_seconds = _in_a_process(commit_most, arguments.output, num_chunks, arguments.left)
        fields = _in_a_process(drive_the_rest, arguments.output, num_chunks)
        line = {"chunks": num_chunks, "plan_s": round(plan_seconds, 1), **fields}
        print(json.dumps(line), flush=True)  # noqa: T201
    shutil.rmtree(arguments.output, ignore_errors=True)


def _in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
