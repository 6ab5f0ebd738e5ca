"""A dataset with aspects: the sample's town, in which each review names what the town planted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.prepare import run as prepare_dataset
from xrec.config.data import PrepareConfig
from xrec.data import Dataset, read_dataset, write_dataset
from xrec.data.aspects import aspect_tables
from xrec.schemas import REJECTED
from xrec.storage import open_location

TOWN = {
    "kind": "sample",
    "num_users": 60,
    "num_items": 30,
    "interactions_per_user": 10,
    "explanations_per_user": 5,
}

OF_PROFILES = {"kind": "profiles", "min_items": 2, "max_share": 0.6}
"""Settings of `aspects_from` with which the town's profiles have what it planted."""


def prepared_town(folder: Path, **values: Any) -> Dataset:
    """The town's dataset, in `folder/dataset`."""
    config = {"workspace": str(folder), "source": TOWN, **values}
    prepare_dataset(PrepareConfig.model_validate(config))
    return read_dataset(open_location(f"{folder}/dataset"))


def with_aspects(
    plain: Dataset,
    workspace: Path,
    splits: tuple[str, ...] = ("train", "validation", "test"),
    sentiments: Sequence[str] = ("negative", "positive", "positive", "positive"),
) -> str:
    """A dataset in which each explained pair of `splits` has the aspect that the town planted.

    sentiments: of the pairs, again and again.
    """
    keys = ["user_index", "item_index"]
    pairs = plain.explanations.filter(pc.is_in(plain.explanations["split"], pa.array(splits)))
    named = pairs.select([*keys, "split"]).join(plain.planted.select([*keys, "aspect"]), keys)
    rows = named.num_rows
    table = pa.table(
        {
            **{key: named[key] for key in keys},
            "aspect": named["aspect"],
            "opinion": ["good"] * rows,
            "sentiment": [sentiments[row % len(sentiments)] for row in range(rows)],
            "split": named["split"],
        }
    )
    in_training = pc.filter(table["aspect"], pc.equal(table["split"], "train"))
    known = table.filter(pc.is_in(table["aspect"], in_training.combine_chunks()))
    names = ("users", "items", "interactions", "explanations", "planted")
    write_dataset(
        open_location(str(workspace / "dataset")),
        {
            **{name: getattr(plain, name) for name in names},
            **aspect_tables(known),
        },
        REJECTED.empty_table(),
        config={"splits": list(splits)},
        inputs={},
        metrics={},
    )
    return str(workspace)
