"""Rows through a model that computes nothing, into a table: ours beside other ways to do it.

    python -m benchmarks.bulk run [--num-pairs 100000 ...] [--seconds 1] [--daft PATH]
    python -m benchmarks.bulk kill ...        killed at half, and run again: which rows are there

All contestants read the same Parquet files, and make the same texts of 45 words in two processes,
1,024 rows at a time. Each runs in a process of its own. Ray's start and publishing are no part of
`seconds`; `first_seconds` is the part until the first chunk was done. Results are appended to
results.jsonl.

| contestant | what it is |
|---|---|
| `ours` | `open_run`, `drive` with a `RayPool`, `publish` |
| `ray_parquet` | Ray Data: `read_parquet`, `map_batches` on a pool of actors, `write_parquet` |
| `ray_delta` | the same with `write_delta` |
| `..._checkpoint` | the same with Ray Data's `CheckpointConfig` |
| `daft` | Daft, by an interpreter that has it: `--daft` |
"""

import json
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pyarrow.dataset as pads
import typer
from deltalake import DeltaTable

from benchmarks.bulk_work import PAIRS, Work, make_pairs
from benchmarks.processes import kill, start, wait
from benchmarks.report import Record, Results, markdown

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

NAMES = (
    "ours",
    "ray_parquet",
    "ray_parquet_checkpoint",
    "ray_delta",
    "ray_delta_checkpoint",
    "daft",
)


class Contest:
    """Contestants that run with the same pairs, and their results."""

    def __init__(self, folder: Path, work: Work, daft: Path | None):
        self._folder = folder
        self._work = work
        self._daft = daft

    def work(self, name: str) -> Work:
        """What the contestant does, into a folder of its own."""
        return replace(
            self._work,
            output=str(self._folder / name),
            diary=str(self._folder / f"{name}.diary"),
        )

    def start(self, name: str, work: Work) -> subprocess.Popen[str]:
        """Start the contestant in a process of its own."""
        module = "benchmarks.bulk_daft" if name == "daft" else "benchmarks.bulk_contestants"
        python = self._daft if name == "daft" else None
        return start([module, *work.arguments(name)], python)

    def run(self, name: str, work: Work) -> Record:
        """Run the contestant to its end; returns what it reported."""
        last, cpu = wait(self.start(name, work))
        record: Record = {**json.loads(last), **cpu} if last else {"has_failed": 1}
        return {key: round(value, 2) for key, value in record.items() if value is not None}

    def run_until_half(self, name: str, work: Work, num_chunks: int) -> None:
        """Run the contestant, and kill it and its processes when half of the chunks are done."""
        process = self.start(name, work)
        while process.poll() is None and len(work.times()) < num_chunks // 2:
            time.sleep(0.02)
        kill(process)


def measure_run(contest: Contest, name: str, num_pairs: int) -> Record:
    """Seconds, files, bytes a row, and the driver's peak memory, without a failure."""
    work = contest.work(name)
    return contest.run(name, work) | table_of(work.output)


def measure_kill(contest: Contest, name: str, num_pairs: int) -> Record:
    """Kill a contestant when half of the chunks are done, run it again, and count the rows."""
    work = contest.work(name)
    contest.run_until_half(name, work, num_pairs // work.rows)
    num_killed = len(work.times())
    again = contest.run(name, work)
    table = table_of(work.output)
    return {
        "chunks_when_killed": num_killed,
        "chunks_after": len(work.times()) - num_killed,
        **{key: again.get(key) for key in ("has_failed", "seconds")},
        "lost_rows": num_pairs - table["distinct"],
        "doubled_rows": table["rows"] - table["distinct"],
    }


MEASURES = {"run": measure_run, "kill": measure_kill}


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
    contestant: Annotated[
        list[str] | None, typer.Option(help="Contestants; by default all that can run.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a chunk, or of a batch.")] = 1024,
    seconds: Annotated[float, typer.Option(min=0, help="How long a chunk takes.")] = 0.0,
    daft: Annotated[Path | None, typer.Option(help="An interpreter that has Daft.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl.")] = Path(
        "workspace/benchmarks/bulk"
    ),
) -> None:
    """Measure each contestant at each size, and print a table for each size."""
    names = contestant or [name for name in NAMES if daft or name != "daft"]
    for size in num_pairs or [100_000]:
        records = []
        with tempfile.TemporaryDirectory(prefix="xrec-bulk-") as folder:
            make_pairs(Path(folder) / "pairs", size)
            work = Work(f"{folder}/pairs", "", rows, seconds, 2, "")
            contest = Contest(Path(folder), work, daft)
            for name in names:
                found = MEASURES[what](contest, name, size)
                record = {"contestant": name, "num_pairs": size, **found}
                settings = {"kind": f"bulk-{what}", "chunk_rows": rows, "chunk_seconds": seconds}
                Results(output).append(settings | record)
                records.append(record)
        columns = dict.fromkeys(key for record in records for key in record)
        typer.echo(markdown([{key: each.get(key) for key in columns} for each in records]))


if __name__ == "__main__":
    app()
