"""The manifest of finished annotations: versions of the stages' tables, counts, and a report."""

import json
from collections.abc import Mapping
from typing import Any

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.formats import MERGED, Stage
from xrec.annotate.identity import KIND, identify_annotations
from xrec.annotate.normalize import names_are_english
from xrec.annotate.report import write_report
from xrec.annotate.store import StoreRecord
from xrec.annotate.tables import Versions, count_explained, count_names
from xrec.annotate.vocabulary import merged_aspects
from xrec.bulk import Summary, added
from xrec.config.annotate import AnnotateConfig
from xrec.errors import ArtifactNotFoundError
from xrec.storage import Manifest, content_hash, location_of, read_manifest, write_manifest


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
