"""Runs as the job does them, without its checks and its cluster, and their rows.

The rows are read from manifest.json by pyarrow, without code of xrec.backfill.
"""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.backfill import BackfillPlan, Lease, draft_plan, pair_batches, run_backfill
from xrec.backfill.worker import load_worker_explainer
from xrec.config.backfill import BackfillConfig
from xrec.storage import Location, Manifest, open_location


def plan(config: BackfillConfig, pairs: pa.Table | None = None) -> BackfillPlan:
    """Write the plan of `pairs`, or of the pairs that the config names, and return it."""
    return draft_plan(config, pair_batches(config) if pairs is None else [pairs]).write()


def run(
    config: BackfillConfig, pairs: pa.Table | None = None, load: Any = load_worker_explainer
) -> Manifest:
    """Do a whole run under its lease."""
    draft = draft_plan(config, pair_batches(config) if pairs is None else [pairs])
    with Lease.acquire(draft.output, config.lease_seconds).renewed() as lease:
        return run_backfill(config, draft.write(), lease, load)


def output_of(config: BackfillConfig) -> Location:
    """Return where a run is written."""
    return open_location(config.artifact("explanations"), config.storage)


def rows_by_manifest(output: Location, failed: bool = False) -> list[dict[str, Any]]:
    """Return the explanations, or the failed rows, of the files that manifest.json lists.

    They are sorted by user and item.
    """
    names = [
        name
        for name in json.loads((output / "manifest.json").read_bytes())["files"]
        if name.startswith("failed/") == failed
    ]
    tables = [pq.read_table(pa.BufferReader(output.at(name).read_bytes())) for name in names]
    return sorted(
        (row for table in tables for row in table.to_pylist()),
        key=lambda row: (row["user_id"], row["item_id"]),
    )


def pairs_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return each row's pair as the text "USER ITEM"."""
    return [f"{row['user_id']} {row['item_id']}" for row in rows]
