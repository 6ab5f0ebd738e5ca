"""Plans and drives a recommend run, and publishes its artifact."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import ray

from xrec.bulk import (
    ActorPool,
    BulkRun,
    RunState,
    clean_keys,
    drive,
    open_run,
    publish,
    tells_what_is_done,
    this_process,
)
from xrec.bulk.row_format import OK
from xrec.config.backfill import RecommendConfig
from xrec.errors import ClusterError
from xrec.progress import counter
from xrec.recommend.identity import KIND, identify_recommendations
from xrec.recommend.tables import RankingTables
from xrec.recommend.task import ROWS, load_task
from xrec.storage import Manifest, storage_errors

logger = logging.getLogger("xrec")

_LOST = ROWS.error_reason


def plan_recommendations(config: RecommendConfig, tables: RankingTables) -> BulkRun:
    """Plan the run that `config` asks for, or open it if it was planned before.

    Raises ArtifactMismatchError, which names what differs, if the output belongs to another run;
    TableError if it holds other files, those of an older xrec for instance; and what
    `identify_recommendations` raises.
    """
    return open_run(
        config.artifact(KIND),
        identify_recommendations(config),
        ROWS,
        lambda: [_users(config, tables)],
        listing={},  # what the users are follows from the identity
        rows_per_chunk=config.users_per_task,
        storage=config.storage,
    )


def _users(config: RecommendConfig, tables: RankingTables) -> tuple[pa.Table, pa.Table]:
    """The users to rank for, and rejected ones: ids that are no text."""
    ids = tables.user_ids if config.user_ids is None else pa.array(config.user_ids, pa.string())
    table = pa.table({"user_id": ids})
    return clean_keys(table, ROWS.keys, file=config.artifact("dataset"), first_line=1)


def run_recommend(config: RecommendConfig, run: BulkRun, tables: RankingTables) -> Manifest:
    """Rank the users that are left, publish the table, and return its manifest.

    Ray must be initialised. Raises LeaseError if another driver is at work, LostTableError if one
    took the run over, ClusterError if processes died with users. What is committed stays, and the
    next call goes on from there.
    """
    num_users, num_chunks = run.plan.record.num_rows, run.plan.record.num_chunks
    logger.info("%d users in %d chunks, %d items of each", num_users, num_chunks, config.k)
    pool = ActorPool(
        run.worker_settings(functools.partial(load_task, ray.put(tables), config.k)),
        num_actors=max(1, int(ray.cluster_resources().get("CPU", 1))),
        cpus_per_actor=1,
    )
    with (
        tells_what_is_done(run, "users are ranked"),
        counter("users ranked", num_users) as show,
    ):
        state = drive(
            run,
            pool,
            holder=this_process(),
            retry=(_LOST,) if _num_lost(run) else (),
            take_over=config.take_over,
            on_commit=lambda state: show(state.num_rows),
        )
    if num_lost := state.failed.get(_LOST, 0):
        raise ClusterError(
            f"{num_lost} of {num_users} users are not ranked: {state.num_deaths} processes died, "
            "which is often for lack of memory. Give the cluster more memory or fewer CPUs, and "
            "run the same command again, which does these users again"
        )
    manifest = _publish(run)
    assert manifest is not None
    return manifest


def publish_recommendations(run: BulkRun) -> Manifest | None:
    """Write the manifest of a finished run and return it; None if users are left.

    They are left while users that were lost are tried again, too: what was finished before lacks
    them. Nothing is written if the manifest is there already.
    """
    state = run.state()
    if state is None or state.state != "finished" or _LOST in state.failed:
        return None
    return _publish(run)


def _publish(run: BulkRun) -> Manifest | None:
    return publish(run, KIND, functools.partial(_describe, run))


def _describe(
    run: BulkRun, version: int, state: RunState
) -> tuple[Mapping[str, int], Mapping[str, Any]]:
    k = run.plan.record.identity.config["k"]
    with storage_errors(run.table.location.uri):
        last_ranks = run.table.snapshot(version).dataset([("status", "=", OK), ("rank", "=", k)])
        num_full = last_ranks.count_rows()  # a user with an item of rank k has all k items
    counts = {
        "recommendations": state.num_ok_rows,
        "users": state.num_rows,
        "users_without_items": state.num_failed,
    }
    return counts, {"users_with_fewer_than_k": state.num_rows - num_full}


def _num_lost(run: BulkRun) -> int:
    """How many users could not be ranked; a later driver tries them again."""
    state = run.state()
    return state.failed.get(_LOST, 0) if state else 0
