"""Rows through a model that computes nothing, into a table: ours beside other ways to do it.

    python -m benchmarks.bulk run [--num-pairs 100000 ...] [--seconds 1] [--daft PATH]
    python -m benchmarks.bulk kill ...        killed at half, and run again: which rows are there

All contestants read the same Parquet files, and make the same texts of 45 words in two processes,
1,024 rows at a time. Each runs in a process of its own. Ray's start and publishing are no part of
`seconds`; `first_seconds` is the part until the first chunk was done.

| contestant | what it is |
|---|---|
| `ours` | `open_run`, `drive` with a `RayPool`, `publish` |
| `ray_parquet` | Ray Data: `read_parquet`, `map_batches` on a pool of actors, `write_parquet` |
| `ray_delta` | the same with `write_delta` |
| `ray_delta_checkpoint` | the same with Ray Data's `CheckpointConfig` |
| `daft` | Daft, by an interpreter that has it: `--daft` |
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow.dataset as pads
import typer
from deltalake import DeltaTable

from benchmarks.bulk_work import PAIRS, Work, make_pairs
from benchmarks.processes import kill, start, wait
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

NAMES = ("ours", "ray_parquet", "ray_delta", "ray_delta_checkpoint", "daft")


@dataclass(frozen=True)
class Contestant:
    """A contestant with its work, of which it has a folder of its own; `python` is Daft's."""

    name: str
    work: Work
    python: Path | None = None

    def start(self) -> subprocess.Popen[str]:
        """Start it in a process of its own."""
        is_daft = self.name == "daft"
        module = "benchmarks.bulk_work" if is_daft else "benchmarks.bulk_contestants"
        return start([module, *self.work.arguments(self.name)], self.python if is_daft else None)

    def run(self) -> Record:
        """Run it to its end; returns what it reported."""
        last, cpu = wait(self.start())
        record: Record = {**json.loads(last), **cpu} if last else {"has_failed": 1}
        return {key: round(value, 2) for key, value in record.items() if value is not None}

    def run_until_half(self, num_chunks: int) -> None:
        """Run it, and kill it and its processes when half of the chunks are done."""
        process = self.start()
        while process.poll() is None and len(self.work.times()) < num_chunks // 2:
            time.sleep(0.02)
        kill(process)


def measure_run(contestant: Contestant, num_pairs: int) -> Record:
    """Seconds, files, bytes a row, and the driver's peak memory, without a failure."""
    return contestant.run() | table_of(contestant.work.output)


def measure_kill(contestant: Contestant, num_pairs: int) -> Record:
    """Kill a contestant when half of the chunks are done, run it again, and count the rows."""
    work = contestant.work
    contestant.run_until_half(num_pairs // work.rows)
    num_killed = len(work.times())
    again = contestant.run()
    table = table_of(work.output)
    return {
        "chunks_when_killed": num_killed,
        "chunks_after": len(work.times()) - num_killed,
        **{key: again.get(key) for key in ("has_failed", "seconds")},
        "lost_rows": num_pairs - table["distinct"],
        "doubled_rows": table["rows"] - table["distinct"],
    }


MEASURES: dict[str, Callable[[Contestant, int], Record]] = {
    "run": measure_run,
    "kill": measure_kill,
}


def table_of(output: str) -> Record:
    """The rows of a contestant's table, the distinct ones, and its files; zeros without a table."""
    folder = Path(output)
    folder = folder if (folder / "_delta_log").exists() else folder / "rows"
    if (folder / "_delta_log").exists():
        dataset = DeltaTable(str(folder)).to_pyarrow_dataset()
        files = DeltaTable(str(folder)).file_uris()
    elif folder.exists():
        dataset = pads.dataset(str(folder), format="parquet")
        files = dataset.files
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


@app.command(help=__doc__)
def bulk(
    what: Annotated[str, typer.Argument(help=f"One of {', '.join(MEASURES)}.")],
    num_pairs: Annotated[
        list[int] | None, typer.Option(help="Numbers of pairs; by default 1e5.")
    ] = None,
    contestant: Contestants = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a chunk, or of a batch.")] = 1024,
    seconds: Annotated[float, typer.Option(min=0, help="How long a chunk takes.")] = 0.0,
    daft: Annotated[Path | None, typer.Option(help="An interpreter that has Daft.")] = None,
    output: Output = BENCHMARKS / "bulk",
) -> None:
    """Measure each contestant at each size, and print a table."""
    names = known(contestant, NAMES if daft else NAMES[:-1], "contestant")
    found = []
    for size in num_pairs or [100_000]:
        with tempfile.TemporaryDirectory(prefix="xrec-bulk-") as folder:
            make_pairs(Path(folder) / "pairs", size)
            for name in names:
                places = f"{folder}/pairs", f"{folder}/{name}", f"{folder}/{name}.diary"
                made = Contestant(name, Work(*places, rows, seconds), daft)
                about = {"contestant": name, "pairs": size}
                found.append({**about, **MEASURES[what](made, size)})
                Results(output).append(f"bulk-{what}", found[-1])
    write_tables(output, what, {f"{rows} rows and {seconds} s a chunk": found})


if __name__ == "__main__":
    app()
