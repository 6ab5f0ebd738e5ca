"""Which items may be recommended to whom: a table of items, and optionally one of users.

A row of the table of items offers its item to the users who have the same value in each column of
the table of users; an empty cell offers it to all. An item without a row is offered to nobody, and
a user without a value only gets the items that are offered to all.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from xrec.config import RecommendConfig, StorageConfig
from xrec.data import Dataset
from xrec.errors import DataError
from xrec.storage import check_columns, open_location

_ANYONE, _UNKNOWN = 0, -1
"""The codes of an empty cell in the table of items, and of a user's value that no item has."""


def table_inputs(config: RecommendConfig) -> dict[str, str]:
    """Return the content hash of each table of items or users, by name."""
    uris = {"unnamed_items": config.unnamed, "categories": config.categories}
    if config.eligible is not None:
        uris |= {"eligible_items": config.eligible.items, "eligible_users": config.eligible.users}
    return {
        name: open_location(uri, config.storage).digest()
        for name, uri in uris.items()
        if uri is not None
    }


@dataclass(frozen=True)
class Eligibility:
    """The offers of items, which match users whose values have the same codes.

    items: (R,) int64, the item of each offer. offers: (R, M) int32, its codes; 0 matches anyone.
    values: (G, M) int32, the distinct rows of codes of users. users: (U,) int64, each user's row.
    """

    items: npt.NDArray[np.int64]
    offers: npt.NDArray[np.int32]
    values: npt.NDArray[np.int32]
    users: npt.NDArray[np.int64]

    def groups(
        self, users: npt.NDArray[np.int64], num_items: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield users (G,) with the same values, and the items (X,) not eligible for them."""
        groups = self.users[users]
        for group in np.unique(groups):
            codes = self.values[group]
            is_offered = ((self.offers == _ANYONE) | (self.offers == codes)).all(axis=1)
            is_out = np.ones(num_items, np.bool_)
            is_out[self.items[is_offered]] = False
            yield users[groups == group], np.flatnonzero(is_out)


def read_eligibility(config: RecommendConfig, dataset: Dataset) -> Eligibility | None:
    """Return the eligibility set by `config`; None if all items are eligible for all users.

    Raises DataError if a table lacks a column or cannot be read, or offers no item of the dataset.
    """
    if (tables := config.eligible) is None:
        return None
    users_table = _read(tables.users, "user_id", config.storage) if tables.users else None
    match = [] if users_table is None else users_table.column_names[1:]
    offers = _read(tables.items, "item_id", config.storage, match)
    items = dataset.item_ids.rows(offers["item_id"])
    offers, items = offers.filter(pa.array(items >= 0)), items[items >= 0]
    if not len(items):
        raise DataError(
            f"{tables.items}: none of its items is in the dataset, so nothing can be "
            "recommended; check eligible.items",
            code="nothing_eligible",
            key="eligible.items",
            saw=tables.items,
        )
    known = [["", *filter(None, offers[name].unique().to_pylist())] for name in match]
    of_offers = _codes([offers[name] for name in match], known, len(items))
    columns = [] if users_table is None else _of_users(users_table, dataset)
    of_users = _codes(columns, known, dataset.num_users)
    values, users = np.unique(of_users, axis=0, return_inverse=True)
    return Eligibility(items, of_offers, values, users.ravel())


def unnamed_items(config: RecommendConfig, dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Return which items no reason names, (I,); raises DataError for a table without item_id."""
    is_unnamed = np.zeros(dataset.num_items, np.bool_)
    if config.unnamed is not None:
        ids = _read(config.unnamed, "item_id", config.storage, ())["item_id"]
        items = dataset.item_ids.rows(ids)
        is_unnamed[items[items >= 0]] = True
    return is_unnamed


def item_categories(config: RecommendConfig, dataset: Dataset) -> npt.NDArray[np.object_]:
    """Return each item's category, (I,) of strings, "" for none.

    Raises DataError for a table without item_id or category.
    """
    categories = np.full(dataset.num_items, "", np.object_)
    if config.categories is not None:
        rows = _read(config.categories, "item_id", config.storage, ("category",))
        items = dataset.item_ids.rows(rows["item_id"])
        categories[items[items >= 0]] = rows["category"].to_numpy()[items >= 0]
    return categories


def _of_users(rows: pa.Table, dataset: Dataset) -> Sequence[pa.ChunkedArray]:
    """Return the columns of `rows` with the value of each dataset user, null if unknown."""
    places = pc.index_in(dataset.users["user_id"], value_set=rows["user_id"].combine_chunks())
    values = rows.drop(["user_id"]).take(places)
    blank = pa.scalar(None, pa.string())
    return [pc.if_else(pc.equal(column, ""), blank, column) for column in values.columns]


def _codes(
    columns: Sequence[pa.ChunkedArray], known: Sequence[Sequence[str]], num_rows: int
) -> npt.NDArray[np.int32]:
    """Return the index of each value among the known ones, (N, M); -1 if null or unknown."""
    codes = np.empty((num_rows, len(columns)), np.int32)
    for column, (values, texts) in enumerate(zip(columns, known, strict=False)):
        places = pc.index_in(values, value_set=pa.array(texts, pa.string()), skip_nulls=True)
        codes[:, column] = places.fill_null(_UNKNOWN).to_numpy()
    return codes


def _read(
    uri: str, key: str, storage: StorageConfig, others: Sequence[str] | None = None
) -> pa.Table:
    """Return columns of a Parquet or CSV file as strings; null becomes the empty string.

    The columns are `key`, then `others`, or all others if that is None.
    """
    data = open_location(uri, storage).read_bytes()
    try:
        if uri.lower().endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
        else:
            names = pa.csv.open_csv(io.BytesIO(data)).schema.names
            texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            table = pa.csv.read_csv(io.BytesIO(data), convert_options=texts)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{uri}: expected a Parquet or CSV file: {error}; convert it",
            code="broken_file",
            key="eligible",
            saw=uri,
        ) from error
    if others is None:
        others = [name for name in table.column_names if name != key]
    check_columns(uri, (key, *others), table.column_names)
    texts = [table[name].cast(pa.string()).fill_null("") for name in (key, *others)]
    return pa.table(texts, names=[key, *others])
