"""The comparison artifact: the table in four forms, metrics as JSON, and the report."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa

from xrec.lab.compare.formats import latex_table, markdown_page
from xrec.lab.compare.judges import JUDGES, JUDGES_FILE, JUDGES_PAGE
from xrec.lab.compare.result import TABLE, Result, result_table
from xrec.lab.measures import lacks_a_model
from xrec.storage import (
    MANIFEST,
    Location,
    Manifest,
    write_contents,
    write_manifest,
    write_table,
)

REPORT = "report.html"
TABLE_FILE = "table.parquet"
SCORES = "scores"
"""Of the manifest's metrics, the fingerprints of the scores that the table is of."""
_MISSING = "missing"


def has_all_metrics(comparison: Manifest) -> bool:
    """Whether no metric is missing, but for those of aspects where the dataset has none."""
    return not lacks_a_model(comparison.metrics.get(_MISSING, ()))


def write_comparison(
    location: Location,
    kind: Literal["comparison", "ablation"],
    result: Result,
    report: str,
    *,
    judges: tuple[pa.Table, str] | None,
    num_pairs: int,
    num_users: int,
    scores: Mapping[str, str],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write the files, and the manifest last; an earlier comparison's is deleted first.

    judges: what `judges_table` and `judges_page` return, if there are judges. scores: the
    fingerprints of the scores that the table is of, by the names of their entries. config, inputs:
    what the manifest says it was made from.
    """
    (location / MANIFEST).delete()
    metrics = flat_figures(result)
    texts = {
        "metrics.json": json.dumps(metrics, indent=2, allow_nan=False) + "\n",
        "table.md": markdown_page(result, num_pairs, num_users),
        "table.tex": latex_table(result),
        REPORT: report,
    }
    files = {TABLE_FILE: write_table(location / TABLE_FILE, result_table(result), TABLE)}
    if judges is not None:
        agreements, texts[JUDGES_PAGE] = judges
        files[JUDGES_FILE] = write_table(location / JUDGES_FILE, agreements, JUDGES)
    files |= write_contents(location, texts)
    return write_manifest(
        location,
        kind,
        config=config,
        inputs=inputs,
        files=files,
        row_counts={"pairs": num_pairs, "contestants": len(result.contestants)},
        metrics={
            "coverage": {name: of_name["coverage"] for name, of_name in metrics.items()},
            SCORES: dict(scores),
            **({_MISSING: dict(result.missing)} if result.missing else {}),
        },
    )


def flat_figures(result: Result) -> dict[str, dict[str, float]]:
    """Plain numbers by contestant, of all pairs: `name`, `name_low`, `name_minus_first`, ..."""
    flat: dict[str, dict[str, float]] = {}
    for contestant in result.contestants:
        values: dict[str, float | None] = {}
        for name, figure in result.of(contestant).items():
            own, difference = figure.own, figure.difference
            values |= {
                name: own.value,
                f"{name}_low": own.low,
                f"{name}_high": own.high,
                f"{name}_seed_spread": figure.seed_spread,
            }
            if difference is not None:
                values |= {
                    f"{name}_minus_first": difference.value,
                    f"{name}_minus_first_low": difference.low,
                    f"{name}_minus_first_high": difference.high,
                }
        flat[contestant] = {name: value for name, value in values.items() if value is not None}
    return flat
