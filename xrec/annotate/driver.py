"""Runs the stages of an annotate run, each a bulk run, and publishes their texts.

The manifest of finished annotations contains the versions of the stages' tables, and counts.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce

import pyarrow as pa

from xrec.annotate.annotator import STAGES, AnnotatorSpec, Stage
from xrec.annotate.drift import Drift
from xrec.annotate.formats import (
    KEYS,
    KIND,
    begun_files,
    identify_annotations,
    stage_format,
)
from xrec.annotate.inputs import InputReader, stage_rows
from xrec.annotate.keep import listed
from xrec.annotate.language_model import language_model_spec
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.read import Versions, count_explained, read_item_texts
from xrec.annotate.report import write_report
from xrec.annotate.store import ReviewStore, StoreRecord, learn_from_store
from xrec.annotate.task import TextTask
from xrec.bulk import (
    BulkRun,
    ChunkTask,
    DriveOptions,
    RunRequest,
    added,
    carried_of,
    clean_keys,
    complete,
    costs_in_errors,
    open_run,
    spent_of,
    use_of,
)
from xrec.config import AnnotateConfig, PhrasesAnnotator, settings_of_texts
from xrec.progress import counter
from xrec.storage import (
    Manifest,
    find_manifest,
    fingerprint_of,
    location_of,
    open_location,
    read_manifest,
    write_manifest,
)

logger = logging.getLogger("xrec")

_ROWS_PER_CHUNK = 256


def annotator_spec(
    config: AnnotateConfig, environment: Mapping[str, str] | None = None
) -> AnnotatorSpec:
    """Return the spec of the annotator that `annotator.kind` names.

    environment: environment variables, for the key of an endpoint; None if no text is written.
    """
    if isinstance(config.annotator, PhrasesAnnotator):
        return phrases_spec(config.annotator, config.vocabulary)
    return language_model_spec(config, environment)


def run_annotate(
    config: AnnotateConfig, spec: AnnotatorSpec, record: StoreRecord
) -> Manifest | None:
    """Write the missing texts of all stages; return the manifest, or None if the limit was reached.

    record: the record of the kept reviews (`keep_source`). Ray must be initialized.

    Raises LeaseError if another driver is running, DataError if too many texts of a stage failed,
    BudgetError if the budget is used up, ConfigError for an unknown reason in `retry_failed`,
    ArtifactNotFoundError if `carry_from` has no annotations, and any XRecError of the annotator.
    Finished texts are kept, and the next call continues from there.
    """
    if config.carry_from is not None:
        read_manifest(open_location(config.carry_from, config.storage), KIND)
    run, output = _Run(config, spec, record), location_of(config, KIND)
    learn_from_store(output, spec, record)
    for stage in STAGES:
        if (manifest := run.complete(stage)) is None:
            return None
        run.done[stage] = manifest
    return run.publish()


@dataclass
class _Run:
    """The stages of a run; `done` contains the manifests of those that are published."""

    config: AnnotateConfig
    spec: AnnotatorSpec
    record: StoreRecord
    done: dict[Stage, Manifest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._since = time.monotonic()
        self._output = location_of(self.config, KIND)
        self._files = begun_files(self._output)
        checked = stage_format("pairs", self.spec.reasons)  # a wrong reason fails before any work
        self._retry = checked.check_reasons(self.config.retry_failed or ())

    @property
    def versions(self) -> Versions:
        versions = {stage: each.version for stage, each in self.done.items()}
        return {stage: version for stage, version in versions.items() if version is not None}

    def complete(self, stage: Stage) -> Manifest | None:
        """Write and publish the texts of a stage; return None if the limit is reached."""
        from xrec.processes import RayPool, gpus_each  # other commands do not need Ray

        config, num_gpus = self.config, self.spec.gpus_per_actor
        num_done = sum(sum(manifest.row_counts.values()) for manifest in self.done.values())
        left = None if config.limit is None else config.limit - num_done
        if left is not None and left <= 0:
            return None
        run = self._open(stage, left)
        logger.info("%s: %d in %d chunks", stage, run.record.num_rows, run.record.size.num_chunks)
        num_actors = min(config.actors.num_processes, self.spec.max_actors or sys.maxsize)
        pool = RayPool(
            max_actors=num_actors,
            min_actors=config.actors.min_processes,
            cpus=config.actors.cpus,
            gpus=gpus_each(config.actors.device, num_actors, num_gpus) if num_gpus else 0,
        )
        before = [manifest.metrics["costs"] for manifest in self.done.values()]
        with (
            costs_in_errors(run, *before),
            counter(f"{stage} written", run.record.num_rows) as show,
        ):
            manifest = complete(
                run,
                pool,
                self._task(stage, sum(work.is_done for work in run.passes())),
                KIND,
                lambda summary: (
                    {"ok": "num_ok", "failed": "num_failed"},
                    {"failed_by_reason": dict(summary.failed), **carried_of(summary.costs)},
                ),
                DriveOptions(
                    chunks_at_once=self.spec.chunks_at_once,
                    retry=self._retry,
                    max_failed_share=config.max_failed_share,
                    max_rows=left,
                    spent=spent_of(config.budget, config.prices, self._since, *before),
                    on_progress=lambda progress: show(progress.num_rows),
                ),
            )
        if config.carry_from and manifest is not None:
            again, num_carried = manifest.metrics["written_again"], manifest.metrics["num_carried"]
            logger.info("%s: %d carried over; written: %s", stage, num_carried, listed(again))
        return manifest

    def _open(self, stage: Stage, limit: int | None) -> BulkRun:
        """Plan a stage, or open it if it is already planned."""
        config, uri = self.config, self._output.uri
        store = ReviewStore(self._output, self.record.num_files)

        def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
            for rows in stage_rows(store, stage):
                yield clean_keys(rows, KEYS[stage], file=uri, first_line=1)

        carry_from = config.carry_from and f"{config.carry_from.rstrip('/')}/{stage}"
        return open_run(
            RunRequest(
                (self._output / stage).uri,
                identify_annotations(config, self.spec, self._files, stage),
                stage_format(stage, self.spec.reasons),
                batches,
                rows_per_chunk=config.rows_per_chunk or _ROWS_PER_CHUNK,
                limit=limit,
                carry_from=carry_from,
                storage=config.storage,
            )
        )

    def _task(self, stage: Stage, attempt: int) -> Callable[[], ChunkTask]:
        """Return a factory of tasks for actors, in which relative paths mean something else.

        attempt: the number of passes that are done.
        """
        spec, storage, num_files = self.spec, self.config.storage, self.record.num_files
        uri, items_version = self._output.uri, self.versions.get("items", -1)
        identity = identify_annotations(self.config, spec, self._files, stage)
        settings, carry_from = settings_of_texts(identity.config), self.config.carry_from
        carry_from = carry_from and open_location(carry_from, storage).uri

        def make() -> TextTask:
            folder = open_location(uri, storage)
            learned = [spec.learned(folder)] if spec.learned else []
            items = None if stage == "items" else read_item_texts(folder, items_version, storage)
            store, drift = ReviewStore(folder, num_files), None
            if carry_from and spec.drift and stage != "pairs":
                drift = Drift.since(carry_from, spec.drift, store, storage)
            reader = InputReader(store, items)
            return TextTask(
                partial(reader.of, stage),
                spec.make(folder, attempt),
                stage_format(stage, spec.reasons),
                fingerprint_of([settings, dict(spec.inputs), *learned]),
                spec.folds,
                drift,
            )

        return make

    def publish(self) -> Manifest:
        """Write the report and the manifest, unless these tables already have them."""
        config, versions, record = self.config, self.versions, self.record
        earlier = find_manifest(self._output, KIND)
        if earlier is not None and earlier.metrics.get("tables") == versions:
            return earlier
        failed = {stage: each.metrics["failed_by_reason"] for stage, each in self.done.items()}
        costs = reduce(added, (each.metrics["costs"] for each in self.done.values()))
        identity = identify_annotations(config, self.spec, self._files)
        return write_manifest(
            self._output,
            KIND,
            config=identity.config,
            inputs=identity.inputs,
            files={},
            content={str(stage): each.fingerprint for stage, each in self.done.items()},
            row_counts={
                "reviews": sum(record.num_reviews.values()),
                **{str(stage): each.row_counts["ok"] for stage, each in self.done.items()},
                "explanations": count_explained(self._output, versions["pairs"], config.storage),
            },
            metrics={
                "tables": versions,
                **record.model_dump(),
                "failed": failed,
                "carried": {
                    stage: each.metrics["num_carried"] for stage, each in self.done.items()
                },
                "written_again": {
                    stage: each.metrics["written_again"] for stage, each in self.done.items()
                },
                "costs": costs,
                **use_of(costs, config.prices),
                **write_report(config, record, versions, failed),
            },
        )
