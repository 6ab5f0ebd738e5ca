"""The driver of a recommend job: it sends ranges of users through a pool of Ray actors."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from xrec.actor_pool import map_on_actors
from xrec.config.backfill import RecommendConfig
from xrec.errors import ConfigError
from xrec.progress import progress
from xrec.recommend.plan import RecommendPlan, begin
from xrec.recommend.tables import RankingTables
from xrec.recommend.worker import RangeWorker, WorkerSettings
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import Location, Manifest, location_of, read_manifest, read_table, write_manifest

logger = logging.getLogger("xrec")


def run_recommend(config: RecommendConfig, plan: RecommendPlan, tables: RankingTables) -> Manifest:
    """Rank the users of `tables`, write the artifact, and return its manifest.

    Parts of an interrupted run are kept. Ray must be initialised. Raises what `begin` raises.
    """
    if plan.done is not None:
        return plan.done
    output = location_of(config, "recommendations")
    begin(output, plan)
    num_parts = math.ceil(len(tables.order) / config.users_per_task)
    logger.info("%d users in %d parts, %d items of each", len(tables.order), num_parts, config.k)
    settings = WorkerSettings(
        tables=ray.put(tables),
        output=output.shared_uri,
        storage=config.storage,
        k=config.k,
        users_per_task=config.users_per_task,
    )
    made = map_on_actors(
        RangeWorker,
        settings,
        [{"part": part} for part in range(num_parts)],
        min_actors=1,
        max_actors=max(1, min(num_parts, int(ray.cluster_resources().get("CPU", 1)))),
        cpus_per_actor=1,
    )
    parts = sorted(progress(made, "parts written", num_parts), key=lambda part: int(part["part"]))
    return _write_manifest(output, plan, parts, num_users=len(tables.order))


def read_recommendations(location: Location, k: int | None = None) -> pa.Table:
    """The tables of `recommendation_batches` as one."""
    return pa.concat_tables(recommendation_batches(location, k))


def recommendation_batches(location: Location, k: int | None = None) -> Iterator[pa.Table]:
    """Yield the first k items of each user, or all if k is null, one part of the artifact at a
    time.

    The tables have the schema RECOMMENDATIONS, by user_id and rank. Raises ArtifactNotFoundError if
    the run is not finished, ConfigError if k is more than the run recommended.
    """
    manifest = read_manifest(location, "recommendations")
    there = manifest.config["k"]
    if k is not None and k > there:
        raise ConfigError(
            f"k = {k}, but {location} holds {there} items a user; lower k, or recommend again "
            "with a larger one"
        )
    for name in sorted(manifest.files):
        table = read_table(location / name, RECOMMENDATIONS)
        yield table if k is None else table.filter(pc.less_equal(table["rank"], k))


def _write_manifest(
    output: Location, plan: RecommendPlan, parts: list[dict[str, Any]], *, num_users: int
) -> Manifest:
    num_rows = sum(int(part["num_rows"]) for part in parts)
    return write_manifest(
        output,
        "recommendations",
        config=plan.config,
        inputs=plan.inputs,
        files={part["file"]: part["hash"] for part in parts},
        row_counts={"recommendations": num_rows, "users": num_users},
        metrics={
            "users_with_fewer_than_k": num_users
            - sum(int(part["num_full_users"]) for part in parts)
        },
    )
