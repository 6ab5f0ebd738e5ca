"""Datasets of a few rows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jobs.prepare import run as prepare_dataset
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig

Rows = Sequence[Mapping[str, str]]


def make_dataset(
    root: Path, users: Rows, items: Rows, seen: Iterable[tuple[int, int]], explained: str
) -> str:
    """Make the dataset of a workspace, and return its fingerprint.

    seen: numbers of users and items. explained: the test split's pair, such as "u0 i4".
    """
    user_id, item_id = explained.split()
    tables = {
        "users": users,
        "items": items,
        "interactions": [
            {"user_id": f"u{user}", "item_id": f"i{item}", "split": "train"} for user, item in seen
        ],
        "explanations": [
            {"user_id": user_id, "item_id": item_id, "explanation": "Quiet.", "split": "test"}
        ],
    }
    (root / "raw").mkdir()
    for name, rows in tables.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "raw" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    source = {"kind": "tables", "uri": str(root / "raw")}
    config = parse_config(PrepareConfig, {"workspace": str(root), "source": source})
    return prepare_dataset(config).fingerprint
