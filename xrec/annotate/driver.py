"""Goes through the stages of an annotate run, each a bulk run, and publishes what they wrote.

The manifest of finished annotations has the versions of the stages' tables, and counts.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.formats import MERGED, STAGES, Stage, stage_format
from xrec.annotate.identity import KIND, RECORD, begun_files, identify_annotations
from xrec.annotate.plan import plan_stage
from xrec.annotate.read import Versions, count_explained, count_names
from xrec.annotate.report import write_report
from xrec.annotate.store import StoreRecord
from xrec.annotate.vocabulary import merged_aspects, names_are_english
from xrec.bulk import BulkRun, ChunkTask, RayPool, Summary, added, complete
from xrec.bulk.work.ray_actors import gpus_each
from xrec.config.annotate import AnnotateConfig
from xrec.errors import ArtifactNotFoundError, ConfigError
from xrec.progress import counter
from xrec.storage import (
    Manifest,
    content_hash,
    location_of,
    open_location,
    read_manifest,
    write_manifest,
)

logger = logging.getLogger("xrec")

_WHAT: Mapping[Stage, str] = {
    "items": "profiles of items",
    "users": "profiles of users",
    "pairs": "explanations",
}


def run_annotate(
    config: AnnotateConfig, spec: AnnotatorSpec, record: StoreRecord
) -> Manifest | None:
    """Write what is left of all stages, and return the manifest; None if the limit ended the run.

    record: of the kept reviews (`keep_source`). Ray must be initialised.

    Raises LeaseError if another driver is at work, DataError if too many texts of a stage failed,
    ConfigError for a reason to retry that no stage has, ArtifactNotFoundError if there are no
    annotations to carry from, and an annotator's XRecError, such as a BudgetError. What is done
    stays, and the next call goes on from there.
    """
    _check_reasons(config, spec)
    _check_carried(config)
    return _Run(config, spec, record).go()


class _Run:
    def __init__(self, config: AnnotateConfig, spec: AnnotatorSpec, record: StoreRecord):
        self._config = config
        self._spec = spec
        self._record = record
        self._output = location_of(config, KIND)
        self._files = begun_files(self._output)
        self._done: dict[Stage, Manifest] = {}

    def go(self) -> Manifest | None:
        config, spec, files = self._config, self._spec, self._files
        if config.retry_failed:
            spec.forget_failures(self._output)
        for stage in STAGES:
            if config.limit is not None and self._num_rows >= config.limit:
                return None
            versions = versions_of(self._done)
            run, make = plan_stage(config, spec, self._record, files, stage, versions)
            manifest = self._complete(stage, run, make)
            if manifest is None:
                return None
            self._done[stage] = manifest
        manifest = publish_annotations(config, spec, files, self._record, self._done)
        spec.clean_up(self._output)
        return manifest

    @property
    def _num_rows(self) -> int:
        """How many rows the stages have that are done."""
        return sum(sum(each.row_counts.values()) for each in self._done.values())

    def _complete(
        self, stage: Stage, run: BulkRun, make: Callable[[], ChunkTask]
    ) -> Manifest | None:
        config, actors = self._config, self._config.actors
        num_rows = run.record.num_rows
        logger.info("%s: %d in %d chunks", _WHAT[stage], num_rows, run.record.size.num_chunks)
        num_actors = self._spec.num_actors(actors.num_actors)
        num_gpus = self._spec.gpus_per_actor
        pool = RayPool(
            max_actors=num_actors,
            min_actors=actors.min_actors,
            cpus=actors.cpus_per_actor,
            gpus=gpus_each(actors.device, num_actors, num_gpus) if num_gpus else 0,
        )
        with counter(f"{_WHAT[stage]} written", num_rows) as show:
            return complete(
                run,
                pool,
                make,
                KIND,
                describe_stage,
                chunks_at_once=self._spec.chunks_at_once,
                retry=_reasons(config, run.format.all_reasons),
                max_failed_share=config.max_failed_share,
                max_rows=None if config.limit is None else config.limit - self._num_rows,
                alongside=config.alongside,
                on_progress=lambda progress: show(progress.num_rows),
            )


def _check_carried(config: AnnotateConfig) -> None:
    """Raise ArtifactNotFoundError if annotations that were never begun are to be carried."""
    if config.carry_from is None:
        return
    if not (open_location(config.carry_from, config.storage) / RECORD).is_file():
        raise ArtifactNotFoundError(
            f"carry_from: {config.carry_from}: there are no annotations ({RECORD} is missing); "
            "check the URI"
        )


def _reasons(config: AnnotateConfig, of_stage: tuple[str, ...]) -> tuple[str, ...]:
    """The reasons that are to be retried, as far as the stage has them."""
    wanted = config.retry_failed or ()
    return of_stage if "all" in wanted else tuple(each for each in wanted if each in of_stage)


def _check_reasons(config: AnnotateConfig, spec: AnnotatorSpec) -> None:
    known = dict.fromkeys(
        reason for stage in STAGES for reason in stage_format(stage, spec.reasons).all_reasons
    )
    unknown = [each for each in config.retry_failed or () if each not in (*known, "all")]
    if unknown:
        raise ConfigError(
            f"retry_failed: {', '.join(unknown)}: expected all, or some of {', '.join(known)}"
        )


def describe_stage(summary: Summary) -> tuple[Mapping[str, int], Mapping[str, Any]]:
    """The row counts and metrics in the manifest of a stage's table."""
    counts = {"ok": summary.num_ok, "failed": summary.num_failed}
    return counts, {"failed_by_reason": dict(summary.failed)}


def versions_of(stages: Mapping[Stage, Manifest]) -> Versions:
    """The versions that these manifests are of."""
    return {stage: each.version for stage, each in stages.items() if each.version is not None}


def costs_of(stages: Mapping[Stage, Manifest]) -> Mapping[str, float]:
    """What the stages cost together."""
    costs: Mapping[str, float] = {}
    for each in stages.values():
        costs = added(costs, each.metrics["costs"])
    return costs


def publish_annotations(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    files: Mapping[str, str],
    record: StoreRecord,
    stages: Mapping[Stage, Manifest],
) -> Manifest:
    """Write merged aspects, report and manifest, unless they are there for these tables.

    stages: the manifests of the stages' tables. Returns the manifest.
    """
    output = location_of(config, "annotations")
    versions, costs = versions_of(stages), costs_of(stages)
    try:
        there = read_manifest(output, KIND)
    except ArtifactNotFoundError:
        there = None
    if there is not None and there.metrics.get("tables") == versions:
        return there
    is_english = names_are_english(spec.settings)
    names = count_names(output, versions["pairs"], config.storage)
    merged = merged_aspects(names, config.vocabulary, is_english=is_english)
    content = json.dumps(merged, ensure_ascii=False).encode()
    (output / MERGED).write_bytes(content)
    failed = {str(stage): each.metrics["failed_by_reason"] for stage, each in stages.items()}
    figures = write_report(config, record, versions, failed, is_english=is_english)
    identity = identify_annotations(config, spec, files)
    return write_manifest(
        output,
        KIND,
        config=identity.config,
        inputs=identity.inputs,
        files={MERGED: content_hash(content)},
        content={str(stage): each.fingerprint for stage, each in stages.items()},
        row_counts={
            "reviews": sum(record.num_reviews.values()),
            **{str(stage): each.row_counts["ok"] for stage, each in stages.items()},
            "explanations": count_explained(output, versions["pairs"], config.storage),
        },
        metrics={
            "tables": versions,
            "num_files": record.num_files,
            "num_reviews": record.num_reviews,
            "num_low_rated": record.num_low_rated,
            "dropped": record.dropped,
            "rejected": record.rejected,
            "personal_removed": record.personal,
            "failed": failed,
            "costs": costs,
            **figures,
        },
    )
