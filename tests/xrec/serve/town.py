"""The town that the endpoint serves from: its configs, and the output of a backfill."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.world.here import PoolHere
from tests.world.workspace import NUM_ITEMS, NUM_USERS
from tests.xrec.backfill.runs import with_pairs
from xrec.backfill import read_explanations
from xrec.backfill.driver import finish
from xrec.backfill.plan import open_backfill
from xrec.backfill.task import explain_task
from xrec.bulk import drive
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.serve import ServeConfig
from xrec.config.shared import StorageConfig
from xrec.data import read_dataset
from xrec.data.dataset import Dataset
from xrec.schemas import PAIRS
from xrec.storage import Manifest, open_location

USERS = sorted(f"resident-{number}" for number in range(1, NUM_USERS + 1))
ITEMS = sorted(f"place-{number}" for number in range(1, NUM_ITEMS + 1))
DECODING = {
    "max_new_tokens": 24,
    "text": {"max_words": None, "refuses_repetition": False},
}
"""The limits on texts are off, because a toy model writes no sentences."""


def serve_config(town: Path, **values: Any) -> ServeConfig:
    """Return the config of the endpoint, with `values` in place of the defaults."""
    defaults = {
        "workspace": str(town),
        "llm": {"model": str(town / "llm")},
        "decoding": DECODING,
        "engine": {"max_rows": 8, "kv_cache_gib": 0.05},
        "models": {"device": "cpu"},
    }
    return parse_config(ServeConfig, {**defaults, **values})


def backfill_config(town: Path, explanations: str, **values: Any) -> BackfillConfig:
    """Return the config of a backfill with the same model and decoding."""
    defaults = {
        "workspace": str(town),
        "explanations": explanations,
        "llm": {"model": str(town / "llm")},
        "decoding": DECODING,
        "pairs": {"kind": "split", "split": "test"},
        "rows_per_chunk": 4,
        "max_failed_share": 1.0,
        "gate": None,
        "actors": {"device": "cpu"},
    }
    return parse_config(BackfillConfig, {**defaults, **values})


def make_backfill(config: BackfillConfig, pairs: list[tuple[str, str]]) -> Manifest:
    """Make what `xrec backfill` makes of `pairs`, by an actor in this process, without Ray."""
    rows = [dict(zip(PAIRS.names, pair, strict=True)) for pair in pairs]
    run = open_backfill(with_pairs(config, pa.Table.from_pylist(rows, PAIRS)))
    drive(run, PoolHere(), explain_task(config, run.record.identity))
    manifest = finish(config, run)
    assert manifest is not None
    return manifest


def rows_of(folder: Path | str, storage: StorageConfig | None = None) -> dict[tuple[str, str], str]:
    """Return the explanations of a backfill by pair, read without code of the endpoint."""
    rows = read_explanations(str(folder), storage).to_pylist()
    return {(row["user_id"], row["item_id"]): row["explanation"] for row in rows}


def dataset_of(town: Path) -> Dataset:
    return read_dataset(open_location(str(town / "dataset")))
