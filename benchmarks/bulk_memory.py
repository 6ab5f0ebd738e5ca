"""Memory of a bulk run's driver, by the number of rows and of DuckDB's threads; takedown checks.

    python -m benchmarks.bulk_memory run [--rows 1000000 ...] [--threads 2 ...] [--users 10000000]

The rows are explanations with three aspects each, about 600 bytes in memory. Each step runs in a
process of its own: `mb` is its greatest resident memory, `seconds` its time without imports.

| step | what it does |
|---|---|
| `plan` | plans a run of all rows; nothing is published yet |
| `publish` | counts the results of all chunks, and publishes them in one process |
| `carry` | plans a run of the same rows beside the published ones, which the plan takes over |
| `forget` | leaves out 300 users of 300 takedowns among `--users` users, once |
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from benchmarks.bulk_work import peak_mb
from benchmarks.lookup import fill, opened
from benchmarks.processes import measured
from benchmarks.report import BENCHMARKS, Output, Record, Results, command_line, write_tables
from xrec.bulk import Survey, delete_runs, publish, read_takedowns
from xrec.bulk import input as input_module
from xrec.bulk.takedown import Entry, put_on_list
from xrec.config import StorageConfig
from xrec.storage import Forgotten, open_location

app = command_line(__doc__)

_STORAGE, _BATCH = StorageConfig(), 65_536
_NUM_FORGETS = 300
_MODULE = "benchmarks.bulk_memory"


def plan(uri: str, num_rows: int) -> None:
    """Plan a run without earlier rows."""
    opened(uri, _STORAGE, num_rows)


def results(uri: str, num_rows: int) -> None:
    """Let all chunks of the run have results, in place of a pool."""
    fill(opened(uri, _STORAGE, num_rows))


def publish_rows(uri: str, num_rows: int) -> None:
    """Count the results, and publish them."""
    run = opened(uri, _STORAGE, num_rows)
    assert Survey(run).is_done
    assert publish(run, "explanations", lambda summary: ({}, {"rows": summary.num_rows}))


def carry(uri: str, num_rows: int) -> None:
    """Plan a run that takes the published rows over."""
    run = opened(uri, _STORAGE, num_rows, carry_from=uri)
    rows = run.passes()[0].plan.rows(run.record.size.num_chunks - 1)
    assert rows["earlier"].null_count == 0


def forget(uri: str, num_users: int) -> None:
    """Pass over so many users, of whom none is forgotten."""
    taken, num_left = read_takedowns(open_location(uri)), 0
    for start in range(0, num_users, _BATCH):
        users = [f"user-{number}" for number in range(start, min(start + _BATCH, num_users))]
        num_left += taken.without(pa.table({"user_id": users})).num_rows
    assert num_left == num_users


STEPS: dict[str, Callable[[str, int], None]] = {
    "plan": plan,
    "results": results,
    "publish": publish_rows,
    "carry": carry,
    "forget": forget,
}


def measure(step: str, uri: str, num_rows: int, num_threads: int) -> Record:
    """Do a step in a process of its own."""
    found = measured([_MODULE, "step", step, uri, str(num_rows), str(num_threads)])
    return {"step": step, "rows": num_rows, "threads": num_threads, **found}


def runs(folder: Path, num_rows: int, threads: list[int]) -> Iterator[Record]:
    """The figures of planning, publishing and carrying over, for each number of threads."""
    uri = str(folder / "explanations")
    for num_threads in threads:
        shutil.rmtree(uri, ignore_errors=True)
        yield measure("plan", uri, num_rows, num_threads)
    measure("results", uri, num_rows, threads[0])
    yield measure("publish", uri, num_rows, threads[0])
    for num_threads in threads:
        delete_runs(uri)
        yield measure("carry", uri, num_rows, num_threads)


def forgets(folder: Path, num_users: int) -> Record:
    """The figures of a pass over users beside a list of forgotten ones."""
    location, people = open_location(str(folder / "forgotten")), Forgotten(b"k" * 32)
    for number in range(_NUM_FORGETS):
        users = (people.hash_of(f"gone-{number}"),)
        put_on_list(location, Entry(users=users, key=people.key.hex(), reason="forgotten"))
    return measure("forget", location.uri, num_users, 1)


@app.command()
def run(
    rows: Annotated[list[int] | None, typer.Option(help="By default 1e5, 1e6 and 1e7.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="By default 2 and 64.")] = None,
    users: Annotated[int, typer.Option(help="Of `forget`; 0 leaves it out.")] = 10_000_000,
    output: Output = BENCHMARKS / "bulk_memory",
) -> None:
    """Measure, print and keep the results."""
    found = []
    for num_rows in rows or [10**5, 10**6, 10**7]:
        with tempfile.TemporaryDirectory(prefix="xrec-bulk-memory-") as folder:
            for row in runs(Path(folder), num_rows, threads or [2, 64]):
                Results(output).append("bulk-memory", row)
                found.append(row)
    if users:
        with tempfile.TemporaryDirectory(prefix="xrec-bulk-memory-") as folder:
            found.append(forgets(Path(folder), users))
            Results(output).append("bulk-memory", found[-1])
    write_tables(output, "bulk-memory", {"Greatest memory of each step": found})


@app.command()
def step(name: str, uri: str, num_rows: int, num_threads: int) -> None:
    """Do one step in this process; print its time and memory as JSON."""
    input_module.THREADS = num_threads
    began = time.perf_counter()
    STEPS[name](uri, num_rows)
    seconds = round(time.perf_counter() - began, 1)
    typer.echo(json.dumps({"seconds": seconds, "mb": round(peak_mb())}))


if __name__ == "__main__":
    app()
