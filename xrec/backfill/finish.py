"""What follows a run: it is published, and then come its report, a vacuum and an export."""

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from xrec.backfill.report import is_report_of, write_report
from xrec.bulk import BulkRun, Summary, Survey, export_run, publish, vacuum
from xrec.bulk.backoff import with_backoff
from xrec.bulk.driver import check_failed_share
from xrec.bulk.publish import Describe
from xrec.config.backfill import BackfillConfig
from xrec.config.export import ExportConfig
from xrec.storage import Manifest

logger = logging.getLogger("xrec")

KIND: Final = "explanations"


def finish(config: BackfillConfig, run: BulkRun) -> Manifest | None:
    """Publish a run that is done, and do what follows; None, and nothing, if pairs are left.

    Nothing is written if all was done before. Raises what `publish` and `export_run` raise, and
    DataError if too many pairs failed.
    """
    check_failed_share(run, Survey(run).summary, config.max_failed_share)
    manifest = publish(run, KIND, describe(run), republish=config.republish)
    return None if manifest is None else after_publishing(config, run, manifest)


def after_publishing(config: BackfillConfig, run: BulkRun, manifest: Manifest) -> Manifest:
    """Write the report of a version, do what `config.upkeep` says, and export it."""
    return with_backoff(lambda: _after_publishing(config, run, manifest))


def _after_publishing(config: BackfillConfig, run: BulkRun, manifest: Manifest) -> Manifest:
    uri = run.output.uri
    assert manifest.version is not None
    if not is_report_of(run.output, manifest):
        write_report(uri, config.price_per_actor_hour, config.storage)
    if config.upkeep.vacuum:
        retention = timedelta(hours=config.upkeep.retention_hours)
        logger.info("vacuum: %d files deleted", vacuum(uri, retention, config.storage))
    if config.export is not None:
        export = export_of(config.export, manifest.version)
        export_run(uri, export, version=manifest.version, storage=config.storage)
    return manifest


def export_of(export: ExportConfig, version: int) -> ExportConfig:
    """The export of a version: a folder of its own below the one that the config names."""
    return export.model_copy(update={"uri": f"{export.uri.rstrip('/')}/version-{version}"})


def describe(run: BulkRun) -> Describe:
    """What makes the manifest's row counts and metrics of a run's counts."""

    def of(summary: Summary) -> tuple[Mapping[str, int], Mapping[str, Any]]:
        row_counts = {
            "explanations": summary.num_ok,
            "failed": summary.num_failed,
            "rejected": run.record.num_rejected,
        }
        return row_counts, {
            "num_chunks": run.record.size.num_chunks,
            "num_carried": round(summary.costs.get("carried", 0)),
            "num_retries": len(run.passes()) - 1,
            "num_deaths": summary.num_deaths,
            "failed_by_reason": dict(summary.failed),
        }

    return of
