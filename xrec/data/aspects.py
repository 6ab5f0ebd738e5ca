"""The tables of aspects: the vocabulary, with counts of training reviews, and each pair's aspects.

Held-out pairs are never counted; their aspects serve only as references. If a dataset has neither
annotations nor a table of aspects, they can come from its profiles (`profile_aspect_tables`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xrec import schemas
from xrec.errors import DataError

LOW_RATED: Literal["low_rated"] = "low_rated"
"""The split of what users said about items that they disliked; these pairs are no interactions."""


def aspect_tables(named: pa.Table) -> dict[str, pa.Table]:
    """Return the tables aspects, item_aspects, user_aspects and explanation_aspects (xrec.schemas).

    If users disliked items, also return low_rated_aspects and low_rated_user_aspects. Aspects that
    no training pair has are left out.

    named: user_index, item_index, split, aspect, opinion, sentiment; each aspect appears at most
        once per pair.
    """
    training = named.filter(pc.equal(named["split"], "train"))
    order = [("num_reviews", "descending"), ("aspect", "ascending")]
    vocabulary = _counted(training, ["aspect"]).sort_by(order)
    numbers = pa.array(np.arange(vocabulary.num_rows, dtype=np.int32))
    aspects = vocabulary.append_column("aspect_index", numbers)
    indexed = _indexed(named, aspects).drop_null()
    low_rated = pc.equal(indexed["split"], LOW_RATED)
    disliked, indexed = indexed.filter(low_rated), indexed.filter(pc.invert(low_rated))
    trained = indexed.filter(pc.equal(indexed["split"], "train"))
    by_pair = indexed.sort_by([("user_index", "ascending"), ("item_index", "ascending")])
    tables = {
        "aspects": _in_schema(aspects, schemas.ASPECTS),
        "item_aspects": aspect_counts(trained, "item"),
        "user_aspects": aspect_counts(trained, "user"),
        "explanation_aspects": _in_schema(by_pair, schemas.EXPLANATION_ASPECTS),
    }
    if disliked:
        tables["low_rated_aspects"] = aspect_counts(disliked, "item")
        tables["low_rated_user_aspects"] = aspect_counts(disliked, "user")
    return tables


def aspect_counts(named: pa.Table, side: str) -> pa.Table:
    """Return how many rows each user or item has per aspect (USER_ASPECTS or ITEM_ASPECTS).

    named: user_index or item_index, aspect_index, and sentiment. side: "user" or "item".
    """
    keys = [f"{side}_index", "aspect_index"]
    counts = _counted(named, keys).sort_by([(key, "ascending") for key in keys])
    return _in_schema(counts, schemas.USER_ASPECTS if side == "user" else schemas.ITEM_ASPECTS)


def _counted(rows: pa.Table, keys: list[str]) -> pa.Table:
    """Return the number of rows, positive rows, and negative rows, grouped by `keys`."""
    numbers = {
        "num_reviews": pa.array(np.ones(rows.num_rows, dtype=np.int32)),
        "num_positive": pc.equal(rows["sentiment"], "positive").cast(pa.int32()),
        "num_negative": pc.equal(rows["sentiment"], "negative").cast(pa.int32()),
    }
    table = pa.table({**{key: rows[key] for key in keys}, **numbers})
    sums = table.group_by(keys).aggregate([(name, "sum") for name in numbers])
    return sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])


def _indexed(named: pa.Table, aspects: pa.Table) -> pa.Table:
    """Return the rows with the index of their aspect in the vocabulary, null if it is missing."""
    places = pc.index_in(named["aspect"], value_set=aspects["aspect"].combine_chunks())
    return named.append_column("aspect_index", places)


def _in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.select(schema.names).cast(schema)


@dataclass(frozen=True)
class NamedAspects:
    """The vocabulary, and the indices of the aspects in each profile and each explanation."""

    aspects: Sequence[str]
    of_profiles: Sequence[Sequence[int]]
    of_explanations: Sequence[Sequence[int]]


RULES_VERSION = 5
"""Version of the rules that find aspects in profiles; new rules make a different dataset."""

AspectFinder = Callable[[Sequence[str], Sequence[str]], NamedAspects]
"""Finds the aspects in the items' profiles, and in the explanations.

The vocabulary comes from the profiles. Raises DataError if they have no aspects.
"""


def profile_aspect_tables(
    tables: Mapping[str, pa.Table], find_aspects: AspectFinder
) -> dict[str, pa.Table]:
    """Return the tables aspects, item_aspects, user_aspects and explanation_aspects (xrec.schemas).

    An item has the aspects that its profile names, each counted once. For a user, the count of an
    aspect is the number of items in their training interactions whose profiles name it. An aspect
    that occurs only inside longer ones has a count of 0.

    tables: items, interactions and explanations, in their schemas. Raises DataError if the profiles
    have no aspects.
    """
    explained, profiles = tables["explanations"], tables["items"]["profile"]
    named = find_aspects(profiles.to_pylist(), explained["explanation"].to_pylist())
    menus = _rows(named.of_profiles, "item_index")
    references = _rows(named.of_explanations, "row")
    pairs = explained.take(references["row"])
    for name in ("aspect_index", "opinion", "sentiment"):
        pairs = pairs.append_column(name, references[name])
    num_aspects = len(named.aspects)
    counts = np.bincount(menus["aspect_index"].to_numpy(), minlength=num_aspects)
    columns = [np.arange(num_aspects), named.aspects, counts, counts, np.zeros_like(counts)]
    return {
        "aspects": _in_schema(pa.table(columns, schemas.ASPECTS.names), schemas.ASPECTS),
        "item_aspects": aspect_counts(menus, "item"),
        "user_aspects": visited_aspects(tables["interactions"], menus),
        "explanation_aspects": _in_schema(pairs, schemas.EXPLANATION_ASPECTS),
    }


def visited_aspects(interactions: pa.Table, menus: pa.Table) -> pa.Table:
    """Return how many items of each user's training interactions have each aspect (USER_ASPECTS).

    menus: item_index and aspect_index, one row for each aspect that an item's profile names.
    """
    visits = interactions.filter(pc.equal(interactions["split"], "train"))
    menus = menus.select(["item_index", "aspect_index"])
    seen = visits.select(["user_index", "item_index"]).join(menus, "item_index", join_type="inner")
    praise = pa.repeat("positive", seen.num_rows)
    return aspect_counts(seen.append_column("sentiment", praise), "user")


def check_aspects(indices: NDArray[np.int64], num_aspects: int, table: str) -> None:
    """Raise DataError if the dataset's `table` has an aspect_index that is out of range."""
    wrong = (indices < 0) | (indices >= num_aspects)
    if wrong.any():
        raise DataError(
            f"{table}: {int(wrong.sum())} rows have an aspect_index out of range, starting with "
            f"{int(indices[wrong][0])}; expected 0 to {num_aspects - 1}, the rows of the table "
            "aspects; prepare the dataset again",
            code="index_out_of_range",
            key=f"{table}.aspect_index",
            saw=int(indices[wrong][0]),
        )


def _rows(named: Sequence[Sequence[int]], row: str) -> pa.Table:
    """Return one row per distinct aspect of each text, in order, with a positive sentiment."""
    pairs = [(number, each) for number, all_ in enumerate(named) for each in dict.fromkeys(all_)]
    numbers, indices = zip(*pairs, strict=True) if pairs else ((), ())
    return pa.table(
        {
            row: pa.array(numbers, pa.int32()),
            "aspect_index": pa.array(indices, pa.int32()),
            "opinion": pa.repeat("", len(pairs)),
            "sentiment": pa.repeat("positive", len(pairs)),
        }
    )
