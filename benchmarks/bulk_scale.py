"""What the driver of a bulk run costs by the number of chunks: memory, seconds, and the slope.

    python -m benchmarks.bulk_scale [--chunks 1024 ...] [--left 512] [--ray] [--only-status]
        [--output workspace/benchmarks/bulk-scale]

A run of so many chunks of one row each is planned, all but `--left` of its chunks get a result, and
then a driver in a process of its own does the rest and publishes. Its pool has no processes: a
result is a hard link. So what is measured is the driver alone. With `--ray` no chunk is done
before, and all of them go through a `RayPool` of two processes. A line of the result is one number
of chunks:

| field | what it is |
|---|---|
| `plan_s` | reading the rows and writing the plan |
| `open_s` | `open_run` of the plan that is there |
| `survey_s` | which chunks have a result, and their counts: what a driver does first |
| `drive_s`, `drive_cpu_s` | from `drive`, which begins with a survey, to its end; CPU time |
| `publish_s` | `publish` |
| `status_ms` | `read_status` |
| `peak_mb` | the driver's greatest resident memory; `base_mb` before it opened the run |
"""

import argparse
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.bulk_contestants import FORMAT, TextTask
from benchmarks.bulk_work import Work, peak_mb
from xrec.bulk import (
    BulkRun,
    Identity,
    RunRequest,
    Summary,
    Survey,
    clean_keys,
    drive,
    open_run,
    publish,
    read_status,
)
from xrec.bulk.work.pool import RayPool
from xrec.bulk.work.worker import WorkerSettings
from xrec.config.shared import RayConfig

_BATCH = 65_536
_MOST_LINKS = 32_768  # ext4 allows 65,000 of a file
_SUMMARY = Summary(num_ok=1, num_ok_rows=1)
_WORK = Work(pairs="", output="", rows=1, seconds=0.0, num_actors=2, diary=os.devnull)


class LinkPool:
    """A pool whose chunks are done at once: a result is a link to a result of one row."""

    def __init__(self, run: BulkRun):
        self._results = run.passes()[0].results

    def summaries(
        self, settings: WorkerSettings | None, chunks: Sequence[int]
    ) -> Iterator[tuple[int, Summary]]:
        """See Pool."""
        folder = Path(self._results.location.path)
        for number, chunk in enumerate(chunks):
            if number % _MOST_LINKS == 0:
                rows = pa.table({"user_id": ["user"], "item_id": ["item"], "bucket": [0]})
                outcome = TextTask(_WORK).do(rows.select(FORMAT.keys))
                ok = outcome.ok.select(FORMAT.ok_schema.names)
                made = FORMAT.as_results(rows, ok, outcome.failed)
                self._results.create(chunk, made, _SUMMARY)
                original = folder / f"{chunk:07d}.parquet"
            else:
                os.link(original, folder / f"{chunk:07d}.parquet")
            yield chunk, _SUMMARY


def opened(output: Path, num_chunks: int) -> BulkRun:
    """The run; it is planned if it is not yet."""

    def batches() -> Any:
        for start in range(0, num_chunks, _BATCH):
            numbers = range(start, min(start + _BATCH, num_chunks))
            users = [f"user-{number}" for number in numbers]
            rows = pa.table({"user_id": users, "item_id": pa.repeat("item", len(users))})
            yield clean_keys(rows, FORMAT.keys, file="rows", first_line=start + 1)

    identity = Identity(kind="explanations", config={}, inputs={})
    return open_run(RunRequest(str(output), identity, FORMAT, batches, rows_per_chunk=1))


def prepare(output: Path, num_chunks: int, num_left: int) -> float:
    """Plan the run, and let all but `num_left` chunks have a result; the seconds of the plan."""
    run, seconds = _timed(lambda: opened(output, num_chunks))
    for _ in LinkPool(run).summaries(None, range(num_chunks - num_left)):
        pass
    return seconds


def do_the_rest(output: Path, num_chunks: int, num_left: int, on_ray: bool) -> dict[str, Any]:
    """Do what is left; returns fields of the result."""
    from cluster.connect import ensure_ray

    ray = ensure_ray(RayConfig(address="local", num_cpus=2)) if on_ray else nullcontext()
    with ray:
        base_mb = peak_mb()
        run, open_seconds = _timed(lambda: opened(output, num_chunks))
        survey, survey_seconds = _timed(lambda: Survey(run))
        assert survey.summary.num_rows == num_chunks - num_left
        pool: Any = LinkPool(run)
        if on_ray:
            pool = RayPool(_WORK.num_actors)
        cpu = time.process_time()
        progress, drive_seconds = _timed(lambda: drive(run, pool, lambda: TextTask(_WORK)))
        cpu = time.process_time() - cpu
        assert progress.num_ok == num_chunks, progress
        _, publish_seconds = _timed(lambda: publish(run, "explanations", lambda summary: ({}, {})))
        _, status_seconds = _timed(lambda: read_status(str(output)))
        return {
            "open_s": round(open_seconds, 2),
            "survey_s": round(survey_seconds, 2),
            "drive_s": round(drive_seconds, 2),
            "drive_cpu_s": round(cpu, 2),
            "publish_s": round(publish_seconds, 2),
            "status_ms": round(1000 * status_seconds, 1),
            "base_mb": round(base_mb),
            "peak_mb": round(peak_mb()),
        }


def look(output: Path, num_chunks: int) -> dict[str, Any]:
    """What who looks at the run pays; returns fields of the result."""
    run = opened(output, num_chunks)
    _, status_seconds = _timed(lambda: read_status(str(output)))
    _, survey_seconds = _timed(lambda: Survey(run))
    return {"survey_s": round(survey_seconds, 2), "status_ms": round(1000 * status_seconds, 1)}


def main() -> None:
    """Measure each number of chunks and print a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="+", default=[2**10, 2**12, 2**14, 2**16])
    parser.add_argument("--left", type=int, default=512)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--only-status", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("workspace/benchmarks/bulk-scale"))
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    for num_chunks in arguments.chunks:
        shutil.rmtree(output, ignore_errors=True)
        num_left = num_chunks if arguments.ray else arguments.left
        plan_seconds = _in_a_process(prepare, output, num_chunks, num_left)
        line = {"chunks": num_chunks, "plan_s": round(plan_seconds, 1)}
        if arguments.only_status:
            line |= _in_a_process(look, output, num_chunks)
        else:
            line |= _in_a_process(do_the_rest, output, num_chunks, num_left, arguments.ray)
        print(json.dumps({**line, "load": os.getloadavg()[0]}), flush=True)  # noqa: T201
    shutil.rmtree(output, ignore_errors=True)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def _in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


if __name__ == "__main__":
    main()
