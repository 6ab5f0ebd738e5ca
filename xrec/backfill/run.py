"""The driver of a backfill: the chunks that are left go through Ray Data's actor pool, the manifest comes last."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray

from xrec.actor_pool import map_on_actors
from xrec.backfill.commit import Commit, committed_chunks, read_commits
from xrec.backfill.plan import BackfillPlan, sources_of
from xrec.backfill.worker import ChunkWorker, WorkerSettings
from xrec.config import BackfillConfig
from xrec.errors import DataError
from xrec.progress import progress
from xrec.schemas import GENERATED
from xrec.storage import Location, Manifest, open_location, read_manifest, read_table, write_manifest

logger = logging.getLogger("xrec")


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
    actors = config.actors
    settings = WorkerSettings(
        sources=sources_of(config),
        output=output.shared_uri,
        decoding=config.decoding,
        device=actors.device,
        engine=config.engine,
        num_threads=actors.cpus_per_actor,
    )
    num_actors = min(actors.num_actors, len(chunks))
    return map_on_actors(
        ChunkWorker,
        settings,
        [{"chunk": chunk} for chunk in chunks],
        min_actors=num_actors,
        max_actors=num_actors,
        cpus_per_actor=actors.cpus_per_actor,
        gpus_per_actor=config.engine.tensor_parallel_size if _uses_gpu(config) else 0,
    )


def _uses_gpu(config: BackfillConfig) -> bool:
    num_gpus = config.actors.num_actors * config.engine.tensor_parallel_size
    return config.actors.device == "cuda" or (config.actors.device == "auto" and ray.cluster_resources().get("GPU", 0) >= num_gpus)


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
