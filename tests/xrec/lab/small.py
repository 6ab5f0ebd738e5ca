"""A dataset of a few users and items in memory, and held-out pairs of it."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from xrec import schemas
from xrec.data.dataset import Dataset, HeldOutPair
from xrec.storage import Manifest

Row = tuple[int, int, str]
"""User index, item index, split."""


def explained(rows: Sequence[tuple[int, int, str]], split: str = "train") -> pa.Table:
    """Explanations (user_index, item_index, text) of a split."""
    return pa.Table.from_pylist(
        [
            {"user_index": user, "item_index": item, "explanation": text, "split": split}
            for user, item, text in rows
        ],
        schemas.EXPLANATIONS,
    )


def dataset_of(
    num_users: int = 3,
    num_items: int = 3,
    *,
    profiles: Sequence[str] | None = None,
    explanations: pa.Table | None = None,
    interactions: Sequence[Row] = (),
    aspects: Sequence[str] | None = None,
    named: Sequence[tuple[int, int, int]] = (),
) -> Dataset:
    """Users u0, u1, ... and items i0, i1, ... with these profiles.

    aspects: the vocabulary. named: user index, item index, aspect index, of test pairs.
    """
    users = [
        {"user_id": f"u{index}", "user_index": index, "profile": f"Likes {index}."}
        for index in range(num_users)
    ]
    items = [
        {"item_id": f"i{index}", "item_index": index, "title": f"Place {index}", "profile": text}
        for index, text in enumerate(profiles or [""] * num_items)
    ]
    edges = [dict(zip(schemas.INTERACTIONS.names, row, strict=True)) for row in interactions]
    return Dataset(
        Manifest.model_construct(fingerprint="f"),
        pa.Table.from_pylist(users, schemas.USERS),
        pa.Table.from_pylist(items, schemas.ITEMS),
        pa.Table.from_pylist(edges, schemas.INTERACTIONS),
        explained([]) if explanations is None else explanations,
        **({} if aspects is None else _aspects(aspects, named)),
    )


def _aspects(aspects: Sequence[str], named: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    counts = {name: [1] * len(aspects) for name in schemas.ASPECTS.names[2:]}
    table = pa.table({"aspect_index": range(len(aspects)), "aspect": list(aspects), **counts})
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
    return {
        "aspects": table.cast(schemas.ASPECTS),
        "explanation_aspects": pa.Table.from_pylist(rows, schema=schemas.EXPLANATION_ASPECTS),
    }


def held_out(*pairs: tuple[int, int]) -> list[HeldOutPair]:
    """Pairs by index, each with a reference of its own."""
    return [
        HeldOutPair(f"u{user}", f"i{item}", user, item, f"Reference of {user} and {item}.")
        for user, item in pairs
    ]
