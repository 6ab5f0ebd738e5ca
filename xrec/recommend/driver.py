"""Plans and drives a recommend run, and publishes its table."""

import functools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import ray

from xrec.bulk import (
    BulkRun,
    Identity,
    RunRequest,
    Summary,
    Survey,
    clean_keys,
    complete,
    open_run,
    publish,
)
from xrec.bulk.driver import has_work
from xrec.bulk.work.pool import RayPool
from xrec.config.backfill import RecommendConfig
from xrec.data.cold_start import read_cold_start
from xrec.errors import ClusterError, ConfigError
from xrec.graph.artifact import check_graph_of_dataset
from xrec.progress import counter
from xrec.recommend.task import FULL, ROWS, RankingTables, load_task
from xrec.storage import Kind, Manifest, manifest_of

KIND: Kind = "recommendations"
_LOST = ROWS.error_reason
"""Why users failed with whom processes died; the next start tries them again."""


def identify_recommendations(config: RecommendConfig) -> Identity:
    """The run that `config` asks for; reads manifests and the tables of a cold start.

    Raises ArtifactNotFoundError without dataset or graph, ArtifactMismatchError if the graph is of
    another dataset, ConfigError if k is more than there are items or user_ids is empty.
    """
    dataset, graph = manifest_of(config, "dataset"), manifest_of(config, "graph")
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    num_items = graph.row_counts["items"]
    if config.k > num_items:
        raise ConfigError(f"k = {config.k}, but the dataset has {num_items} items; lower k")
    if config.user_ids is not None and not config.user_ids:
        raise ConfigError("user_ids is an empty list; name users, or leave it out for all")
    user_ids = None if config.user_ids is None else sorted(set(config.user_ids))
    inputs = {"dataset": dataset.fingerprint, "graph": graph.fingerprint}
    if config.cold_start is not None:
        inputs["cold_start"] = read_cold_start(config.cold_start, config.storage).fingerprint
    return Identity(kind=KIND, config={"k": config.k, "user_ids": user_ids}, inputs=inputs)


def plan_recommendations(config: RecommendConfig, tables: RankingTables) -> BulkRun:
    """Plan the run that `config` asks for, or open it if it was planned before.

    Raises TableError if the output holds other files, those of an older xrec for instance; and what
    `identify_recommendations` raises.
    """
    return open_run(
        RunRequest(
            config.artifact(KIND),
            identify_recommendations(config),
            ROWS,
            lambda: [_users(config, tables)],  # they follow from the identity
            rows_per_chunk=config.users_per_task,
            storage=config.storage,
        )
    )


def _users(config: RecommendConfig, tables: RankingTables) -> tuple[pa.Table, pa.Table]:
    """The users to rank for, and rejected ones: ids that are no text."""
    ids = tables.user_ids if config.user_ids is None else pa.array(config.user_ids, pa.string())
    table = pa.table({"user_id": ids})
    return clean_keys(table, ROWS.keys, file=config.artifact("dataset"), first_line=1)


def run_recommend(config: RecommendConfig, run: BulkRun, tables: RankingTables) -> Manifest:
    """Rank the users that are left, publish the table, and return its manifest.

    Ray must be initialised. Raises LeaseError if another driver is at work, ClusterError if
    processes died with users, and what `publish` raises. What is done stays, and the next call goes
    on from there.
    """
    num_users, is_lost = run.record.num_rows, _LOST in Survey(run).summary.failed
    with counter("users ranked", num_users) as show:
        manifest = complete(
            run,
            RayPool(max_actors=max(1, int(ray.cluster_resources().get("CPU", 1)))),
            functools.partial(load_task, ray.put(tables), config.k),
            KIND,
            _describe,
            retry=(_LOST,) if is_lost else (),
            alongside=config.alongside,
            on_progress=lambda progress: show(progress.num_rows),
        )
    assert manifest is not None, "only a limit ends a run before it is done"
    return manifest


def publish_recommendations(run: BulkRun) -> Manifest | None:
    """Publish a run that is done, and return its manifest; None if users are left, or lost."""
    return None if has_work(run, retry=(_LOST,)) else publish(run, KIND, _describe)


def _describe(summary: Summary) -> tuple[Mapping[str, int], Mapping[str, Any]]:
    if num_lost := summary.failed.get(_LOST, 0):
        raise ClusterError(
            f"{num_lost} of {summary.num_rows} users are not ranked: {summary.num_deaths} "
            "processes died, which is often for lack of memory. Give the cluster more memory or "
            "fewer CPUs, and run the same command again, which does these users again"
        )
    counts = {
        "recommendations": summary.num_ok_rows,
        "users": summary.num_rows,
        "users_without_items": summary.num_failed,
    }
    return counts, {"users_with_fewer_than_k": summary.num_rows - round(summary.costs[FULL])}
