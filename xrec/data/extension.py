"""The dataset with what came after training: new users and items, and new texts of known ones.

New users and items stand at the end, in the order of their ids, so that known indices stay.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec import schemas
from xrec.data.cold_start import ColdStartTables
from xrec.data.dataset import Dataset

logger = logging.getLogger("xrec")

_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Extension:
    """`dataset` with the new users and items at the end, and what their vectors are computed from.

    user_edges: (2, E) int64, the number of the new user (from 0) and the index of a known item.
    item_edges: (2, F) int64, the number of the new item (from 0) and the index of a known user.
    Each new user and item has at least one edge.
    """

    dataset: Dataset
    user_edges: _Indices
    item_edges: _Indices


def extend_dataset(dataset: Dataset, tables: ColdStartTables) -> Extension:
    """The dataset with the new users and items of `tables`.

    Each of them must have an interaction with a trained neighbour: a user with such an item, an
    item with such a user.

    All interactions between users and items of the extended dataset become train interactions, held
    out ones too, so that no ranking offers them again; those that are reviews stay
    `Dataset.reviewed`. A row of `tables.users` or `tables.items` with a known id
    replaces the texts of that id. The manifest stays that of `dataset`.

    New ids that stay unknown, because no vector comes from their interactions, are counted and
    logged.
    """
    pairs = tables.interactions
    users, items = _pair_indices(pairs, dataset)
    train = dataset.interaction_edges("train")
    of_new_user = (users < 0) & _is_trained(items, train[1], dataset.num_items)
    of_new_item = (items < 0) & _is_trained(users, train[0], dataset.num_users)
    new_users = _sorted_ids(pairs["user_id"].filter(pa.array(of_new_user)))
    new_items = _sorted_ids(pairs["item_id"].filter(pa.array(of_new_item)))
    extended = replace(
        dataset,
        users=_append(
            _with_texts(dataset.users, tables.users),
            _new_rows("user", new_users, tables.users, dataset.num_users),
            schemas.USERS,
        ),
        items=_append(
            _with_texts(dataset.items, tables.items),
            _new_rows("item", new_items, tables.items, dataset.num_items),
            schemas.ITEMS,
        ),
    )
    user_edges = np.stack([_indices(pairs["user_id"], new_users), items])[:, of_new_user]
    item_edges = np.stack([_indices(pairs["item_id"], new_items), users])[:, of_new_item]
    _log(tables, dataset, extended, int((of_new_user | of_new_item).sum()))
    return Extension(_with_interactions(extended, pairs), user_edges, item_edges)


def _pair_indices(pairs: pa.Table, dataset: Dataset) -> tuple[_Indices, _Indices]:
    """User and item indices (E,) of the pairs, -1 where the dataset does not hold the id."""
    return (
        _indices(pairs["user_id"], dataset.users["user_id"]),
        _indices(pairs["item_id"], dataset.items["item_id"]),
    )


def _is_trained(indices: _Indices, train: _Indices, count: int) -> npt.NDArray[np.bool_]:
    """True for each of `indices` that a train interaction has; False for -1."""
    is_trained = np.bincount(train, minlength=count) > 0
    return np.asarray(np.append(is_trained, False)[indices])


def _with_interactions(dataset: Dataset, pairs: pa.Table) -> Dataset:
    """The dataset with those of `pairs` as train interactions whose ids it holds."""
    users, items = _pair_indices(pairs, dataset)
    known = (users >= 0) & (items >= 0)
    given = np.unique(_keys(users[known], items[known]))
    there = dataset.interactions
    keys = _keys(there["user_index"].to_numpy(), there["item_index"].to_numpy())
    others = there.filter(pa.array(~np.isin(keys, given)))
    rows = pa.table(
        {
            "user_index": given >> 32,
            "item_index": given & 0xFFFFFFFF,
            "split": ["train"] * len(given),
        }
    )
    interactions = _append(others, rows, schemas.INTERACTIONS)
    return replace(
        dataset,
        interactions=interactions.sort_by(
            [("user_index", "ascending"), ("item_index", "ascending")]
        ),
        reviewed=there,
    )


def _with_texts(known: pa.Table, given: pa.Table) -> pa.Table:
    """`known` with the texts of `given` for the ids that both have in their first column."""
    rows = pa.array(_indices(known[known.schema.names[0]], given[given.schema.names[0]]))
    for column in given.schema.names[1:]:
        texts = _taken(given[column], rows, known[column].combine_chunks())
        known = known.set_column(
            known.schema.get_field_index(column), known.schema.field(column), texts
        )
    return known


def _new_rows(what: str, ids: pa.Array, given: pa.Table, first_index: int) -> pa.Table:
    """Rows for the new `ids`, with the texts that `given` has of them, else empty ones."""
    rows = pa.array(_indices(ids, given[f"{what}_id"]))
    texts = {name: _taken(given[name], rows, "") for name in given.column_names[1:]}
    numbers = np.arange(first_index, first_index + len(ids))
    return pa.table({f"{what}_id": ids, f"{what}_index": numbers, **texts})


def _taken(texts: pa.ChunkedArray, rows: pa.Array, default: str) -> pa.Array:
    """`texts` at `rows`, and `default` where the row is -1."""
    found = texts.combine_chunks().take(pc.if_else(pc.less(rows, 0), None, rows))
    return pc.coalesce(found, default)


def _log(tables: ColdStartTables, dataset: Dataset, extended: Dataset, num_used: int) -> None:
    """Log what is new, what was left out, and which ids stay unknown."""
    logger.info(
        "cold start: %d new users, %d new items, from %d of %d interactions",
        extended.num_users - dataset.num_users,
        extended.num_items - dataset.num_items,
        num_used,
        tables.interactions.num_rows,
    )
    left_out = {
        **tables.findings,
        "new users without an interaction with a trained item: they stay unknown": _num_unknown(
            "user_id", tables, tables.users, extended.users
        ),
        "new items without an interaction with a trained user: they stay unknown": _num_unknown(
            "item_id", tables, tables.items, extended.items
        ),
    }
    for reason, count in left_out.items():
        if count:
            logger.warning("cold start: %d %s", count, reason)


def _num_unknown(column: str, tables: ColdStartTables, described: pa.Table, known: pa.Table) -> int:
    """The number of distinct ids of the tables that are not `known`."""
    chunks = [*tables.interactions[column].chunks, *described[column].chunks]
    ids = pa.chunked_array(chunks, pa.string()).unique()
    return int((_indices(ids, known[column]) < 0).sum())


def _indices(ids: pa.Array | pa.ChunkedArray, known: pa.Array | pa.ChunkedArray) -> _Indices:
    """The row of each id in `known`, -1 where it is not there."""
    known = known.combine_chunks() if isinstance(known, pa.ChunkedArray) else known
    return np.asarray(
        pc.fill_null(pc.index_in(ids, known), -1).to_numpy(zero_copy_only=False), dtype=np.int64
    )


def _sorted_ids(ids: pa.ChunkedArray) -> pa.Array:
    unique = ids.unique()
    return unique.take(pc.sort_indices(unique))


def _append(table: pa.Table, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([table, rows.select(schema.names).cast(schema)])


def _keys(users: _Indices, items: _Indices) -> _Indices:
    return np.asarray((users.astype(np.int64) << 32) + items)
