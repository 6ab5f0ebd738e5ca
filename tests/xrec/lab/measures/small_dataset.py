"""A dataset of a few users and items, in memory."""

from collections.abc import Sequence

import pyarrow as pa

from xrec import schemas
from xrec.data.dataset import Dataset
from xrec.storage import Manifest

Row = tuple[int, int, str]
"""User index, item index, split."""


def dataset_of(
    num_users: int,
    num_items: int,
    *,
    explained: Sequence[Row] = (),
    interactions: Sequence[Row] = (),
    aspects: Sequence[str] | None = None,
    named: Sequence[tuple[int, int, int]] = (),
) -> Dataset:
    """Return users u0, u1, ... and items i0, i1, ...

    aspects: the vocabulary. named: user index, item index, aspect index, of test pairs.
    """
    tables = {}
    if aspects is not None:
        counts = {name: [1] * len(aspects) for name in schemas.ASPECTS.names[2:]}
        tables["aspects"] = pa.table(
            {"aspect_index": range(len(aspects)), "aspect": list(aspects), **counts}
        ).cast(schemas.ASPECTS)
        rows = [
            {
                "user_index": user,
                "item_index": item,
                "aspect_index": aspect,
                "opinion": "",
                "sentiment": "positive",
                "split": "test",
            }
            for user, item, aspect in named
        ]
        tables["explanation_aspects"] = pa.Table.from_pylist(
            rows, schema=schemas.EXPLANATION_ASPECTS
        )
    users = {"user_id": [f"u{n}" for n in range(num_users)], "user_index": range(num_users)}
    items = {"item_id": [f"i{n}" for n in range(num_items)], "item_index": range(num_items)}
    return Dataset(
        manifest=_MANIFEST,
        users=pa.table({**users, "profile": [""] * num_users}).cast(schemas.USERS),
        items=pa.table({**items, "title": [""] * num_items, "profile": [""] * num_items}).cast(
            schemas.ITEMS
        ),
        interactions=_pairs(interactions, schemas.INTERACTIONS),
        explanations=_pairs(explained, schemas.EXPLANATIONS),
        **tables,
    )


def _pairs(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    found = [
        {"user_index": user, "item_index": item, "split": split, "explanation": f"{user} {item}"}
        for user, item, split in rows
    ]
    return pa.Table.from_pylist(
        [{name: row[name] for name in schema.names} for row in found], schema=schema
    )


_MANIFEST = Manifest(
    kind="dataset",
    schema_version=1,
    config={},
    inputs={},
    run="",
    fingerprint="",
    files={},
    row_counts={},
    metrics={},
    code_version="",
    created_at="",
)
