"""The evaluation artifact: metrics as JSON and Parquet, scored pairs, report, and manifest."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from xrec.evaluate.bootstrap import Estimate
from xrec.evaluate.metrics import METRICS, flat_metrics, metrics_table
from xrec.evaluate.report import Lineage, render_report
from xrec.evaluate.scores import (
    SCORED_PAIRS,
    Coverage,
    ScoredPair,
    scored_pairs_from_table,
    scored_pairs_table,
)
from xrec.storage import (
    Location,
    Manifest,
    read_manifest,
    read_table,
    write_contents,
    write_manifest,
    write_table,
)

REPORT = "report.html"

# In the manifest's row counts: held-out pairs that the backfill explained, and that failed there.
_EXPLAINED, _FAILED = "explained_in_backfill", "failed_in_backfill:"


def write_evaluation(
    location: Location,
    pairs: Sequence[ScoredPair],
    metrics: Mapping[str, Estimate],
    *,
    coverage: Coverage,
    lineage: Lineage,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    num_examples: int,
) -> Manifest:
    """Write the artifact to `location` and return its manifest, which holds the metrics too.

    `config` and `inputs` are the manifest's: the settings that the content depends on (plain JSON
    values), and the fingerprints of what was evaluated. Equal arguments give equal files.
    """
    flat = flat_metrics(metrics)
    texts = {
        "metrics.json": json.dumps(flat, indent=2, allow_nan=False) + "\n",
        REPORT: render_report(
            pairs,
            metrics,
            coverage=coverage,
            lineage=lineage,
            config=config,
            num_examples=num_examples,
        ),
    }
    files = {
        "metrics.parquet": write_table(
            location / "metrics.parquet", metrics_table(metrics), METRICS
        ),
        "pairs.parquet": write_table(
            location / "pairs.parquet", scored_pairs_table(pairs), SCORED_PAIRS
        ),
    }
    files |= write_contents(location, texts)
    row_counts = {
        "pairs": len(pairs),
        "metrics": len(metrics),
        _EXPLAINED: coverage.num_explained,
        **{_FAILED + reason: count for reason, count in sorted(coverage.failed.items())},
    }
    return write_manifest(
        location,
        "evaluation",
        config=config,
        inputs=inputs,
        files=files,
        row_counts=row_counts,
        metrics=flat,
    )


def read_evaluation(location: Location) -> tuple[list[ScoredPair], dict[str, Estimate]]:
    """The scored pairs and the metrics of a finished evaluation; raises ArtifactNotFoundError."""
    read_manifest(location, "evaluation")
    rows = read_table(location / "metrics.parquet", METRICS).to_pylist()
    metrics = {row["metric"]: Estimate(row["value"], row["low"], row["high"]) for row in rows}
    return scored_pairs_from_table(read_table(location / "pairs.parquet", SCORED_PAIRS)), metrics


def read_coverage(location: Location) -> Coverage:
    """How many held-out pairs had a text to score; raises ArtifactNotFoundError."""
    counts = read_manifest(location, "evaluation").row_counts
    failed = {
        name.removeprefix(_FAILED): count
        for name, count in counts.items()
        if name.startswith(_FAILED)
    }
    return Coverage(counts.get(_EXPLAINED, counts["pairs"]), failed)
