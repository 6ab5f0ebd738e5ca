"""Reads what the stages wrote: the rows of one version of a stage's table."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.formats import Stage
from xrec.annotate.stages import ItemTexts
from xrec.bulk import Published, published
from xrec.config.shared import StorageConfig
from xrec.storage import Location

Versions = Mapping[Stage, int]
"""The version of each stage's table."""


def stage_table(output: Location, stage: Stage, version: int, storage: StorageConfig) -> Published:
    """A version of a stage's table."""
    return published((output / stage).uri, version=version, storage=storage)


def read_stage(
    output: Location, stage: Stage, version: int, columns: Sequence[str], storage: StorageConfig
) -> pa.Table:
    """The rows that succeeded, in the table's order."""
    return pa.concat_tables(stage_table(output, stage, version, storage).batches(columns))


def read_item_texts(output: Location, version: int, storage: StorageConfig) -> ItemTexts:
    """The titles and profiles of the items."""
    names = ("item_id", "title", "profile", "title_is_made")
    return ItemTexts(read_stage(output, "items", version, names, storage))


def named_aspects(pairs: pa.Table) -> pa.Table:
    """One row for each aspect of each pair: user_id, item_id, split, aspect, opinion, sentiment.

    pairs: user_id, item_id, split and aspects, as the stage `pairs` wrote them.
    """
    lists = pairs["aspects"].combine_chunks()
    parents, structs = pc.list_parent_indices(lists), pc.list_flatten(lists)
    columns = {name: pairs[name].take(parents) for name in ("user_id", "item_id", "split")}
    fields = {name: structs.field(name) for name in ("aspect", "opinion", "sentiment")}
    return pa.table({**columns, **fields})


def count_explained(output: Location, version: int, storage: StorageConfig) -> int:
    """How many pairs have an explanation; the reviews of the others praise nothing."""
    batches = stage_table(output, "pairs", version, storage).batches(("explanation",))
    return sum(pc.sum(pc.not_equal(each["explanation"], "")).as_py() or 0 for each in batches)


def count_names(output: Location, version: int, storage: StorageConfig) -> Counter[str]:
    """In how many training reviews each name of an aspect is."""
    counts: Counter[str] = Counter()
    columns = ("user_id", "item_id", "split", "aspects")
    for pairs in stage_table(output, "pairs", version, storage).batches(columns):
        named = named_aspects(pairs.filter(pc.equal(pairs["split"], "train")))
        distinct = named.group_by(["user_id", "item_id", "aspect"]).aggregate([])
        for row in pc.value_counts(distinct["aspect"].combine_chunks()).to_pylist():
            counts[row["values"]] += row["counts"]
    return counts
