"""Users and items that came after the graph was trained: their tables, or the history of one user.

The vector of a new user is computed from interactions with items that the graph was trained on, and
that of a new item from interactions with such users (xrec.data.extension, xrec.graph.fold_in).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from xrec.config.shared import ColdStartConfig, StorageConfig
from xrec.data.dataset import Dataset
from xrec.errors import ConfigError, DataError
from xrec.storage import (
    Location,
    content_hash,
    fingerprint_of,
    open_location,
    parquet_bytes,
    storage_errors,
)

_COLUMNS = {
    "interactions": ("user_id", "item_id"),
    "users": ("user_id", "profile"),
    "items": ("item_id", "title", "profile"),
}


@dataclass(frozen=True)
class History:
    """The items of one new user, given by hand."""

    user_id: str
    item_ids: tuple[str, ...]


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
    uris = {name: getattr(config, name, None) for name in _COLUMNS}
    findings: dict[str, int] = {}
    tables = {
        name: _read(name, open_location(uri, storage) if uri else None, findings)
        for name, uri in uris.items()
    }
    return ColdStartTables(**tables, findings=findings)


def with_history(tables: ColdStartTables, dataset: Dataset, history: History) -> ColdStartTables:
    """`tables` with the interactions of `history`.

    Raises ConfigError if its user is known already or it names no items, UnknownIdError for an item
    that is neither in the dataset nor in the tables.
    """
    if _holds(dataset.users["user_id"], history.user_id) or _holds(
        tables.interactions["user_id"], history.user_id
    ):
        raise ConfigError(
            f"user {history.user_id!r} is known and has a vector; leave the history out, "
            "or give it for a new user"
        )
    if not history.item_ids:
        raise ConfigError(
            f"the history of user {history.user_id!r} is empty; give at least one item_id"
        )
    new_items = set(tables.interactions["item_id"].to_pylist())
    for item_id in history.item_ids:
        if item_id not in new_items:
            dataset.item_index(item_id)
    rows = pa.table(
        {"user_id": [history.user_id] * len(history.item_ids), "item_id": list(history.item_ids)}
    )
    return replace(
        tables,
        interactions=_distinct(
            pa.concat_tables([tables.interactions, rows]), ["user_id", "item_id"]
        ),
    )


def _holds(ids: pa.ChunkedArray, wanted: str) -> bool:
    return bool(pc.any(pc.equal(ids, wanted)).as_py())


def _read(name: str, location: Location | None, findings: dict[str, int]) -> pa.Table:
    """The distinct rows of a Parquet file or folder as strings; counts the others in `findings`."""
    columns = list(_COLUMNS[name])
    empty = pa.table({column: pa.array([], pa.string()) for column in columns})
    table = _as_strings(location, columns) if location else empty
    keys = [column for column in columns if column.endswith("_id")]
    has_ids = pc.invert(pc.equal(table[keys[0]], ""))
    for key in keys[1:]:
        has_ids = pc.and_(has_ids, pc.invert(pc.equal(table[key], "")))
    usable = table.filter(has_ids)
    distinct = _distinct(usable, keys)
    findings[f"rows of {name} without {' or '.join(keys)}"] = table.num_rows - usable.num_rows
    findings[f"rows of {name} that repeat an earlier {', '.join(keys)}"] = (
        usable.num_rows - distinct.num_rows
    )
    return distinct


def _as_strings(location: Location, columns: list[str]) -> pa.Table:
    with storage_errors(location.uri):
        try:
            source = pads.dataset(
                location.path, filesystem=location.arrow_filesystem(), format="parquet"
            )
            missing = [column for column in columns if column not in source.schema.names]
            if missing:
                raise DataError(
                    f"{location}: missing column(s) {', '.join(missing)}; "
                    f"expected {', '.join(columns)}, saw {', '.join(source.schema.names)}; "
                    "rename or add them"
                )
            table = source.to_table(columns=columns)
            for column in columns:
                _check_type(location, table.schema.field(column))
            # Ids may be integers. A null counts as an empty id or text.
            return pa.table(
                {column: pc.fill_null(table[column].cast(pa.string()), "") for column in columns}
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{location}: expected Parquet files with the columns {', '.join(columns)}: {error}"
            ) from error


def _check_type(location: Location, field: pa.Field) -> None:
    allowed = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_null)
    if not any(is_type(field.type) for is_type in allowed):
        raise DataError(
            f"{location}: column {field.name} has type {field.type}; expected strings or integers "
            "(1.0 is not the id 1)"
        )


def _distinct(rows: pa.Table, keys: list[str]) -> pa.Table:
    """The first row of each combination of `keys`, sorted by them."""
    first = ~rows.select(keys).to_pandas().duplicated().to_numpy(dtype=bool)
    return (
        rows.filter(pa.array(first)).sort_by([(key, "ascending") for key in keys]).combine_chunks()
    )
