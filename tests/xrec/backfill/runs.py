"""Runs as the job makes them, without its checks and its cluster; and what is in them, read by nothing of xrec but Parquet."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.backfill import BackfillPlan, Lease, draft_plan, pair_batches, run_backfill
from xrec.backfill.worker import load_worker_explainer
from xrec.config.backfill import BackfillConfig
from xrec.storage import Location, Manifest, open_location


def plan(config: BackfillConfig, pairs: pa.Table | None = None) -> BackfillPlan:
    """The plan, written, of `pairs`, or of those that the config names."""
    return draft_plan(config, pair_batches(config) if pairs is None else [pairs]).write()


def run(
    config: BackfillConfig, pairs: pa.Table | None = None, load: Any = load_worker_explainer
) -> Manifest:
    """A whole run under its lease."""
    draft = draft_plan(config, pair_batches(config) if pairs is None else [pairs])
    with Lease.acquire(draft.output, config.lease_seconds).renewed() as lease:
        return run_backfill(config, draft.write(), lease, load)


def output_of(config: BackfillConfig) -> Location:
    """Where a run is written."""
    return open_location(config.artifact("explanations"), config.storage)


def rows_by_manifest(output: Location, failed: bool = False) -> list[dict[str, Any]]:
    """The rows of the files that manifest.json lists, explanations or failed rows, by user and item."""
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
    """ "user item" of each row."""
    return [f"{row['user_id']} {row['item_id']}" for row in rows]
