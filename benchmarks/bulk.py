"""How soon results of chunks reach the driver, by plain actors and by Ray Data.

    python -m benchmarks.bulk [--chunks 1000] [--actors 2] [--output workspace/benchmarks/bulk]

Every contestant does the same chunks of four rows, which take 20 ms, and each fiftieth 500 ms; an
actor reads the chunk's rows, sleeps, and writes a file. Nothing is committed. `seconds` is the time
from the first work to the last result, without the start of actors where they start once; `lag` is
the time between the end of a chunk in its actor and its arrival at the driver.

| contestant | what it is |
|---|---|
| `actors` | `xrec.bulk.ActorPool` |
| `ray_data` | `ray.data`, `map_batches` on a pool of actors: one execution, at most 4096 blocks |
| `ray_data_windows` | the same for 64 chunks at a time, one a block |
"""

import argparse
import json
import pickle
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray import cloudpickle

from xrec.bulk import ActorPool, BulkRun, Identity, Outcome, RowFormat, clean_keys, open_run
from xrec.bulk.work import Done, Work
from xrec.bulk.worker import ChunkWorker, WorkerSettings

FORMAT = RowFormat(("user",), pa.schema([("text", pa.string())]), pa.schema([]))
_ROWS_PER_CHUNK = 4
_WINDOW = 64
_MAX_BLOCKS = 4096
Results = Iterator[Done]


class SleepyTask:
    """Sleeps for each chunk; says when it ended."""

    row_errors: tuple[type[Exception], ...] = ()

    def do(self, rows: pa.Table) -> Outcome:
        """See ChunkTask."""
        number = int(rows["user"][0].as_py().rpartition("-")[2])
        time.sleep(0.5 if number % 50 == 0 else 0.02)
        ok = rows.append_column("text", pa.repeat("text", rows.num_rows))
        return Outcome(ok, FORMAT.failed_schema.empty_table(), {"ended_at": time.time()})

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """See ChunkTask."""
        raise NotImplementedError


class DataActor:
    """The actor of Ray Data's pool."""

    def __init__(self, packed: bytes):
        self._worker = ChunkWorker(cloudpickle.loads(packed))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the one work of a batch."""
        done = self._worker.do(pickle.loads(batch["work"][0]))
        return {"done": [pickle.dumps(done)]}


def by_actors(settings: WorkerSettings, works: Sequence[Work], num_actors: int) -> Results:
    """Send all works through the pool of xrec.bulk."""
    pool = ActorPool(settings, num_actors=num_actors, cpus_per_actor=1)
    pool.start(len(works))
    left, num_done = list(reversed(works)), 0
    try:
        while num_done < len(works):
            while left and pool.can_take(is_alone=False):
                pool.submit(left.pop())
            for done in pool.wait(10):
                assert isinstance(done, Done)
                num_done += 1
                yield done
    finally:
        pool.close()


def by_ray_data(
    settings: WorkerSettings, works: Sequence[Work], num_actors: int, *, window: int
) -> Results:
    """Send `window` works at a time through Ray Data's pool of actors, at most 4096 blocks."""
    for start in range(0, len(works), window):
        rows = [{"work": pickle.dumps(work)} for work in works[start : start + window]]
        results = ray.data.from_items(
            rows, override_num_blocks=min(len(rows), _MAX_BLOCKS)
        ).map_batches(
            DataActor,
            fn_constructor_args=(cloudpickle.dumps(settings),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=1,
        )
        for row in results.iter_rows():
            yield pickle.loads(row["done"])


def main() -> None:
    """Run the contestants in turn and print a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=1000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("workspace/benchmarks/bulk"))
    arguments = parser.parse_args()
    ray.init(num_cpus=arguments.actors, include_dashboard=False, log_to_driver=False)
    contestants: dict[str, Callable[..., Results]] = {
        "actors": by_actors,
        "ray_data": partial(by_ray_data, window=arguments.chunks),
        "ray_data_windows": partial(by_ray_data, window=_WINDOW),
    }
    for name, contestant in contestants.items():
        print(json.dumps({"contestant": name, **_measure(contestant, arguments)}), flush=True)  # noqa: T201


def _measure(contestant: Callable[..., Results], arguments: argparse.Namespace) -> dict[str, Any]:
    shutil.rmtree(arguments.output, ignore_errors=True)
    run = _run(arguments.output, arguments.chunks)
    units = run.units_left(run.table.snapshot())
    works = [Work(unit, 0, unit.num_rows) for unit in units]
    began, arrived, lags = time.time(), [], []
    for done in contestant(run.worker_settings(SleepyTask), works, arguments.actors):
        arrived.append(time.time())
        lags.append(arrived[-1] - done.costs["ended_at"])
    lags.sort()
    return {
        "chunks": len(works),
        "seconds": round(arrived[-1] - arrived[0], 1),
        "seconds_with_start": round(arrived[-1] - began, 1),
        "lag_median_ms": round(1000 * statistics.median(lags), 1),
        "lag_p99_ms": round(1000 * lags[int(len(lags) * 0.99)], 1),
        "lag_max_ms": round(1000 * lags[-1], 1),
    }


def _run(output: Path, num_chunks: int) -> BulkRun:
    rows = pa.table({"user": [f"user-{number}" for number in range(num_chunks * _ROWS_PER_CHUNK)]})
    return open_run(
        str(output),
        Identity(kind="benchmark", config={}, inputs={}),
        FORMAT,
        lambda: [clean_keys(rows, FORMAT.keys, file="rows", first_line=1)],
        listing={},
        rows_per_chunk=_ROWS_PER_CHUNK,
    )


if __name__ == "__main__":
    main()
