"""The driver of a backfill: the chunks that are left go through Ray Data's actor pool, the manifest comes last."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

import xrec.errors
from xrec.backfill.commit import Commit, committed_chunks, read_commits
from xrec.backfill.plan import BackfillPlan, sources_of
from xrec.backfill.worker import ChunkWorker, WorkerSettings
from xrec.config import ActorsConfig, BackfillConfig
from xrec.errors import ClusterError, DataError, XRecError
from xrec.progress import progress
from xrec.schemas import GENERATED
from xrec.storage import Location, Manifest, open_location, read_manifest, read_table, write_manifest

logger = logging.getLogger("xrec")

_OWN_ERROR = re.compile(r"^xrec\.[\w.]+\.(\w+Error): (.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


def run_backfill(config: BackfillConfig, plan: BackfillPlan) -> Manifest:
    """Explain what is left of `plan` and finish the artifact. Ray must be initialised.

    Raises DataError if more than `max_failed_share` of the rows failed; what is committed stays, a new run goes on from there.
    """
    if plan.done is not None:
        return plan.done
    output = open_location(config.artifact("explanations"), config.storage)
    left = sorted(set(plan.chunk_rows) - committed_chunks(output))
    logger.info("%d pairs in %d chunks, %d chunks left", sum(plan.chunk_rows.values()), len(plan.chunk_rows), len(left))
    if left:
        for _ in progress(_explain_chunks(config, output, left), "chunks explained", len(left)):
            pass
    commits = read_commits(output, plan.chunk_rows)
    _check_failures(commits, config.max_failed_share, output)
    return _write_manifest(output, plan, commits)


def read_explanations(location: Location) -> pa.Table:
    """All explanations of a finished run (schema GENERATED), by the manifest's list of files."""
    manifest = read_manifest(location, "explanations")
    tables = [read_table(location / name, GENERATED) for name in sorted(manifest.files) if not name.startswith("failed/")]
    return pa.concat_tables(tables) if tables else GENERATED.empty_table()


def _explain_chunks(config: BackfillConfig, output: Location, chunks: list[int]) -> Iterator[dict[str, Any]]:
    """Yield each chunk's counts as it is committed."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts chunks
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    actors = config.actors
    settings = WorkerSettings(
        sources=sources_of(config),
        output=output.shared_uri,
        decoding=config.decoding,
        device=actors.device,
        batch_size=actors.batch_size,
        num_threads=actors.cpus_per_actor,
    )
    dataset = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks)).map_batches(
        ChunkWorker,
        fn_constructor_args=(settings,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors.num_actors, len(chunks))),
        num_cpus=actors.cpus_per_actor,
        num_gpus=1 if _uses_gpu(actors) else 0,
    )
    try:
        yield from dataset.iter_rows()
    except RayError as error:
        raise _as_xrec_error(error) from error


def _uses_gpu(actors: ActorsConfig) -> bool:
    return actors.device == "cuda" or (actors.device == "auto" and ray.cluster_resources().get("GPU", 0) >= actors.num_actors)


def _as_xrec_error(error: RayError) -> XRecError:
    """The error of our own code, else a ClusterError. Of an actor's exceptions only the tracebacks' text reaches the driver."""
    text = str(error)
    ours = _OWN_ERROR.findall(text)
    if ours:
        name, message = ours[-1]  # the outermost of a chain
        error_type: type[XRecError] = getattr(xrec.errors, name, XRecError)
        return error_type(message)
    root = (text.split("\n\nThe above exception was", 1)[0].strip().splitlines() or [""])[-1]
    return ClusterError(f"the backfill's actors failed ({type(error).__name__}: {root[:500]}); run it again to go on with the chunks left")


def _check_failures(commits: list[Commit], max_failed_share: float, output: Location) -> None:
    num_failed = sum(commit.num_failed for commit in commits)
    num_rows = num_failed + sum(commit.num_rows for commit in commits)
    if num_failed > max_failed_share * num_rows:
        raise DataError(
            f"{num_failed} of {num_rows} rows failed ({_failed_by_reason(commits)}), more than max_failed_share = {max_failed_share}; the rows and "
            f"their reasons are in {output / 'failed'}; mend the input and use another output, or raise max_failed_share and run again"
        )


def _failed_by_reason(commits: list[Commit]) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for commit in commits:
        reasons.update(commit.failed_by_reason)
    return dict(reasons)


def _write_manifest(output: Location, plan: BackfillPlan, commits: list[Commit]) -> Manifest:
    return write_manifest(
        output,
        "explanations",
        config=plan.config,
        inputs=plan.inputs,
        files={name: hash_ for commit in commits for name, hash_ in commit.files.items()},
        row_counts={"explanations": sum(commit.num_rows for commit in commits), "failed": sum(commit.num_failed for commit in commits)},
        metrics={"failed_by_reason": _failed_by_reason(commits), "num_chunks": len(commits)},
    )
