"""Datasets of a few users and items, generated or made of rows, on disk or in memory.

Users are u0, u1, ... and items i0, i1, ... unless the sample generates them.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.world.shop import write_json_lines
from xrec import schemas
from xrec.annotate import find_aspects
from xrec.config import PrepareConfig, parse_config
from xrec.data import Dataset, HeldOutPair, aspect_counts, read_dataset, write_dataset
from xrec.data.aspects import aspect_tables
from xrec.jobs.prepare import run as prepare_dataset
from xrec.storage import Manifest, open_location

TOWN = {
    "kind": "sample",
    "num_users": 60,
    "num_items": 30,
    "interactions_per_user": 10,
    "explanations_per_user": 5,
}
Said = tuple[int, int, int] | tuple[int, int, int, str] | tuple[int, int, int, str, str]
"""User, item and aspect index; then the sentiment (default: positive) and the opinion ("")."""


def prepare(workspace: Path | str, **values: Any) -> str:
    """Run `prepare` with these config values; returns the dataset's fingerprint."""
    config = parse_config(PrepareConfig, {"workspace": str(workspace), **values})
    return prepare_dataset(config).fingerprint


def dataset_in(workspace: Path | str) -> Dataset:
    return read_dataset(open_location(f"{workspace}/dataset"))


def prepared_town(workspace: Path, **values: Any) -> Dataset:
    """Write the dataset of TOWN; `values` are of the config of `prepare`."""
    prepare(workspace, **{"source": TOWN, **values})
    return dataset_in(workspace)


def town_of_profiles(workspace: Path) -> Dataset:
    """Write the dataset of TOWN with the aspects of its profiles, by limits for so few items."""
    find = functools.partial(find_aspects, min_items=2, max_share=0.6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.jobs.prepare.find_aspects", find)
        return prepared_town(workspace, aspects_from="profiles")


def make_dataset(
    workspace: Path, *, extends: Path | None = None, **tables: Sequence[Mapping[str, Any]]
) -> str:
    """Write a dataset made of rows of its tables; returns its fingerprint."""
    for name, rows in tables.items():
        write_json_lines(workspace / "raw" / f"{name}.jsonl", rows)
    source = {"kind": "tables", "uri": str(workspace / "raw")}
    return prepare(workspace, source=source, extends=extends and str(extends))


def pair_rows(*pairs: tuple[int, int], **columns: str) -> list[dict[str, str]]:
    """Return rows of these users and items, all with these further columns."""
    return [{"user_id": f"u{user}", "item_id": f"i{item}", **columns} for user, item in pairs]


def rewrite_dataset(
    workspace: Path, source: Dataset, tables: Mapping[str, pa.Table], **config: Any
) -> None:
    """Write `source` to another workspace, with `tables` in place of its own of these names."""
    names = ("users", "items", "interactions", "explanations", "planted")
    write_dataset(
        open_location(str(workspace / "dataset")),
        {**{name: getattr(source, name) for name in names}, **tables},
        schemas.REJECTED.empty_table(),
        config=config or {"tables": sorted(tables)},
        inputs={},
        metrics={},
    )


def with_aspects(
    plain: Dataset,
    workspace: Path,
    splits: tuple[str, ...] = ("train", "validation", "test"),
    sentiments: Sequence[str] = ("negative", "positive", "positive", "positive"),
) -> str:
    """Write `plain` so that each explained pair of `splits` has the aspect that the town planted.

    The sentiments are given to the pairs in turn. Returns the workspace.
    """
    keys = ["user_index", "item_index"]
    pairs = plain.explanations.filter(pc.is_in(plain.explanations["split"], pa.array(splits)))
    named = pairs.select([*keys, "split"]).join(plain.planted.select([*keys, "aspect"]), keys)
    rows = named.num_rows
    columns = {
        **{key: named[key] for key in [*keys, "aspect"]},
        "opinion": ["good"] * rows,
        "sentiment": [sentiments[row % len(sentiments)] for row in range(rows)],
        "split": named["split"],
    }
    table = pa.table(columns)
    in_training = pc.filter(table["aspect"], pc.equal(table["split"], "train"))
    known = table.filter(pc.is_in(table["aspect"], in_training.combine_chunks()))
    rewrite_dataset(workspace, plain, aspect_tables(known), splits=list(splits))
    return str(workspace)


def explained(rows: Sequence[tuple[int, int, str]], split: str = "train") -> pa.Table:
    """Return a table of explanations, given as user index, item index and text."""
    columns = ("user_index", "item_index", "explanation")
    found = [{**dict(zip(columns, row, strict=True)), "split": split} for row in rows]
    return pa.Table.from_pylist(found, schemas.EXPLANATIONS)


def dataset_of(
    num_users: int = 3,
    num_items: int = 3,
    *,
    profiles: Sequence[str] | None = None,
    explanations: pa.Table | None = None,
    interactions: Sequence[tuple[int, int, str]] = (),
    aspects: Sequence[str] | None = None,
    named: Sequence[Said] = (),
    trained: Sequence[Said] = (),
) -> Dataset:
    """Return a dataset in memory.

    Args:
        profiles: Of the items.
        interactions: User index, item index and split of each.
        aspects: The vocabulary; without it there are no tables of aspects.
        named: What the reviews of test pairs say of aspects.
        trained: What the reviews of training pairs say of them.
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
    names = ("user_index", "item_index", "aspect_index", "sentiment", "opinion")
    rows = [
        {**dict(zip(names, (*said, *("positive", "")[len(said) - 3 :]), strict=True)), "split": at}
        for at, part in (("test", named), ("train", trained))
        for said in part
    ]
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


def held_out(*pairs: tuple[int, int]) -> list[HeldOutPair]:
    """Return pairs by index, each with a reference of its own."""
    return [
        HeldOutPair(f"u{user}", f"i{item}", user, item, f"Reference of {user} and {item}.")
        for user, item in pairs
    ]
