"""Texts that nobody writes here: an item's profile, the nearest user's words, those of a table.

A table may be of any system, the public one for instance. A row of it that cannot be read ends the
comparison: a figure of a part of a table would mislead.
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import normalize

from xrec.config import ElsewhereConfig, StorageConfig
from xrec.data import (
    Dataset,
    FileRows,
    HeldOutPair,
    joined_rows,
    parse_id,
    parse_text,
    reject_duplicates,
    stream_rows,
)
from xrec.errors import DataError
from xrec.evaluate.measure import PairIds
from xrec.graph.artifact import GraphEmbeddings
from xrec.storage import open_location

Texts = dict[PairIds, str | None]
_ITEMS_AT_ONCE = 256


def profile_texts(dataset: Dataset, pairs: Sequence[HeldOutPair]) -> Texts:
    """Each item's profile as it is: the simplest thing that a shop could print."""
    profiles = dataset.items["profile"]
    return {pair.ids: profiles[pair.item_index].as_py().strip() or None for pair in pairs}


def nearest_texts(
    explanations: pa.Table, graph: GraphEmbeddings, pairs: Sequence[HeldOutPair]
) -> Texts:
    """The training explanation of the item by the user who is nearest by the graph's vectors.

    explanations: of training pairs (schema EXPLANATIONS).

    An item without one gets that of the nearest item which has one, by its nearest user. Nearness
    is the cosine; of equal ones the first counts.
    """
    of_item: dict[int, list[int]] = {}
    for row, item in enumerate(explanations["item_index"].to_pylist()):
        of_item.setdefault(item, []).append(row)
    if not of_item:
        return {pair.ids: None for pair in pairs}
    writers = explanations["user_index"].to_numpy()
    texts = explanations["explanation"]
    sources = _explained_items(graph.items, sorted(of_item), [pair.item_index for pair in pairs])
    users = normalize(graph.users.double(), dim=1)
    found: Texts = {}
    for pair, item in zip(pairs, sources, strict=True):
        rows = of_item[item]
        nearness = users[writers[rows]] @ users[pair.user_index]
        found[pair.ids] = texts[rows[int(nearness.argmax())]].as_py()
    return found


def _explained_items(vectors: Tensor, explained: list[int], wanted: list[int]) -> list[int]:
    """Each wanted item itself if it is among the `explained`, else the nearest of these."""
    units = normalize(vectors.double(), dim=1)
    lacking = torch.tensor(sorted({*wanted} - {*explained}), dtype=torch.int64)
    nearest: dict[int, int] = {}
    for part in lacking.split(_ITEMS_AT_ONCE):
        best = (units[part] @ units[explained].T).argmax(dim=1).tolist()
        nearest |= {item: explained[at] for item, at in zip(part.tolist(), best, strict=True)}
    return [nearest.get(item, item) for item in wanted]


def read_elsewhere(name: str, config: ElsewhereConfig, storage: StorageConfig) -> Texts:
    """The texts of a table by pair, None where a text is empty.

    Raises DataError for a missing column, a row that cannot be read, and a pair with two texts.
    """
    user_id, item_id, text = (
        config.columns.get(name, name) for name in ("user_id", "item_id", "explanation")
    )
    parts = stream_rows(
        config.uri,
        io.BytesIO(open_location(config.uri, storage).read_bytes()),
        {"user_id": parse_id, "item_id": parse_id, "text": parse_text},
        names={"user_id": (user_id,), "item_id": (item_id,), "text": (text,)},
        advice=f"name the file's columns in texts.{name}.columns",
    )
    rows = whole_rows(parts, ["user_id", "item_id"], f"texts.{name}", "or leave these rows out")
    return {(row["user_id"], row["item_id"]): row["text"] or None for row in rows}


def whole_rows(
    parts: Iterable[FileRows], keys: list[str], name: str, advice: str
) -> list[dict[str, Any]]:
    """Return all rows of a file; raise DataError if one cannot be read or repeats the `keys`."""
    rows = reject_duplicates(joined_rows(parts), keys)
    if rows.findings:
        first = rows.findings[0]
        raise DataError(
            f"{name}: {len(rows.findings)} of {rows.num_rows} rows of {rows.file} cannot be "
            f"used, the first in line {first.line}: {first.reason} ({first.text}); fix the file, "
            f"{advice}",
            code="broken_rows",
            key=name,
            saw=(first.line, first.reason),
        )
    table: list[dict[str, Any]] = rows.table.to_pylist()
    return table
