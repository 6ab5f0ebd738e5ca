"""Writes `_report/report.json` and `report.html`: what a published run cost and produced.

The totals are those of the results, so they cover every driver and actor that ever worked on the
run. Rates and costs refer to the time that actors worked on rows that are there; the time for
loading models and for lost attempts is not included.
"""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from xrec.bulk import FAILED as FAILED_STATUS
from xrec.bulk import OK, Published, published
from xrec.config.shared import StorageConfig
from xrec.errors import StorageNotFoundError
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, Manifest

_NUM_SAMPLES = 15
REPORT = "_report/report.json"
_PAGE = "_report/report.html"
_HEAD = (
    "<!doctype html><meta charset=utf-8><title>Backfill</title><style>body{font:15px/1.5 system-ui;"
    "max-width:60rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}td,th{padding:"
    ".2rem .8rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}</style>"
)


def write_report(uri: str, storage: StorageConfig | None = None) -> None:
    """Write both files, of what is published at `uri`."""
    table = published(uri, storage=storage)
    report = {
        "fingerprint": table.manifest.fingerprint,
        "version": table.version,
        **summarize(table.manifest),
        "samples": _samples(table, OK, GENERATED),
        "failed_samples": _samples(table, FAILED_STATUS, FAILED),
    }
    output = table.log.location
    (output / _PAGE).write_bytes(_page(report).encode())
    (output / REPORT).write_bytes(json.dumps(report, indent=2, ensure_ascii=False).encode())


def is_report_of(output: Location, manifest: Manifest) -> bool:
    """Whether the report at `output`, of which `report.json` is written last, is of this run."""
    try:
        report = json.loads((output / REPORT).read_bytes())
    except (StorageNotFoundError, ValueError):
        return False
    return isinstance(report, dict) and report.get("fingerprint") == manifest.fingerprint


def summarize(manifest: Manifest) -> dict[str, Any]:
    """Rows, tokens, rates and deaths of what a manifest is of.

    Shares and rates are None if nothing was generated or the engine does not report its work.
    """
    counts, metrics = manifest.row_counts, manifest.metrics
    costs, num_carried = metrics["costs"], metrics["num_carried"]
    seconds = costs.get("seconds", 0.0)
    num_done = counts["explanations"] + counts["failed"] - num_carried
    return {
        "num_explained": counts["explanations"],
        "num_carried": num_carried,
        "num_plain": round(costs.get("num_plain", 0)),
        "num_refused": round(costs.get("num_refused", 0)),
        "num_failed": counts["failed"],
        "num_rejected": counts["rejected"],
        "failed_by_reason": metrics["failed_by_reason"],
        "num_retries": metrics["num_retries"],
        "num_generated": num_done,
        "num_prompt_tokens": round(costs.get("num_prompt_tokens", 0)),
        "num_generated_tokens": round(costs.get("num_generated_tokens", 0)),
        "prefix_hit_share": _one_minus(
            costs, "engine_computed_prompt_tokens", "engine_prompt_tokens"
        ),
        "num_deaths": metrics["num_deaths"],
        "actor_seconds": seconds,
        "pairs_per_actor_second": num_done / seconds if seconds else None,
    }


def _one_minus(costs: Mapping[str, float], part: str, whole: str) -> float | None:
    return 1 - costs[part] / costs[whole] if costs.get(whole) else None


def _samples(table: Published, status: str, schema: pa.Schema) -> list[dict[str, Any]]:
    """The first rows with a status."""
    rows = table.dataset(schema, status).head(_NUM_SAMPLES, columns=schema.names)
    samples: list[dict[str, Any]] = rows.to_pylist()
    return samples


def _page(report: Mapping[str, Any]) -> str:
    """The report as an HTML page."""
    figures = {name: value for name, value in report.items() if not name.endswith("samples")}
    explained = [
        {**row, "aspects": "; ".join(map(_evidence, row["aspects"]))} for row in report["samples"]
    ]
    columns = ["user_id", "item_id", "explanation", "aspects", "kind"]
    tables = {
        "Backfill": pd.Series(figures, dtype=object).map(_cell).to_frame("").to_html(),
        "Some explanations": pd.DataFrame(explained, columns=columns).to_html(index=False),
        "Some failed rows": pd.DataFrame(
            report["failed_samples"], columns=FAILED.names[:4]
        ).to_html(index=False),
    }
    return _HEAD + "".join(f"<h2>{title}</h2>{table}" for title, table in tables.items())


def _cell(value: object) -> str:
    if value is None:
        return "not known"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _evidence(each: Mapping[str, Any]) -> str:
    """An aspect with the numbers of training reviews that have it, of the item and of the user."""
    named = " (named)" if each["is_named"] else ""
    opinion = f" \u201c{each['opinion']}\u201d" if each["opinion"] else ""
    return (
        f"{each['aspect']}{named}{opinion}: {each['item_reviews']} of {each['num_item_reviews']} "
        f"of the item, {each['user_reviews']} of {each['num_user_reviews']} of the user"
    )
