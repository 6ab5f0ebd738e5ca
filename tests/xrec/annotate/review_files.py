"""Files of reviews for tests, and configs over them."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xrec.config.annotate import AnnotateConfig
from xrec.config.base import parse_config


def review(user: str, item: str, text: str = "A warm tone.", **more: Any) -> dict[str, Any]:
    """A row of a table of reviews, with five stars unless `more` says otherwise."""
    return {"user_id": user, "item_id": item, "review": text, "rating": 5.0, **more}


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write the rows as JSON Lines, gzipped if the name says so."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def annotate_config(workspace: Path | str, uri: Path | str, **values: Any) -> AnnotateConfig:
    """A config over the reviews at `uri`; `source` in `values` is merged into the source."""
    source = {"kind": "reviews", "uri": str(uri), **values.pop("source", {})}
    return parse_config(AnnotateConfig, {"workspace": str(workspace), "source": source, **values})
