import json

from xrec.evaluate import (
    METRICS,
    SCORED_PAIRS,
    Coverage,
    compute_metrics,
    flat_metrics,
    read_coverage,
    write_evaluation,
)
from xrec.storage import Location, Manifest, content_hash, open_location, read_table

COVERAGE = Coverage(200, {"no_full_sentence": 2, "names_another_item": 5})
INPUTS = {"adapter": "0123", "explanations": "4567"}


def _write(location: Location, pairs, config, lineage) -> Manifest:
    settings = config.model_dump(mode="json")
    return write_evaluation(
        location,
        pairs,
        compute_metrics(pairs, config),
        coverage=COVERAGE,
        lineage=lineage,
        config=settings,
        inputs=INPUTS,
        num_examples=5,
    )


def test_evaluation_holds_metrics_pairs_report_and_a_manifest_of_their_hashes(
    tmp_path, pairs, make_evaluate_config, lineage
):
    location, config = open_location(str(tmp_path)), make_evaluate_config()
    manifest = _write(location, pairs, config, lineage)
    assert location.files() == [
        "manifest.json",
        "metrics.json",
        "metrics.parquet",
        "pairs.parquet",
        "report.html",
    ]
    assert manifest.files == {
        name: content_hash((tmp_path / name).read_bytes())
        for name in location.files()
        if name != "manifest.json"
    }
    assert (
        read_table(location / "metrics.parquet", METRICS).num_rows == manifest.row_counts["metrics"]
    )
    assert read_table(location / "pairs.parquet", SCORED_PAIRS)["explanation"].to_pylist() == [
        pair.explanation for pair in pairs
    ]
    assert (
        json.loads((tmp_path / "metrics.json").read_text())
        == manifest.metrics
        == flat_metrics(compute_metrics(pairs, config))
    )
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert read_coverage(location) == COVERAGE
    again = open_location(str(tmp_path / "again"))
    assert _write(again, pairs, config, lineage).fingerprint == manifest.fingerprint
