"""The tables of aspects of a dataset without reviews: what the items' profiles name.

An item's aspects are those that its profile names, counted once. A user's are counted over the
items of their training interactions: in how many of those profiles each aspect is. What
explanations name are references only, and nothing is counted from them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec import schemas


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

_Indices = npt.NDArray[np.int64]


def profile_aspect_tables(
    tables: Mapping[str, pa.Table], find_aspects: AspectFinder
) -> dict[str, pa.Table]:
    """The tables aspects, item_aspects, user_aspects and explanation_aspects (xrec.schemas).

    tables: items, interactions and explanations, in their schemas. Raises DataError if the profiles
    have no aspects.
    """
    explained = tables["explanations"]
    named = find_aspects(
        tables["items"]["profile"].to_pylist(), explained["explanation"].to_pylist()
    )
    items, aspects = _places(named.of_profiles)
    pairs, references = _places(named.of_explanations, in_order=True)
    num_aspects = len(named.aspects)
    return {
        "aspects": _counts(
            schemas.ASPECTS,
            np.bincount(aspects, minlength=num_aspects),
            aspect_index=np.arange(num_aspects),
            aspect=named.aspects,
        ),
        "item_aspects": _counts(
            schemas.ITEM_ASPECTS,
            np.ones(len(items), dtype=np.int64),
            item_index=items,
            aspect_index=aspects,
        ),
        "user_aspects": _of_users(tables["interactions"], items, aspects),
        "explanation_aspects": pa.table(
            {
                **{name: explained[name].take(pairs) for name in ("user_index", "item_index")},
                "aspect_index": references,
                "opinion": [""] * len(pairs),
                "sentiment": ["positive"] * len(pairs),
                "split": explained["split"].take(pairs),
            }
        ).cast(schemas.EXPLANATION_ASPECTS),
    }


def _places(named: Sequence[Sequence[int]], *, in_order: bool = False) -> tuple[_Indices, _Indices]:
    """The row, and the aspect, of all that is named: both (n,), by row, and each pair once.

    The aspects of a row are in the order of their numbers or, `in_order`, as they are named.
    """
    distinct = [list(dict.fromkeys(each)) if in_order else sorted(set(each)) for each in named]
    rows = np.repeat(np.arange(len(distinct)), [len(each) for each in distinct])
    return rows, np.array([aspect for each in distinct for aspect in each], dtype=np.int64)


def _of_users(interactions: pa.Table, items: _Indices, aspects: _Indices) -> pa.Table:
    """The aspects of each user's training items, with the number of those items."""
    visits = interactions.filter(pc.equal(interactions["split"], "train"))
    menus = pa.table({"item_index": pa.array(items, pa.int32()), "aspect_index": aspects})
    seen = visits.select(["user_index", "item_index"]).join(menus, "item_index", join_type="inner")
    counted = seen.group_by(["user_index", "aspect_index"]).aggregate([([], "count_all")])
    ordered = counted.sort_by([("user_index", "ascending"), ("aspect_index", "ascending")])
    return _counts(
        schemas.USER_ASPECTS,
        ordered["count_all"].to_numpy(),
        user_index=ordered["user_index"],
        aspect_index=ordered["aspect_index"],
    )


def _counts(schema: pa.Schema, counts: _Indices, **columns: Any) -> pa.Table:
    """A table of counts; all that a profile names is praise."""
    numbers = {"num_reviews": counts, "num_positive": counts, "num_negative": counts * 0}
    return pa.table({**columns, **numbers}).select(schema.names).cast(schema)
