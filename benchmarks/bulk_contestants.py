"""The contestants of benchmarks.bulk that need Ray: `python -m benchmarks.bulk_contestants`."""

import time
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.dataset as pads
import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig

from benchmarks.bulk_work import PAIRS, TEXTS, Work, report
from xrec.bulk import (
    BulkRun,
    Identity,
    Outcome,
    RowFormat,
    RunRequest,
    clean_keys,
    drive,
    open_run,
    publish,
)
from xrec.config import RayConfig
from xrec.processes import RayPool

FORMAT = RowFormat(tuple(PAIRS.names), TEXTS, pa.schema([]))
_LOGICAL_CPUS = 4  # two processes, and room for whatever else Ray Data starts
_BATCHES_PER_BLOCK = 16


class TextTask:
    """The task of ours."""

    row_errors: tuple[type[Exception], ...] = (ValueError,)

    def __init__(self, work: Work):
        self._work = work

    def do(self, rows: pa.Table) -> Outcome:
        """See ChunkTask."""
        return Outcome(self._work.explained(rows), FORMAT.failed_schema.empty_table())

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """See ChunkTask."""
        reasons = {"reason": reason, "message": message}
        return pa.Table.from_pylist(
            [{**keys, **reasons} for keys in rows.to_pylist()], FORMAT.failed_schema
        )


def planned(work: Work) -> BulkRun:
    """The run of ours."""

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        for batch in pads.dataset(work.pairs).to_batches(columns=PAIRS.names):
            rows = pa.Table.from_batches([batch])
            yield clean_keys(rows, PAIRS.names, file="pairs", first_line=1)

    identity = Identity(kind="explanations", config={}, inputs={})
    return open_run(RunRequest(work.output, identity, FORMAT, batches, rows_per_chunk=work.rows))


def ours(work: Work) -> dict[str, float]:
    """xrec.bulk: plan, drive, publish."""
    began = time.perf_counter()
    run = planned(work)
    ready = time.perf_counter()
    assert drive(run, RayPool(work.num_actors), lambda: TextTask(work)).is_done
    done = time.perf_counter()
    publish(run, "explanations", lambda summary: ({"explanations": summary.num_ok}, {}))
    return {"plan_seconds": ready - began, "publish_seconds": time.perf_counter() - done}


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


def by_ray(name: str, work: Work) -> dict[str, float]:
    """Plain Ray Data with one of its writers, and with its checkpoint if the name says so."""
    if name.endswith("_checkpoint"):
        ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
            "pair_id", f"{work.output}/checkpoint", delete_checkpoint_on_success=False
        )
    rows = explained_by_ray(work)
    write = rows.write_delta if name.startswith("ray_delta") else rows.write_parquet
    write(f"{work.output}/rows")
    return {}


def main() -> None:
    """Run the contestant that the arguments name."""
    from xrec.cluster import ensure_ray

    name, work = Work.from_arguments()
    began = time.perf_counter()
    with ensure_ray(RayConfig(address="local", num_cpus=_LOGICAL_CPUS)):
        start_seconds = time.perf_counter() - began
        ray.data.DataContext.get_current().enable_progress_bars = False
        do = ours if name == "ours" else partial(by_ray, name)
        report(work, lambda work: {"ray_seconds": start_seconds, **do(work)})


if __name__ == "__main__":
    main()
