"""Users and items that came after the graph was trained, and the dataset with them.

The vector of a new user is computed from interactions with items that the graph was trained on, and
that of a new item from interactions with such users (xrec.graph.fold_in). New users and items stand
at the end of the dataset, in the order of their ids, so that known indices stay.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from xrec.config.shared import ColdStartConfig, StorageConfig
from xrec.data.dataset import Dataset
from xrec.data.ids import IdIndex
from xrec.errors import DataError
from xrec.storage import (
    Location,
    content_hash,
    fingerprint_of,
    open_location,
    parquet_bytes,
    storage_errors,
)

logger = logging.getLogger("xrec")

_PAIR = ["user_id", "item_id"]
_COLUMNS = {
    "interactions": _PAIR,
    "users": ["user_id", "profile"],
    "items": ["item_id", "title", "profile"],
}
_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ColdStartTables:
    """Tables of strings, sorted; each id or pair stands there once.

    interactions: user_id, item_id. users: user_id, profile. items: item_id, title, profile.
    findings: the number of rows that were left out, by reason.
    """

    interactions: pa.Table
    users: pa.Table
    items: pa.Table
    findings: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        """A fingerprint of the content; the order of rows and their files do not matter."""
        return fingerprint_of(
            [
                content_hash(parquet_bytes(table, table.schema))
                for table in (self.interactions, self.users, self.items)
            ]
        )


def read_cold_start(config: ColdStartConfig | None, storage: StorageConfig) -> ColdStartTables:
    """The tables of `config`; a table that it does not name is empty.

    Raises StorageError or DataError if one cannot be read.
    """
    findings: dict[str, int] = {}
    tables = {}
    for name, columns in _COLUMNS.items():
        uri = getattr(config, name, None)
        rows = _read(open_location(uri, storage), columns) if uri else _empty(columns)
        tables[name] = _usable(name, rows, findings)
    return ColdStartTables(**tables, findings=findings)


def cold_start_anywhere(
    config: ColdStartConfig | None, storage: StorageConfig
) -> ColdStartConfig | None:
    """The same tables for a process with another working directory: no path is relative."""
    uris = {} if config is None else config.model_dump(exclude_none=True)
    found = {name: open_location(uri, storage).shared_uri for name, uri in uris.items()}
    return None if config is None else ColdStartConfig(**found)


def _empty(columns: list[str]) -> pa.Table:
    return pa.schema([(column, pa.string()) for column in columns]).empty_table()


def _usable(name: str, table: pa.Table, findings: dict[str, int]) -> pa.Table:
    """The first row of each id or pair, sorted by it; counts the other rows in `findings`."""
    keys = [column for column in table.column_names if column.endswith("_id")]
    with_ids = table
    for key in keys:
        with_ids = with_ids.filter(pc.not_equal(with_ids[key], ""))
    is_first = ~with_ids.select(keys).to_pandas().duplicated().to_numpy(dtype=bool)
    distinct = with_ids.filter(pa.array(is_first))
    findings[f"rows of {name} without {' or '.join(keys)}"] = table.num_rows - with_ids.num_rows
    findings[f"rows of {name} that repeat an earlier {', '.join(keys)}"] = (
        with_ids.num_rows - distinct.num_rows
    )
    return distinct.sort_by([(key, "ascending") for key in keys]).combine_chunks()


def _read(location: Location, columns: list[str]) -> pa.Table:
    """The columns of a Parquet file or folder as strings; a null is an empty one."""
    with storage_errors(location.uri):
        try:
            source = pads.dataset(
                location.path, filesystem=location.arrow_filesystem(), format="parquet"
            )
            _check_columns(location, source.schema, columns)
            table = source.to_table(columns=columns).cast(_empty(columns).schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{location}: expected Parquet files with the columns {', '.join(columns)}: {error}"
            ) from error
    return pa.table({column: pc.fill_null(table[column], "") for column in columns})


def _check_columns(location: Location, schema: pa.Schema, columns: list[str]) -> None:
    missing = [column for column in columns if column not in schema.names]
    if missing:
        raise DataError(
            f"{location}: missing column(s) {', '.join(missing)}; expected {', '.join(columns)}, "
            f"saw {', '.join(schema.names)}; rename or add them"
        )
    types = pa.types
    allowed = (types.is_string, types.is_large_string, types.is_integer, types.is_null)
    for field in map(schema.field, columns):
        if not any(is_type(field.type) for is_type in allowed):
            raise DataError(
                f"{location}: column {field.name} has type {field.type}; expected strings or "
                "integers (1.0 is not the id 1)"
            )


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
    item with such a user. New ids without one stay unknown; they are counted and logged.

    All interactions between users and items of the extended dataset become train interactions, held
    out ones too, so that no ranking offers them again: they are `Dataset.later`. A row of
    `tables.users` or `tables.items` with a known id replaces the texts of that id. The manifest
    stays that of `dataset`. Nothing of the dataset is copied, except where texts are replaced.
    """
    pairs = tables.interactions
    users = dataset.user_ids.rows(pairs["user_id"])
    items = dataset.item_ids.rows(pairs["item_id"])
    train = dataset.interaction_edges("train")
    of_new_user = (users < 0) & _are_trained(items, train[1], dataset.num_items)
    of_new_item = (items < 0) & _are_trained(users, train[0], dataset.num_users)
    new_users = pairs["user_id"].filter(pa.array(of_new_user)).unique().sort()
    new_items = pairs["item_id"].filter(pa.array(of_new_item)).unique().sort()
    of_users = _indices(pairs["user_id"], new_users)
    of_items = _indices(pairs["item_id"], new_items)
    extended = replace(
        dataset,
        users=_extended(dataset.users, dataset.user_ids, new_users, tables.users),
        items=_extended(dataset.items, dataset.item_ids, new_items, tables.items),
        later=_known_edges(
            np.where(of_users < 0, users, dataset.num_users + of_users),
            np.where(of_items < 0, items, dataset.num_items + of_items),
        ),
    )
    user_edges = np.stack([of_users, items])[:, of_new_user]
    item_edges = np.stack([of_items, users])[:, of_new_item]
    _log(tables, dataset, extended, int((of_new_user | of_new_item).sum()))
    return Extension(extended, user_edges, item_edges)


def _are_trained(rows: _Indices, trained: _Indices, num_rows: int) -> npt.NDArray[np.bool_]:
    """Whether each of `rows` is among `trained`, which are below `num_rows`; -1 is not."""
    is_trained = np.bincount(trained, minlength=num_rows) > 0
    return np.asarray((rows >= 0) & is_trained[rows])


def _indices(ids: pa.ChunkedArray, known: pa.Array) -> _Indices:
    """The row of each id in `known`, -1 where it is not there."""
    return np.asarray(pc.fill_null(pc.index_in(ids, known), -1).to_numpy(), dtype=np.int64)


def _extended(known: pa.Table, ids: IdIndex, new_ids: pa.Array, given: pa.Table) -> pa.Table:
    """`known` and rows for the new ids, with the texts of `given` where it has the id.

    The parts of `known` between the rows that `given` replaces are not copied.
    """
    key = given.column_names[0]
    numbers = ids.rows(given[key])
    places, parts, start = np.argsort(numbers, kind="stable"), [], 0
    for place in places[numbers[places] >= 0]:
        row = int(numbers[place])
        parts += [known.slice(start, row - start), _rows(known, row, given.slice(place, 1))]
        start = row + 1
    of_new = pc.index_in(new_ids, given[key].combine_chunks())
    texts = {name: pc.fill_null(given[name].take(of_new), "") for name in given.column_names[1:]}
    new = pa.table({key: new_ids, **texts})
    return pa.concat_tables([*parts, known.slice(start), _rows(known, known.num_rows, new)])


def _rows(known: pa.Table, first: int, rows: pa.Table) -> pa.Table:
    """`rows` in the schema of `known`, numbered from `first` on."""
    (index,) = (name for name in known.column_names if name.endswith("_index"))
    numbers = pa.array(np.arange(first, first + rows.num_rows))
    return rows.append_column(index, numbers).select(known.column_names).cast(known.schema)


def _known_edges(users: _Indices, items: _Indices) -> _Indices:
    """The pairs (2, E) of which neither is -1, by user and item."""
    order = np.lexsort([items, users])
    edges = np.stack([users, items])[:, order]
    return edges[:, (edges >= 0).all(axis=0)]


def _log(tables: ColdStartTables, dataset: Dataset, extended: Dataset, num_used: int) -> None:
    """Log what is new, what was left out, and which ids stay unknown."""
    logger.info(
        "cold start: %d new users, %d new items, from %d of %d interactions",
        extended.num_users - dataset.num_users,
        extended.num_items - dataset.num_items,
        num_used,
        tables.interactions.num_rows,
    )
    left_out = dict(tables.findings)
    for what, other, given, known in (
        ("user", "item", tables.users, extended.user_ids),
        ("item", "user", tables.items, extended.item_ids),
    ):
        key = f"{what}_id"
        ids = pa.concat_tables([tables.interactions.select([key]), given.select([key])])[key]
        reason = f"new {what}s without an interaction with a trained {other}: they stay unknown"
        left_out[reason] = int((known.rows(ids.unique()) < 0).sum())
    for reason, count in left_out.items():
        if count:
            logger.warning("cold start: %d %s", count, reason)
