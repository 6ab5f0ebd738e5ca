"""Plans a backfill, explains what is left on actors, and publishes the result."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final, TypedDict

from xrec.backfill.identity import identify, output_uri
from xrec.backfill.metrics import BackfillMetrics
from xrec.backfill.pairs import Batch, pair_batches, pairs_listing
from xrec.backfill.progress import ProgressLine
from xrec.backfill.report import REPORT, write_report
from xrec.backfill.task import EXPLANATIONS, LoadExplainer, explain_task, load_task_explainer
from xrec.bulk import (
    ActorPool,
    BulkRun,
    Identity,
    RowFormat,
    RunState,
    compact,
    drive,
    nothing_left,
    open_run,
    publish,
    published,
    read_state,
    release_older,
    vacuum,
)
from xrec.bulk.plan import PlanRecord, count_rows, read_record
from xrec.bulk.ray_actors import gpus_each
from xrec.config.backfill import BackfillConfig
from xrec.config.shared import StorageConfig
from xrec.errors import StorageNotFoundError
from xrec.storage import Manifest, open_location

logger = logging.getLogger("xrec")

KIND: Final = "explanations"


class RunArguments(TypedDict):
    """What `open_run` gets."""

    uri: str
    identity: Identity
    format: RowFormat
    batches: Callable[[], Iterator[Batch]]
    listing: dict[str, list[str]]
    rows_per_chunk: int
    carry_from: str | None
    storage: StorageConfig


def open_backfill(config: BackfillConfig) -> BulkRun:
    """Plan the run of `config`, or open the plan that is there; pairs are read only if need be.

    Raises ArtifactMismatchError, which names the fields that differ, if the output holds another
    run; what `identify`, `pair_batches` and `open_run` raise.
    """
    return open_run(**run_arguments(config, identify(config)))


def run_arguments(config: BackfillConfig, identity: Identity) -> RunArguments:
    """What `open_run` gets for the run of `config`, whose identity is given."""
    return {
        "uri": output_uri(config, identity.run),
        "identity": identity,
        "format": EXPLANATIONS,
        "batches": lambda: pair_batches(config),
        "listing": pairs_listing(config),
        "rows_per_chunk": config.rows_per_chunk,
        "carry_from": config.carry_from,
        "storage": config.storage,
    }


def pairs_were_written(arguments: RunArguments) -> bool:
    """True if the run is planned, and the files of its pairs are others than those of the plan."""
    record = _record(arguments)
    return record is not None and record.listing != arguments["listing"]


def pairs_difference(arguments: RunArguments) -> tuple[str, ...]:
    """A line that says so if the pairs are others than those of the plan; they are all read."""
    record = _record(arguments)
    counts = count_rows(
        arguments["batches"](),
        arguments["format"].key_schema,
        rows_per_chunk=arguments["rows_per_chunk"],
    )
    if record is None or record.rows_fingerprint == counts.rows_fingerprint:
        return ()
    return (f"pairs: {record.num_rows} there, {counts.num_rows} here, and not the same ones",)


def _record(arguments: RunArguments) -> PlanRecord | None:
    """The plan of this very run; None if there is none."""
    try:
        record = read_record(open_location(arguments["uri"], arguments["storage"]))
    except StorageNotFoundError:
        return None
    return record if record.identity.run == arguments["identity"].run else None


def has_work(config: BackfillConfig, run: BulkRun) -> bool:
    """True if pairs are left, within the limit if there is one, or failed ones that are retried.

    Raises DataError if the limit is reached and too many of the pairs within it failed.
    """
    state = nothing_left(run, config.limit, config.max_failed_share)
    if state is None:
        return True
    return any(reason in state.failed for reason in retry_reasons(config))


def retry_reasons(config: BackfillConfig) -> tuple[str, ...]:
    """The reasons of failed rows that are to be done again."""
    wanted = config.retry_failed or ()
    return EXPLANATIONS.all_reasons if "all" in wanted else wanted


def run_backfill(
    config: BackfillConfig, run: BulkRun, load: LoadExplainer = load_task_explainer
) -> Manifest | None:
    """Explain what is left of `run`, retry failed rows if the config says so, and publish.

    Returns what `finish` returns. Ray must be initialised. Raises what `drive` raises. What is
    committed stays then, and the next call goes on from there.
    """
    actors = config.actors
    pool = ActorPool(
        run.worker_settings(explain_task(config, run.plan.record.identity, load)),
        num_actors=actors.num_actors,
        cpus_per_actor=actors.cpus_per_actor,
        gpus_per_actor=gpus_each(
            actors.device, actors.num_actors, config.engine.tensor_parallel_size
        ),
    )
    num_pairs = run.plan.record.num_rows
    metrics = BackfillMetrics(num_pairs)
    try:
        with ProgressLine(num_pairs) as line:

            def on_commit(state: RunState) -> None:
                metrics.record(state)
                line.show(state)

            drive(
                run,
                pool,
                holder=_holder(),
                retry=retry_reasons(config),
                max_failed_share=config.max_failed_share,
                max_rows=config.limit,
                take_over=config.take_over,
                on_commit=on_commit,
            )
    except KeyboardInterrupt:
        _, state = read_state(run.table, run.table.newest_version())
        logger.warning(
            "stopped: %d of %d pairs are committed; run the same command again to go on with the "
            "others",
            state.num_rows if state else 0,
            num_pairs,
        )
        raise
    return finish(config, run)


def finish(config: BackfillConfig, run: BulkRun) -> Manifest | None:
    """Publish a finished run, do what `config.upkeep` says, and return the manifest.

    Returns None, and does nothing, if the limit ended the run before it was finished. Nothing is
    written either if all was done before. Raises LeaseError if another driver is at work.
    """
    manifest = _publish(config, run)
    if manifest is None:
        return None
    upkeep, holder = config.upkeep, _holder()
    if upkeep.compact and compact(
        run, holder=holder, target_bytes=round(upkeep.target_mib * 2**20)
    ):
        manifest = _publish(config, run) or manifest
    if upkeep.vacuum:
        retention = timedelta(hours=upkeep.retention_hours)
        release_older(run, manifest, retention)
        deleted = vacuum(
            run,
            holder=holder,
            retention=retention,
            log_retention=timedelta(hours=upkeep.log_retention_hours),
        )
        logger.info(
            "vacuum: %d files and %d versions deleted", deleted.num_files, deleted.num_versions
        )
    return manifest


def _publish(config: BackfillConfig, run: BulkRun) -> Manifest | None:
    """Let the manifest name the newest finished version, if there is one, and write its report."""
    before, manifest = published(run, KIND), publish_explanations(run)
    if manifest is None:
        return None
    assert manifest.version is not None
    if manifest != before or not (run.plan.output / REPORT).is_file():
        _, state = read_state(run.table, manifest.version)
        assert state is not None
        write_report(
            run.table,
            manifest.version,
            state,
            run.plan.record.num_rejected,
            config.price_per_actor_hour,
        )
    return manifest


def publish_explanations(run: BulkRun) -> Manifest | None:
    """Let the manifest name the newest finished version; None if the run was never finished.

    Nothing is written if it does so already.
    """

    def describe(version: int, state: RunState) -> tuple[dict[str, int], dict[str, Any]]:
        record = run.plan.record
        row_counts = {
            "explanations": state.num_ok,
            "failed": state.num_failed,
            "rejected": record.num_rejected,
        }
        metrics = {
            "num_chunks": record.num_chunks,
            "num_buckets": record.num_buckets,
            "num_carried": int(state.costs.get("carried", 0)),
            "num_retries": state.retry,
            "failed_by_reason": state.failed,
        }
        return row_counts, metrics

    return publish(run, KIND, describe)


def _holder() -> str:
    """Who this driver is, for messages."""
    return f"{socket.gethostname()}, process {os.getpid()}"
