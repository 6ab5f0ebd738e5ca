"""The manifest of finished annotations: versions of the stages' tables, counts, and a report."""

import functools
from collections.abc import Mapping

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.formats import Stage
from xrec.annotate.identity import KIND, identify_annotations
from xrec.annotate.normalize import names_are_english
from xrec.annotate.report import write_report
from xrec.annotate.store import StoreRecord
from xrec.annotate.tables import count_explained
from xrec.bulk import BulkRun
from xrec.bulk.publish import PIN
from xrec.bulk.state import added
from xrec.config.annotate import AnnotateConfig
from xrec.errors import ArtifactNotFoundError
from xrec.storage import Manifest, fingerprint_of, location_of, read_manifest, write_manifest

_COUNTED: Mapping[Stage, str] = {
    "items": "items",
    "users": "users",
    "pairs": "pairs",
    "aspects": "aspect_names",
}


def publish_annotations(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    files: Mapping[str, str],
    record: StoreRecord,
    runs: Mapping[Stage, BulkRun],
    versions: Mapping[Stage, int],
) -> Manifest:
    """Write report and manifest, unless they are there for these versions; returns the manifest."""
    output = location_of(config, "annotations")
    tables = {str(stage): version for stage, version in versions.items()}
    try:
        there = read_manifest(output, KIND)
    except ArtifactNotFoundError:
        there = None
    if there is not None and there.metrics.get("tables") == tables:
        return there
    for stage, run in runs.items():
        run.table.pin(f"{PIN}{versions[stage]}", versions[stage])
    states = {stage: state for stage, run in runs.items() if (state := run.state()) is not None}
    costs: Mapping[str, float] = functools.reduce(added, (each.costs for each in states.values()))
    failed = {str(stage): dict(state.failed) for stage, state in states.items()}
    own = spec.figures(costs)
    figures = write_report(
        config, record, runs, versions, failed, own, is_english=names_are_english(spec.settings)
    )
    identity = identify_annotations(config, spec, files)
    return write_manifest(
        output,
        KIND,
        config=identity.config,
        inputs=identity.inputs,
        content={str(stage): _content(run, versions[stage]) for stage, run in runs.items()},
        row_counts={
            "reviews": sum(record.num_reviews.values()),
            **{_COUNTED[stage]: state.num_ok for stage, state in states.items()},
            "explanations": count_explained(output, versions["pairs"], config.storage),
        },
        metrics={
            "tables": tables,
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


def _content(run: BulkRun, version: int) -> str:
    """A fingerprint of what a version holds; each file has a name of its own."""
    return fingerprint_of(sorted(run.table.snapshot(version).files()["path"].to_pylist()))
