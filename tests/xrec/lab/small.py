"""A dataset of a few users and items in memory, and held-out pairs of it."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xrec import schemas
from xrec.data.aspects import aspect_counts
from xrec.data.dataset import Dataset, HeldOutPair
from xrec.storage import Manifest

Row = tuple[int, int, str]
"""User index, item index, split."""
Said = tuple[int, int, int] | tuple[int, int, int, str] | tuple[int, int, int, str, str]
"""User index, item index, aspect index, a sentiment (positive), an opinion ("")."""


def explained(rows: Sequence[tuple[int, int, str]], split: str = "train") -> pa.Table:
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
    named: Sequence[Said] = (),
    trained: Sequence[Said] = (),
) -> Dataset:
    """Users u0, u1, ... and items i0, i1, ... with these profiles.

    aspects: the vocabulary. named, trained: what reviews of test and training pairs say of it.
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
        Manifest.model_construct(fingerprint="f", metrics={}),
        pa.Table.from_pylist(users, schemas.USERS),
        pa.Table.from_pylist(items, schemas.ITEMS),
        pa.Table.from_pylist(edges, schemas.INTERACTIONS),
        explained([]) if explanations is None else explanations,
        **({} if aspects is None else _aspects(aspects, named, trained)),
    )


def _aspects(
    aspects: Sequence[str], named: Sequence[Said], trained: Sequence[Said]
) -> dict[str, Any]:
    rows = [*(_said(each, "test") for each in named), *(_said(each, "train") for each in trained)]
    table = pa.Table.from_pylist(rows, schemas.EXPLANATION_ASPECTS)
    training = table.filter(pc.field("split") == "train")
    sentiments = [
        [row["sentiment"] for row in training.to_pylist() if row["aspect_index"] == index]
        for index in range(len(aspects))
    ]
    vocabulary = {
        "aspect_index": range(len(aspects)),
        "aspect": list(aspects),
        "num_reviews": [len(each) for each in sentiments],
        "num_positive": [each.count("positive") for each in sentiments],
        "num_negative": [each.count("negative") for each in sentiments],
    }
    return {
        "aspects": pa.table(vocabulary).cast(schemas.ASPECTS),
        "item_aspects": aspect_counts(training, "item"),
        "user_aspects": aspect_counts(training, "user"),
        "explanation_aspects": table,
    }


def _said(row: Said, split: str) -> dict[str, Any]:
    user, item, aspect, sentiment, opinion = (*row, *("positive", "")[len(row) - 3 :])
    return {
        "user_index": user,
        "item_index": item,
        "aspect_index": aspect,
        "opinion": opinion,
        "sentiment": sentiment,
        "split": split,
    }


def held_out(*pairs: tuple[int, int]) -> list[HeldOutPair]:
    """Pairs by index, each with a reference of its own."""
    return [
        HeldOutPair(f"u{user}", f"i{item}", user, item, f"Reference of {user} and {item}.")
        for user, item in pairs
    ]
