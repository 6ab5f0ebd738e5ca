"""Rows through a model that computes nothing, into a table: ours beside other ways to do it.

    python -m benchmarks.bulk run [--num-pairs 100000 ...] [--seconds 1] [--other-python PATH]
    python -m benchmarks.bulk faults ...      which rows are there after each of these faults:

    kill      killed with all its processes when half of the chunks are done, and begun again
    stop      interrupted by Ctrl-C at half, and begun again
    worker    the process that did a chunk is killed at half; begun again only if it failed
    overlap   a second one is started at a quarter, as a scheduler does that believes the first dead
    poison    one user has no text, but an error; begun again once if it failed

All contestants read the same Parquet files, and make the same texts of 45 words in two processes,
1,024 rows at a time. Each runs in a process of its own. Ray's start and publishing are no part of
`seconds`; `first_seconds` is the part until the first chunk was done. `lost_rows` and
`doubled_rows` are those that a reader of the whole table meets. A run that takes more than five
minutes is killed, and counts as failed: choose sizes that take less than one.

| contestant | what it is |
|---|---|
| `ours` | `open_run`, `drive` with a `RayPool`, `publish` |
| `ray_parquet` | Ray Data: `read_parquet`, `map_batches` on a pool of actors, `write_parquet` |
| `ray_delta` | the same with `write_delta` |
| `ray_delta_checkpoint` | the same with Ray Data's `CheckpointConfig` |
| `daft`, `datatrove` | Daft, datatrove: by an interpreter that has them, `--other-python` |
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer
from typing import Annotated

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import typer
from deltalake import DeltaTable

from benchmarks.bulk_work import PAIRS, PAIRS_PER_USER, Work, make_pairs
from benchmarks.processes import kill, send_kill, start, wait
from benchmarks.report import (
    BENCHMARKS,
    Contestants,
    Output,
    Record,
    Results,
    command_line,
    known,
    write_tables,
)

app = command_line()

NAMES = ("ours", "ray_parquet", "ray_delta", "ray_delta_checkpoint", "daft", "datatrove")
_OTHERS = NAMES[-2:]  # they have an interpreter of their own
_PATIENCE = 300.0  # seconds until a run is taken for one that hangs
_SICK = "user-0000007"


@dataclass(frozen=True)
class Contestant:
    """A contestant with its work, of which it has a folder of its own; `python` is the others'."""

    name: str
    work: Work
    python: Path | None = None

    def start(self) -> subprocess.Popen[str]:
        """Start it in a process of its own."""
        is_other = self.name in _OTHERS
        module = "benchmarks.bulk_work" if is_other else "benchmarks.bulk_contestants"
        return start([module, *self.work.arguments(self.name)], self.python if is_other else None)

    def run(self) -> Record:
        """Run it to its end; returns what it reported."""
        return reported(self.start())

    def run_until(self, num_chunks: int) -> subprocess.Popen[str]:
        """Start it; returns when so many chunks are done, or it has ended."""
        process = self.start()
        while process.poll() is None and len(self.work.times()) < num_chunks:
            time.sleep(0.02)
        return process


def reported(process: subprocess.Popen[str]) -> Record:
    """What it reported at its end, which this waits for; `has_failed` if it failed.

    One that does not end is killed, as a person would do who waits for it.
    """
    watch = Timer(_PATIENCE, send_kill, [process])
    watch.start()
    last, cpu = wait(process)
    watch.cancel()
    record: Record = {**json.loads(last), **cpu} if last else {"has_failed": 1}
    return {key: round(value, 2) for key, value in record.items() if value is not None}


def killed(contestant: Contestant, num_chunks: int) -> list[Record]:
    """Killed at half with all that it started, and run again."""
    kill(contestant.run_until(num_chunks // 2))
    return [contestant.run()]


def stopped(contestant: Contestant, num_chunks: int) -> list[Record]:
    """Interrupted at half, and run again."""
    process = contestant.run_until(num_chunks // 2)
    process.send_signal(signal.SIGINT)
    reported(process)
    return [contestant.run()]


def without_worker(contestant: Contestant, num_chunks: int) -> list[Record]:
    """A worker is killed at half; run again if that was the end."""
    process = contestant.run_until(num_chunks // 2)
    with suppress(ProcessLookupError):
        os.kill(contestant.work.last_worker(), signal.SIGKILL)
    return again_if_failed(contestant, reported(process))


def overlapped(contestant: Contestant, num_chunks: int) -> list[Record]:
    """Two at once: the second is started when the first has done a quarter."""
    first = contestant.run_until(num_chunks // 4)
    with ThreadPoolExecutor() as threads:
        return list(threads.map(reported, (first, contestant.start())))


def poisoned(contestant: Contestant, num_chunks: int) -> list[Record]:
    """One user has no text; run again if that was the end."""
    sick = replace(contestant, work=replace(contestant.work, poison=_SICK))
    return again_if_failed(sick, sick.run())


def again_if_failed(contestant: Contestant, found: Record) -> list[Record]:
    """What a run reported, and what the next one did if it failed."""
    return [found, contestant.run()] if "has_failed" in found else [found]


FAULTS: dict[str, Callable[[Contestant, int], list[Record]]] = {
    "kill": killed,
    "stop": stopped,
    "worker": without_worker,
    "overlap": overlapped,
    "poison": poisoned,
}


def measure_run(contestant: Contestant, num_pairs: int) -> Record:
    """Seconds, files, bytes a row, and the driver's peak memory, without a failure."""
    return contestant.run() | table_of(contestant.work.output)


def measure_fault(fault: str, contestant: Contestant, num_pairs: int) -> Record:
    """Rows lost and doubled after a fault; `begun_seconds` from the first start to the end."""
    began, num_chunks = time.monotonic(), num_pairs // contestant.work.rows
    tries = FAULTS[fault](contestant, num_chunks)
    table = table_of(contestant.work.output)
    wanted = num_pairs - (PAIRS_PER_USER if fault == "poison" else 0)
    return {
        "begun_seconds": round(time.monotonic() - began, 1),
        "last_has_failed": int("has_failed" in tries[-1]),
        "chunks_twice": max(0, len(contestant.work.times()) - num_chunks),
        "broken_files": sum(
            not is_readable(file) for file in Path(contestant.work.output).rglob("*.parquet")
        ),
        "lost_rows": max(0, wanted - table["distinct"]),
        "doubled_rows": table["rows"] - table["distinct"],
    }


def table_of(output: str) -> Record:
    """The rows of a contestant's table, the distinct ones, and its files; zeros without a table."""
    folder = Path(output)
    folder = folder if (folder / "_delta_log").exists() else folder / "rows"
    if (folder / "_delta_log").exists():
        dataset = DeltaTable(str(folder)).to_pyarrow_dataset()
        files = DeltaTable(str(folder)).file_uris()
    elif folder.exists():
        files = [str(file) for file in folder.rglob("*.parquet") if is_readable(file)]
        dataset = pads.dataset(files, schema=PAIRS)
    else:
        return {"rows": 0, "distinct": 0, "files": 0, "bytes_a_row": None}
    pairs = dataset.to_table(columns=PAIRS.names)
    num_bytes = sum(Path(file).stat().st_size for file in files)
    return {
        "rows": pairs.num_rows,
        "distinct": pairs.group_by(PAIRS.names).aggregate([]).num_rows,
        "files": len(files),
        "bytes_a_row": round(num_bytes / max(1, pairs.num_rows), 1),
    }


def is_readable(file: Path) -> bool:
    """Whether it is a whole Parquet file."""
    try:
        pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


@app.command(help=__doc__)
def bulk(
    what: Annotated[str, typer.Argument(help=f"run, faults, or one of {', '.join(FAULTS)}.")],
    num_pairs: Annotated[int, typer.Option(help="Number of pairs.")] = 100_000,
    contestant: Contestants = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a chunk, or of a batch.")] = 1024,
    seconds: Annotated[float, typer.Option(min=0, help="How long a chunk takes.")] = 0.0,
    other_python: Annotated[
        Path | None, typer.Option(help="An interpreter that has Daft and datatrove.")
    ] = None,
    output: Output = BENCHMARKS / "bulk",
) -> None:
    """Measure each contestant, and print a table."""
    names = known(contestant, NAMES if other_python else NAMES[: -len(_OTHERS)], "contestant")
    found = []
    with tempfile.TemporaryDirectory(prefix="xrec-bulk-") as folder:
        make_pairs(Path(folder) / "pairs", num_pairs)
        for each in FAULTS if what == "faults" else [known([what], ["run", *FAULTS], "measure")[0]]:
            for name in names:
                own = f"{folder}/{each}-{name}"
                made = Contestant(
                    name, Work(f"{folder}/pairs", own, f"{own}.diary", rows, seconds), other_python
                )
                figures = (
                    measure_fault(each, made, num_pairs)
                    if each in FAULTS
                    else measure_run(made, num_pairs)
                )
                found.append({"fault": each, "contestant": name, "pairs": num_pairs, **figures})
                Results(output).append(f"bulk-{what}", found[-1])
    write_tables(output, what, {f"{rows} rows and {seconds} s a chunk": found})


if __name__ == "__main__":
    app()
