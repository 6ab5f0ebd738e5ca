"""Writes `_report/report.json` and `report.html`: what a published run cost and produced.

The totals are those of the results, so they cover every driver and actor that ever worked on the
run. Rates and costs refer to the time that actors worked on rows that are there; the time for
loading models and for lost attempts is not included.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from xrec.backfill.report_page import report_page
from xrec.bulk import FAILED as FAILED_STATUS
from xrec.bulk import OK, Published, published
from xrec.config.shared import StorageConfig
from xrec.errors import StorageNotFoundError
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, Manifest

_NUM_SAMPLES = 15
_NUM_LENGTHS = 10_000
_LENGTH_BIN = 10  # tokens
REPORT = "_report/report.json"
_PAGE = "_report/report.html"


def write_report(
    uri: str, price_per_actor_hour: float | None, storage: StorageConfig | None = None
) -> None:
    """Write both files, of what is published at `uri`.

    `price_per_actor_hour` is in any currency; if it is None, the report states no cost.
    """
    table = published(uri, storage=storage)
    report = {
        "fingerprint": table.manifest.fingerprint,
        "version": table.version,
        **summarize(table.manifest, price_per_actor_hour),
        "generated_lengths": _lengths(table),
        "samples": _samples(table, OK, GENERATED),
        "failed_samples": _samples(table, FAILED_STATUS, FAILED),
    }
    output = table.log.location
    (output / _PAGE).write_bytes(report_page(report).encode())
    (output / REPORT).write_bytes(json.dumps(report, indent=2, ensure_ascii=False).encode())


def is_report_of(output: Location, manifest: Manifest) -> bool:
    """Whether the report at `output`, of which `report.json` is written last, is of this run."""
    try:
        report = json.loads((output / REPORT).read_bytes())
    except (StorageNotFoundError, ValueError):
        return False
    return isinstance(report, dict) and report.get("fingerprint") == manifest.fingerprint


def summarize(manifest: Manifest, price_per_actor_hour: float | None) -> dict[str, Any]:
    """Rows, tokens, rates, deaths and cost of what a manifest is of.

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
        "failed_by_reason": dict(
            sorted(metrics["failed_by_reason"].items(), key=lambda item: -item[1])
        ),
        "num_retries": metrics["num_retries"],
        "num_generated": num_done,
        "tokens": {
            kind: round(costs.get(f"num_{kind}_tokens", 0)) for kind in ("prompt", "generated")
        },
        "prefix_hit_share": _one_minus(
            costs, "engine_computed_prompt_tokens", "engine_prompt_tokens"
        ),
        "attention_padding_share": _one_minus(costs, "engine_seen_keys", "engine_key_cells"),
        "num_deaths": metrics["num_deaths"],
        "actor_seconds": seconds,
        "pairs_per_actor_second": num_done / seconds if seconds else None,
        "price_per_actor_hour": price_per_actor_hour,
        "cost_per_million_pairs": (
            None
            if price_per_actor_hour is None or not num_done
            else price_per_actor_hour * seconds / 3600 / num_done * 1e6
        ),
    }


def _one_minus(costs: Mapping[str, float], part: str, whole: str) -> float | None:
    return 1 - costs[part] / costs[whole] if costs.get(whole) else None


def _lengths(table: Published) -> dict[str, int]:
    """How many of the first explanations have a length from so many tokens on, in bins."""
    name = "num_generated_tokens"
    lengths = table.dataset(GENERATED, OK).head(_NUM_LENGTHS, columns=[name])[name].to_pylist()
    bins = Counter(length // _LENGTH_BIN * _LENGTH_BIN for length in lengths)
    return {str(start): count for start, count in sorted(bins.items())}


def _samples(table: Published, status: str, schema: pa.Schema) -> list[dict[str, Any]]:
    """The first rows with a status."""
    rows = table.dataset(schema, status).head(_NUM_SAMPLES, columns=schema.names)
    samples: list[dict[str, Any]] = rows.to_pylist()
    return samples
