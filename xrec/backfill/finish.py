"""What follows a run: manifest and report of its version, compaction, vacuum, and an export."""

import logging
from datetime import timedelta
from typing import Any, Final

from xrec.backfill.report import is_report_of, write_report
from xrec.bulk import (
    BulkRun,
    RunState,
    compact,
    export_run,
    publish,
    published,
    read_state,
    release_older,
    this_process,
    vacuum,
)
from xrec.config.backfill import BackfillConfig
from xrec.storage import Manifest

logger = logging.getLogger("xrec")

KIND: Final = "explanations"


def finish(config: BackfillConfig, run: BulkRun) -> Manifest | None:
    """Publish a finished run, do what `config.upkeep` says, export it, and return the manifest.

    Returns None, and does nothing, if the limit ended the run before it was finished. Nothing is
    written either if all was done before. Raises LeaseError if another driver is at work, and what
    `export_run` raises.
    """
    manifest = _publish(config, run)
    if manifest is None:
        return None
    upkeep = config.upkeep
    if upkeep.compact and compact(
        run, holder=this_process(), target_bytes=round(upkeep.target_mib * 2**20)
    ):
        manifest = _publish(config, run) or manifest
    if upkeep.vacuum:
        retention = timedelta(hours=upkeep.retention_hours)
        release_older(run, manifest, retention)
        deleted = vacuum(
            run,
            holder=this_process(),
            retention=retention,
            log_retention=timedelta(hours=upkeep.log_retention_hours),
        )
        logger.info(
            "vacuum: %d files and %d versions deleted", deleted.num_files, deleted.num_versions
        )
    if config.export is not None:
        uri = run.plan.output.uri
        export_run(uri, config.export, version=manifest.version, storage=config.storage)
    return manifest


def _publish(config: BackfillConfig, run: BulkRun) -> Manifest | None:
    """Let the manifest name the newest finished version, if there is one, and write its report."""
    before, manifest = published(run, KIND), publish_explanations(run)
    if manifest is None:
        return None
    assert manifest.version is not None
    if manifest != before or not is_report_of(run.plan.output, manifest.version):
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
