"""The tables of aspects: the vocabulary, with counts of training reviews, and each pair's aspects.

Nothing of a held-out pair is counted; its aspects are references only. A dataset without reviews
may have the aspects that its profiles name (`profile_aspect_tables`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec import schemas


def aspect_tables(named: pa.Table) -> dict[str, pa.Table]:
    """The tables aspects, item_aspects, user_aspects and explanation_aspects (xrec.schemas).

    named: user_index, item_index, split, aspect, opinion, sentiment; each aspect of a pair once,
        and each aspect in a training pair at least.
    """
    training = named.filter(pc.equal(named["split"], "train"))
    vocabulary = _counted(training, ["aspect"]).sort_by(
        [("num_reviews", "descending"), ("aspect", "ascending")]
    )
    numbers = pa.array(np.arange(vocabulary.num_rows, dtype=np.int32))
    aspects = vocabulary.append_column("aspect_index", numbers)
    indexed = named.append_column("aspect_index", _index(named["aspect"], aspects["aspect"]))
    trained = indexed.filter(pc.equal(indexed["split"], "train"))
    by_pair = indexed.sort_by([("user_index", "ascending"), ("item_index", "ascending")])
    return {
        "aspects": _in_schema(aspects, schemas.ASPECTS),
        "item_aspects": aspect_counts(trained, "item"),
        "user_aspects": aspect_counts(trained, "user"),
        "explanation_aspects": _in_schema(by_pair, schemas.EXPLANATION_ASPECTS),
    }


def low_rated_aspects(named: pa.Table, aspects: pa.Table) -> pa.Table:
    """What low-rated reviews say of their items, schema LOW_RATED_ASPECTS.

    named: item_index, aspect, sentiment. aspects: with the indices of the vocabulary.
    """
    places = _index(named["aspect"], aspects["aspect"])
    rows = pa.table(
        {
            "item_index": named["item_index"],
            "aspect_index": aspects["aspect_index"].take(places),
            "sentiment": named["sentiment"],
        }
    )
    return _count_table(rows.drop_null(), schemas.LOW_RATED_ASPECTS)


def _count_table(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The numbers of rows by the first two columns of `schema`, and sorted by these."""
    keys = schema.names[:2]
    return _in_schema(_counted(rows, keys).sort_by([(key, "ascending") for key in keys]), schema)


def _counted(rows: pa.Table, keys: list[str]) -> pa.Table:
    """The number of rows with each value of `keys`, and of the positive and negative ones."""
    numbers = {
        "num_reviews": pa.array(np.ones(rows.num_rows, dtype=np.int32)),
        "num_positive": pc.equal(rows["sentiment"], "positive").cast(pa.int32()),
        "num_negative": pc.equal(rows["sentiment"], "negative").cast(pa.int32()),
    }
    table = pa.table({**{key: rows[key] for key in keys}, **numbers})
    sums = table.group_by(keys).aggregate([(name, "sum") for name in numbers])
    return sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])


def _index(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.index_in(ids, value_set=known.combine_chunks())


def _in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.select(schema.names).cast(schema)


@dataclass(frozen=True)
class NamedAspects:
    """The vocabulary, and what each profile and each explanation names of it, as its numbers."""

    aspects: Sequence[str]
    of_profiles: Sequence[Sequence[int]]
    of_explanations: Sequence[Sequence[int]]


RULES_VERSION = 5
"""Of the rules by which aspects are found in profiles; with other rules it is another dataset."""

AspectFinder = Callable[[Sequence[str], Sequence[str]], NamedAspects]
"""Finds aspects in the items' profiles, and those that explanations name.

The vocabulary is that of the profiles. Raises DataError if they have none.
"""


def profile_aspect_tables(
    tables: Mapping[str, pa.Table], find_aspects: AspectFinder
) -> dict[str, pa.Table]:
    """The tables aspects, item_aspects, user_aspects and explanation_aspects (xrec.schemas).

    An item's aspects are those that its profile names, counted once. A user's are counted over the
    items of their training interactions: in how many of those profiles each aspect is.

    tables: items, interactions and explanations, in their schemas. Raises DataError if the profiles
    have no aspects.
    """
    explained, interactions = tables["explanations"], tables["interactions"]
    named = find_aspects(
        tables["items"]["profile"].to_pylist(), explained["explanation"].to_pylist()
    )
    menus = _rows(named.of_profiles, "item_index")
    references = _rows(named.of_explanations, "row")
    pairs = explained.take(references["row"])
    for name in ("aspect_index", "opinion", "sentiment"):
        pairs = pairs.append_column(name, references[name])
    return {
        "aspects": _vocabulary(named.aspects, menus["aspect_index"].to_numpy()),
        "item_aspects": _count_table(menus, schemas.ITEM_ASPECTS),
        "user_aspects": visited_aspects(interactions, menus),
        "explanation_aspects": _in_schema(pairs, schemas.EXPLANATION_ASPECTS),
    }


def visited_aspects(interactions: pa.Table, menus: pa.Table) -> pa.Table:
    """In how many items of each user's training interactions each aspect is, as USER_ASPECTS.

    menus: item_index and aspect_index, a row for each aspect that the item's profile names.
    """
    visits = interactions.filter(pc.equal(interactions["split"], "train"))
    menus = menus.select(["item_index", "aspect_index"])
    seen = visits.select(["user_index", "item_index"]).join(menus, "item_index", join_type="inner")
    praise = pa.repeat("positive", seen.num_rows)
    return _count_table(seen.append_column("sentiment", praise), schemas.USER_ASPECTS)


def aspect_counts(named: pa.Table, side: str) -> pa.Table:
    """In how many reviews of each user, or item, each aspect is: USER_ASPECTS or ITEM_ASPECTS.

    named: rows of EXPLANATION_ASPECTS. side: user or item.
    """
    return _count_table(named, schemas.USER_ASPECTS if side == "user" else schemas.ITEM_ASPECTS)


def _vocabulary(aspects: Sequence[str], indices: np.ndarray) -> pa.Table:
    """A row for each aspect in order, with 0 for one that only stands within longer ones."""
    counts = np.bincount(indices, minlength=len(aspects)).astype(np.int32)
    numbers = np.arange(len(aspects), dtype=np.int32)
    columns = [numbers, aspects, counts, counts, np.zeros_like(counts)]
    return pa.table(columns, schemas.ASPECTS.names).cast(schemas.ASPECTS)


def _rows(named: Sequence[Sequence[int]], row: str) -> pa.Table:
    """A row for all that is named, in order and each once; all that a profile names is praise."""
    found = [(number, each) for number, all_ in enumerate(named) for each in dict.fromkeys(all_)]
    return pa.table(
        {
            row: pa.array([number for number, _ in found], pa.int32()),
            "aspect_index": pa.array([each for _, each in found], pa.int32()),
            "opinion": pa.repeat("", len(found)),
            "sentiment": pa.repeat("positive", len(found)),
        }
    )
