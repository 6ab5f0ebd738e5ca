"""Runs as the job does them, without its checks and its cluster, and their rows.

The rows are read by deltalake and pyarrow, without code of xrec.
"""

from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.dataset as pads

from xrec.backfill import open_backfill, run_backfill
from xrec.backfill.task import load_task_explainer
from xrec.bulk import BulkRun
from xrec.config.backfill import BackfillConfig, TablePairs
from xrec.storage import Location, Manifest, open_location, parquet_bytes, read_manifest


def plan(config: BackfillConfig, pairs: pa.Table | None = None) -> BulkRun:
    """Plan the run of `pairs`, or of the pairs that the config names, and return it."""
    return open_backfill(config if pairs is None else with_pairs(config, pairs))


def run(
    config: BackfillConfig, pairs: pa.Table | None = None, load: Any = load_task_explainer
) -> Manifest:
    """Do a whole run."""
    given = config if pairs is None else with_pairs(config, pairs)
    return run_backfill(given, open_backfill(given), load)


def with_pairs(config: BackfillConfig, pairs: pa.Table) -> BackfillConfig:
    """The config with a table of these pairs, which is written beside the output."""
    location = open_location(f"{config.artifact('explanations')}-pairs.parquet", config.storage)
    data = parquet_bytes(pairs, pairs.schema)
    if not location.is_file() or location.read_bytes() != data:
        location.write_bytes(data)
    return config.model_copy(update={"pairs": TablePairs(kind="table", uri=location.uri)})


def output_of(config: BackfillConfig) -> Location:
    """Return where a run is written."""
    return open_location(config.artifact("explanations"), config.storage)


def published_rows(output: Location, failed: bool = False) -> list[dict[str, Any]]:
    """Return the explanations, or the failed rows, of the version that the manifest names.

    They are sorted by user and item, and columns of the other status are left out.
    """
    return rows_at(output, read_manifest(output, "explanations").version, failed)


def rows_at(output: Location, version: int | None, failed: bool = False) -> list[dict[str, Any]]:
    """The rows of a version, or of the newest one, as `published_rows` gives them."""
    options = _options(output) if output.uri.startswith("s3://") else None
    table = deltalake.DeltaTable(output.shared_uri, version=version, storage_options=options)
    rows = (
        table.to_pyarrow_dataset()
        .to_table(filter=pads.field("status") == ("failed" if failed else "ok"))
        .to_pylist()
    )
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return sorted(kept, key=lambda row: (row["user_id"], row["item_id"]))


def _options(output: Location) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": output.fs.endpoint_url,
        "AWS_ACCESS_KEY_ID": output.fs.key,
        "AWS_SECRET_ACCESS_KEY": output.fs.secret,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


def pairs_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return each row's pair as the text "USER ITEM"."""
    return [f"{row['user_id']} {row['item_id']}" for row in rows]
