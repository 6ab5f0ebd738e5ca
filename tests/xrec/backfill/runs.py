"""Runs as the job does them, without its checks and its cluster, and their rows.

The rows are read by deltalake and pyarrow, without code of xrec.
"""

from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.dataset as pads

from xrec.backfill import open_backfill, run_backfill
from xrec.backfill.task import MakeExplainTask, load_task_explainer
from xrec.bulk import BulkRun
from xrec.config.backfill import BackfillConfig, TablePairs
from xrec.generate.explainer import Explainer
from xrec.storage import Location, open_location, parquet_bytes


def plan(config: BackfillConfig, pairs: pa.Table | None = None) -> BulkRun:
    """Plan the run of `pairs`, or of the pairs that the config names, and return it."""
    return open_backfill(config if pairs is None else with_pairs(config, pairs))


def run(
    config: BackfillConfig, pairs: pa.Table | None = None, load: Any = load_task_explainer
) -> Any:
    """Do a whole run; returns the manifest, or None if the limit ended it."""
    given = config if pairs is None else with_pairs(config, pairs)
    return run_backfill(given, open_backfill(given), load)


def never(made: MakeExplainTask) -> Explainer:
    """A function for `load` where no actor may be started."""
    raise AssertionError(f"an actor was started for {made.sources.dataset}")


def with_pairs(config: BackfillConfig, pairs: pa.Table) -> BackfillConfig:
    """The config with a table of these pairs, which is written beside the output."""
    location = open_location(f"{config.artifact('explanations')}-pairs.parquet", config.storage)
    data = parquet_bytes(pairs, pairs.schema)
    if not location.is_file() or location.read_bytes() != data:
        location.write_bytes(data)
    return config.model_copy(update={"pairs": TablePairs(kind="table", uri=location.uri)})


def output_of(config: BackfillConfig) -> Location:
    """Where a run is written."""
    return open_location(config.artifact("explanations"), config.storage)


def published_rows(
    output: Location, failed: bool = False, version: int | None = None
) -> list[dict[str, Any]]:
    """The explanations, or the failed rows, of a version of the table, the newest by default.

    They are sorted by user and item, and columns of the other status are left out.
    """
    table = deltalake.DeltaTable(
        output.shared_uri, version=version, storage_options=output.delta_options()
    )
    status = pads.field("status") == ("failed" if failed else "ok")
    rows = table.to_pyarrow_dataset().to_table(filter=status).to_pylist()
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return sorted(kept, key=lambda row: (row["user_id"], row["item_id"]))


def pairs_of(rows: list[dict[str, Any]]) -> list[str]:
    """Each row's pair as the text "USER ITEM"."""
    return [f"{row['user_id']} {row['item_id']}" for row in rows]
