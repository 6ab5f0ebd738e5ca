"""The cost of a backfill around the model: `python -m benchmarks.backfill run`, from the root.

All contestants have the same pairs, prompts and an engine that computes nothing, and write to a
real object store (SeaweedFS, started here). Each runs in a process of its own. Then a hundredth of
its work is deleted, and it is run again. Results are appended to results.jsonl in --output.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from benchmarks.backfill_catalogue import backfill_config, make_catalogue
from benchmarks.graph_report import markdown
from benchmarks.graph_results import Results
from tests.object_store import ObjectStore, object_store
from xrec.config.shared import StorageConfig

app = typer.Typer(
    help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

Record = dict[str, Any]
NAMES = ("ours", "ray-plain", "ray-checkpoint")
_FORGOTTEN_SHARE = 0.01


@app.command()
def run(
    num_pairs: Annotated[
        list[int] | None, typer.Option(help="Numbers of pairs; by default 1e4, 1e5 and 1e6.")
    ] = None,
    contestant: Annotated[
        list[str] | None, typer.Option(help=f"Any of {', '.join(NAMES)}; by default all.")
    ] = None,
    rows_per_chunk: Annotated[
        int, typer.Option(min=1, help="Pairs of a chunk of ours, and of a batch of the others.")
    ] = 1024,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl.")] = Path(
        "workspace/benchmarks/backfill"
    ),
) -> None:
    """Measure each contestant at each size, and print a table for each size.

    The table has seconds, pairs a second, peak memory of driver and actors, seconds to resume when
    99 % are done, and the rows that are there in the end.
    """
    results = Results(output)
    for size in num_pairs or [10_000, 100_000, 1_000_000]:
        rows = []
        with tempfile.TemporaryDirectory() as folder, object_store() as store:
            make_catalogue(Path(folder), size)
            for name in contestant or NAMES:
                measured = _measure_apart(name, folder, store, rows_per_chunk)
                if measured is None:
                    continue
                what = {"contestant": name, "num_pairs": size}
                kind = {"kind": "path", "rows_per_chunk": rows_per_chunk}
                results.append({**what, **kind, **measured})
                rows.append({**what, **{column: measured.get(column) for column in COLUMNS}})
        typer.echo(markdown(rows))


def _measure_apart(
    name: str, folder: str, store: ObjectStore, rows_per_chunk: int
) -> Record | None:
    """Run a contestant in a fresh process; return its record, or None if it failed."""
    program = [sys.executable, "-m", "benchmarks.backfill", "one"]
    done = subprocess.run(
        [*program, name, folder, f"{store.new_bucket()}/out", str(rows_per_chunk)],
        env=store.environment | _environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        typer.echo(done.stderr[-3000:], err=True)
        return None
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


COLUMNS = (
    "plan_seconds",
    "seconds",
    "pairs_per_second",
    "resume_seconds",
    "driver_gib",
    "actor_gib",
    "rows",
    "distinct_pairs",
    "rows_after_resume",
    "distinct_pairs_after_resume",
)


@app.command()
def one(name: str, folder: str, uri: str, rows_per_chunk: int) -> None:
    """Run one contestant in this process; the last line is its numbers as JSON. `run` calls it."""
    from benchmarks.backfill_contestants import CONTESTANTS, FORGET, rows_written
    from cluster.connect import ensure_ray
    from xrec.config.shared import RayConfig

    config = backfill_config(Path(folder), uri, StorageConfig(), rows_per_chunk=rows_per_chunk)
    with ensure_ray(RayConfig(address="local", num_cpus=4)):
        with _peaks() as peaks:
            record = CONTESTANTS[name](config)
        record["rows"], record["distinct_pairs"] = rows_written(name, config)
        record["pairs_per_second"] = record["rows"] / record["seconds"]
        if name in FORGET:
            record["resumed_from"] = FORGET[name](config, _FORGOTTEN_SHARE)
            record["resume_seconds"] = CONTESTANTS[name](config)["seconds"]
            record["rows_after_resume"], record["distinct_pairs_after_resume"] = rows_written(
                name, config
            )
    typer.echo(json.dumps({**record, **peaks}))


@app.command()
def worker(
    num_pairs: Annotated[int, typer.Option(min=1024, help="Pairs, ten for each user.")] = 20_000,
    rows_per_chunk: Annotated[int, typer.Option(min=1, help="Pairs of a chunk.")] = 1024,
    output: Annotated[Path, typer.Option(help="Folder of results.jsonl.")] = Path(
        "workspace/benchmarks/backfill"
    ),
) -> None:
    """Measure how many pairs one worker does in a CPU second, in this process and on local disk.

    The worker builds and tokenizes prompts and writes files, which nothing commits; its engine
    computes nothing.
    """
    from benchmarks.backfill_contestants import load_no_op
    from xrec.backfill import open_backfill
    from xrec.backfill.task import explain_task
    from xrec.bulk.attempts import works_of
    from xrec.bulk.worker import ChunkWorker

    with tempfile.TemporaryDirectory() as folder:
        make_catalogue(Path(folder), num_pairs)
        config = backfill_config(
            Path(folder), f"{folder}/out", StorageConfig(), rows_per_chunk=rows_per_chunk
        )
        started = time.process_time()
        run = open_backfill(config)
        planned = time.process_time()
        task = explain_task(config, run.plan.record.identity, load_no_op)
        actor = ChunkWorker(run.worker_settings(task))
        loaded = time.process_time()
        for unit in run.units_left(run.table.snapshot()):
            for work in works_of(unit, {}):
                actor.do(work)
        record = {
            "kind": "worker",
            "num_pairs": num_pairs,
            "rows_per_chunk": rows_per_chunk,
            "plan_pairs_per_cpu_second": num_pairs / (planned - started),
            "pairs_per_cpu_second": num_pairs / (time.process_time() - loaded),
        }
    Results(output).append(record)
    typer.echo(json.dumps(record))


@contextmanager
def _peaks() -> Iterator[Record]:
    """Sample peak resident memory in GiB, of this process and of the largest actor."""
    peaks = {"driver_gib": 0.0, "actor_gib": 0.0}
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.2):
            peaks["driver_gib"] = max(
                peaks["driver_gib"], psutil.Process().memory_info().rss / 2**30
            )
            peaks["actor_gib"] = max(
                peaks["actor_gib"], *(memory / 2**30 for memory in _actor_memory()), 0.0
            )

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _actor_memory() -> list[int]:
    memory = []
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        if (
            process.info["cmdline"]
            and process.info["cmdline"][0].startswith("ray::")
            and any(name in process.info["cmdline"][0] for name in ("ChunkActor", "MapWorker"))
        ):
            memory.append(process.info["memory_info"].rss)
    return memory


def _environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "PYTHONPATH", "TMPDIR", "OMP_NUM_THREADS", "RAY_USAGE_STATS_ENABLED")
    return {name: os.environ[name] for name in kept if name in os.environ}


if __name__ == "__main__":
    app()
