"""Runs the stages of an annotate run, each a bulk run, and publishes their texts.

The manifest of finished annotations has the versions of the stages' tables, and counts.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from xrec.annotate.annotator import STAGES, AnnotatorSpec, Stage
from xrec.annotate.formats import KIND, begun_files, identify_annotations, stage_format
from xrec.annotate.language_model import language_model_spec
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.plan import plan_stage
from xrec.annotate.read import Versions, count_explained
from xrec.annotate.report import write_report
from xrec.annotate.store import StoreRecord, learn_from_store
from xrec.bulk import (
    BulkRun,
    ChunkTask,
    DriveOptions,
    Spent,
    Summary,
    added,
    complete,
    costs_in_errors,
    spent_of,
    use_of,
)
from xrec.config import AnnotateConfig, PhrasesAnnotator
from xrec.errors import ArtifactNotFoundError, ConfigError
from xrec.progress import counter
from xrec.storage import (
    RUN_RECORD,
    Manifest,
    find_manifest,
    location_of,
    open_location,
    write_manifest,
)

logger = logging.getLogger("xrec")

Stages = Mapping[Stage, Manifest]
"""The manifest of each finished stage."""
_WHAT: Mapping[Stage, str] = {
    "items": "profiles of items",
    "users": "profiles of users",
    "pairs": "explanations",
}


def annotator_spec(
    config: AnnotateConfig, environment: Mapping[str, str] | None = None
) -> AnnotatorSpec:
    """Return the spec of the annotator that `annotator.kind` names.

    environment: holds the key of an endpoint; None if nothing will be written.
    """
    if isinstance(config.annotator, PhrasesAnnotator):
        return phrases_spec(config.annotator, config.vocabulary)
    return language_model_spec(config, environment)


def run_annotate(
    config: AnnotateConfig, spec: AnnotatorSpec, record: StoreRecord
) -> Manifest | None:
    """Write the missing texts of all stages; return the manifest, or None if the limit was reached.

    record: of the kept reviews (`keep_source`). Ray must be initialized.

    Raises LeaseError if another driver is running, DataError if too many texts of a stage failed,
    BudgetError, ConfigError for an unknown reason to retry, ArtifactNotFoundError if there are no
    annotations to carry from, and an annotator's XRecError. Finished texts are kept, and the next
    call continues from there.
    """
    since = time.monotonic()
    _check_reasons(config, spec)
    _check_carried(config)
    output = location_of(config, KIND)
    files = begun_files(output)
    learn_from_store(output, spec, record)
    if spec.replies is not None and config.retry_failed:
        spec.replies(output).forget_failures()
    done: dict[Stage, Manifest] = {}
    for stage in STAGES:
        num_done = sum(sum(manifest.row_counts.values()) for manifest in done.values())
        left = None if config.limit is None else config.limit - num_done
        if left is not None and left <= 0:
            return None
        items_version = _versions(done).get("items", -1)
        run, make = plan_stage(config, spec, record, files, stage, items_version, left)
        before = [manifest.metrics["costs"] for manifest in done.values()]
        spent = spent_of(config.budget, config.prices, since, *before)
        with costs_in_errors(run, *before):
            manifest = _complete_stage(config, spec, stage, run, make, left, spent)
        if manifest is None:
            return None
        done[stage] = manifest
    manifest = _publish(config, spec, files, record, done)
    if spec.replies is not None:
        spec.replies(output).delete()
    return manifest


def _complete_stage(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    stage: Stage,
    run: BulkRun,
    make: Callable[[], ChunkTask],
    max_rows: int | None,
    spent: Spent,
) -> Manifest | None:
    from xrec.bulk import RayPool, gpus_each  # other commands need no Ray

    num_rows, wanted_actors = run.record.num_rows, config.actors.num_processes
    num_actors = min(wanted_actors, spec.max_actors or wanted_actors)
    logger.info("%s: %d in %d chunks", _WHAT[stage], num_rows, run.record.size.num_chunks)
    wanted, known = config.retry_failed or (), run.format.all_reasons
    num_gpus = spec.gpus_per_actor
    pool = RayPool(
        max_actors=num_actors,
        min_actors=config.actors.min_processes,
        cpus=config.actors.cpus,
        gpus=gpus_each(config.actors.device, num_actors, num_gpus) if num_gpus else 0,
    )
    with counter(f"{_WHAT[stage]} written", num_rows) as show:
        return complete(
            run,
            pool,
            make,
            KIND,
            _describe_stage,
            DriveOptions(
                chunks_at_once=spec.chunks_at_once,
                retry=known if "all" in wanted else tuple(each for each in wanted if each in known),
                max_failed_share=config.max_failed_share,
                max_rows=max_rows,
                spent=spent,
                on_progress=lambda progress: show(progress.num_rows),
            ),
        )


def _check_carried(config: AnnotateConfig) -> None:
    """Raise ArtifactNotFoundError if there are no annotations to carry from."""
    if config.carry_from is None:
        return
    if not (open_location(config.carry_from, config.storage) / RUN_RECORD).is_file():
        raise ArtifactNotFoundError(
            f"carry_from: {config.carry_from} has no annotations ({RUN_RECORD} is missing); check "
            "the URI",
            code="no_annotations",
            key="carry_from",
            saw=config.carry_from,
        )


def _check_reasons(config: AnnotateConfig, spec: AnnotatorSpec) -> None:
    known = dict.fromkeys(
        reason for stage in STAGES for reason in stage_format(stage, spec.reasons).all_reasons
    )
    unknown = [each for each in config.retry_failed or () if each not in (*known, "all")]
    if unknown:
        raise ConfigError(
            f"retry_failed has unknown reasons {', '.join(unknown)}; expected all, or some of "
            f"{', '.join(known)}",
            code="unknown_reason",
            key="retry_failed",
            saw=tuple(unknown),
        )


def _describe_stage(summary: Summary) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Return the row counts and metrics of the manifest of a stage's table."""
    counts = {"ok": "num_ok", "failed": "num_failed"}
    return counts, {"failed_by_reason": dict(summary.failed)}


def _versions(stages: Stages) -> Versions:
    return {stage: each.version for stage, each in stages.items() if each.version is not None}


def _publish(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    files: Mapping[str, str],
    record: StoreRecord,
    stages: Stages,
) -> Manifest:
    """Write the report and the manifest, unless they exist for these tables."""
    output, versions = location_of(config, KIND), _versions(stages)
    there = find_manifest(output, KIND)
    if there is not None and there.metrics.get("tables") == versions:
        return there
    failed = {str(stage): each.metrics["failed_by_reason"] for stage, each in stages.items()}
    costs = reduce(added, (each.metrics["costs"] for each in stages.values()))
    identity = identify_annotations(config, spec, files)
    return write_manifest(
        output,
        KIND,
        config=identity.config,
        inputs=identity.inputs,
        files={},
        content={str(stage): each.fingerprint for stage, each in stages.items()},
        row_counts={
            "reviews": sum(record.num_reviews.values()),
            **{str(stage): each.row_counts["ok"] for stage, each in stages.items()},
            "explanations": count_explained(output, versions["pairs"], config.storage),
        },
        metrics={
            "tables": versions,
            **record.model_dump(),
            "failed": failed,
            "costs": costs,
            **use_of(costs, config.prices),
            **write_report(config, record, versions, failed),
        },
    )
