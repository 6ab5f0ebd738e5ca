"""Datasets of a few rows."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.prepare import run as prepare_dataset
from tests.xrec.annotate.review_files import write_json_lines
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="the extra index is not installed"
)


def make_dataset(
    root: Path, *, extends: Path | None = None, **tables: Sequence[Mapping[str, Any]]
) -> str:
    """Make the dataset of a workspace from rows of its tables, and return its fingerprint."""
    for name, rows in tables.items():
        write_json_lines(root / "raw" / f"{name}.jsonl", rows)
    source = {"kind": "tables", "uri": str(root / "raw")}
    values = {"workspace": str(root), "source": source, "extends": extends and str(extends)}
    config = parse_config(PrepareConfig, values)
    return prepare_dataset(config).fingerprint


def pair_rows(*pairs: tuple[int, int], **columns: str) -> list[dict[str, str]]:
    """Rows of users u0, u1, ... with items i0, i1, ..., all with these further columns."""
    return [{"user_id": f"u{user}", "item_id": f"i{item}", **columns} for user, item in pairs]
