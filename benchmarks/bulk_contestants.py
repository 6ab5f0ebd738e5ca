"""The contestants of benchmarks.bulk that need Ray: `python -m benchmarks.bulk_contestants`.

The xrec of `old` is that of be583ac, whose bulk work had an engine of its own: this module is then
run in a checkout of it.
"""

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig

import xrec.bulk
from benchmarks.bulk_work import PAIRS, TEXTS, Work, object_store_options, report
from xrec.bulk import BulkRun, Identity, Outcome, RowFormat, clean_keys, open_run
from xrec.config.shared import RayConfig
from xrec.storage.process import this_process

FORMAT = RowFormat(tuple(PAIRS.names), TEXTS, pa.schema([]))
_LOGICAL_CPUS = 4  # two processes, and room for whatever else Ray Data starts
_BATCHES_PER_BLOCK = 16
_bulk: Any = xrec.bulk


class TextTask:
    """The task of ours and of the old engine."""

    row_errors: tuple[type[Exception], ...] = ()

    def __init__(self, work: Work):
        self._work = work

    def do(self, rows: pa.Table) -> Outcome:
        """See ChunkTask."""
        return Outcome(self._work.explained(rows), FORMAT.failed_schema.empty_table())

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """See ChunkTask."""
        raise NotImplementedError


def planned(work: Work) -> BulkRun:
    """The run of ours, or of the old engine."""

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        for batch in pads.dataset(work.pairs).to_batches(columns=PAIRS.names):
            rows = pa.Table.from_batches([batch])
            yield clean_keys(rows, PAIRS.names, file="pairs", first_line=1)

    given = (
        work.output,
        Identity(kind="explanations", config={}, inputs={}),
        FORMAT,
        batches,
    )
    if not hasattr(_bulk, "RunRequest"):  # be583ac
        return open_run(*given, listing={}, rows_per_chunk=work.rows)  # type: ignore[call-arg, arg-type]
    return open_run(_bulk.RunRequest(*given, rows_per_chunk=work.rows))


def ours(work: Work) -> dict[str, float]:
    """xrec.bulk: plan, drive, publish."""
    from xrec.bulk import drive, publish
    from xrec.bulk.work.pool import RayPool

    began = time.perf_counter()
    run = planned(work)
    ready = time.perf_counter()
    assert drive(run, RayPool(work.num_actors), lambda: TextTask(work)).is_done
    done = time.perf_counter()
    publish(run, "explanations", lambda summary: ({"explanations": summary.num_ok}, {}))
    return {"plan_seconds": ready - began, "publish_seconds": time.perf_counter() - done}


def old(work: Work) -> dict[str, float]:
    """xrec.bulk of be583ac: plan, and drive with its commits."""
    began = time.perf_counter()
    run: Any = planned(work)
    ready = time.perf_counter()
    settings = run.worker_settings(lambda: TextTask(work))
    pool = _bulk.ActorPool(settings, num_actors=work.num_actors, cpus_per_actor=1)
    assert _bulk.drive(run, pool, holder=this_process()).state == "finished"
    return {"plan_seconds": ready - began}


class Explain:
    """What a user of Ray Data writes for `map_batches`."""

    def __init__(self, work: Work):
        self._work = work

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with texts."""
        return self._work.explained(batch)


def explained_by_ray(work: Work) -> ray.data.Dataset:
    """read_parquet, and map_batches on a pool of actors; small files are read as one block."""
    pairs = ray.data.read_parquet(work.pairs)
    return pairs.repartition(target_num_rows_per_block=_BATCHES_PER_BLOCK * work.rows).map_batches(
        Explain,
        fn_constructor_args=(work,),
        batch_size=work.rows,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=work.num_actors),
        num_cpus=1,
    )


def ray_parquet(work: Work) -> dict[str, float]:
    """Plain Ray Data, and write_parquet."""
    explained_by_ray(work).write_parquet(f"{work.output}/rows")
    return {}


def ray_delta(work: Work) -> dict[str, float]:
    """Plain Ray Data, and write_delta."""
    explained_by_ray(work).write_delta(
        f"{work.output}/rows", storage_options=object_store_options()
    )
    return {}


def ray_parquet_checkpoint(work: Work) -> dict[str, float]:
    """`ray_parquet` with Ray Data's checkpoint."""
    _keep_checkpoint(work)
    return ray_parquet(work)


def ray_delta_checkpoint(work: Work) -> dict[str, float]:
    """`ray_delta` with Ray Data's checkpoint."""
    _keep_checkpoint(work)
    return ray_delta(work)


def _keep_checkpoint(work: Work) -> None:
    ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
        "pair_id", f"{work.output}/checkpoint", delete_checkpoint_on_success=False
    )


CONTESTANTS = {
    each.__name__: each
    for each in (ours, old, ray_parquet, ray_parquet_checkpoint, ray_delta, ray_delta_checkpoint)
}


def main() -> None:
    """Run the contestant that the arguments name."""
    from cluster.connect import ensure_ray

    name, work = Work.from_arguments()
    began = time.perf_counter()
    with ensure_ray(RayConfig(address="local", num_cpus=_LOGICAL_CPUS)):
        start_seconds = time.perf_counter() - began
        ray.data.DataContext.get_current().enable_progress_bars = False
        report(work, lambda work: {"ray_seconds": start_seconds, **CONTESTANTS[name](work)})


if __name__ == "__main__":
    main()
