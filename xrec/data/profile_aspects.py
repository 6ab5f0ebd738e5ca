"""The tables of aspects of a dataset without reviews: what the items' profiles name.

An item's aspects are those that its profile names, counted once. A user's are counted over the
items of their training interactions: in how many of those profiles each aspect is. What
explanations name are references only, and nothing is counted from them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from xrec import schemas
from xrec.data.aspects import count_table


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

    tables: items, interactions and explanations, in their schemas. Raises DataError if the profiles
    have no aspects.
    """
    explained, interactions = tables["explanations"], tables["interactions"]
    named = find_aspects(
        tables["items"]["profile"].to_pylist(), explained["explanation"].to_pylist()
    )
    menus = _rows(named.of_profiles, named.aspects, "item_index")
    visits = interactions.filter(pc.equal(interactions["split"], "train"))
    seen = visits.select(["user_index", "item_index"]).join(menus, "item_index", join_type="inner")
    references = _rows(named.of_explanations, named.aspects, "row")
    pairs = explained.select(["user_index", "item_index", "split"]).take(references["row"])
    for name in ("aspect_index", "opinion", "sentiment"):
        pairs = pairs.append_column(name, references[name])
    return {
        "aspects": _of_all(count_table(menus, schemas.ASPECTS), named.aspects),
        "item_aspects": count_table(menus, schemas.ITEM_ASPECTS),
        "user_aspects": count_table(seen, schemas.USER_ASPECTS),
        "explanation_aspects": pairs.select(schemas.EXPLANATION_ASPECTS.names).cast(
            schemas.EXPLANATION_ASPECTS
        ),
    }


def _of_all(counts: pa.Table, aspects: Sequence[str]) -> pa.Table:
    """A row for each aspect in order, with 0 for one that only stands within longer ones."""
    numbers = {
        "aspect_index": pa.array(range(len(aspects)), pa.int32()),
        "aspect": pa.array(aspects, pa.string()),
    }
    joined = pa.table(numbers).join(counts.drop_columns(["aspect"]), "aspect_index")
    filled = {name: pc.fill_null(joined[name], 0) for name in schemas.ASPECTS.names[2:]}
    table = pa.table({**{name: joined[name] for name in numbers}, **filled})
    return table.sort_by("aspect_index").cast(schemas.ASPECTS)


def _rows(named: Sequence[Sequence[int]], aspects: Sequence[str], row: str) -> pa.Table:
    """A row for all that is named, in order and each once; all that a profile names is praise."""
    found = [(number, each) for number, all_ in enumerate(named) for each in dict.fromkeys(all_)]
    indices = pa.array([each for _, each in found], pa.int32())
    return pa.table(
        {
            row: pa.array([number for number, _ in found], pa.int32()),
            "aspect_index": indices,
            "aspect": pa.array(aspects, pa.string()).take(indices),
            "opinion": pa.array([""] * len(found), pa.string()),
            "sentiment": pa.array(["positive"] * len(found), pa.string()),
        }
    )
