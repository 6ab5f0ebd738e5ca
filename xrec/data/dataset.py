"""The dataset artifact: users, items, who interacted with what, and the known explanations.

Later stages read only the dataset, never the raw data. Row r of `users` has user_index r. If the
dataset extends an earlier one, the row of a user or an item that is gone is a hole: its ID and
texts are empty, and its index is in no other table. The tables of a dataset that was read are
memory-mapped files of the node (xrec.storage.mapped), so their columns are chunked: read text
columns one row at a time or with `taken`, and never combine their chunks.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec import schemas
from xrec.config import Split, StorageConfig
from xrec.data.ids import IdIndex
from xrec.errors import DataError, UnknownIdError
from xrec.storage import (
    Arrays,
    Location,
    Manifest,
    fingerprint_of,
    map_table,
    mapped_arrays,
    open_location,
    read_footer,
    read_manifest,
    write_manifest,
    write_table,
)

AspectsFrom = Literal["reviews", "profiles"]
Index = TypeVar("Index", int, npt.NDArray[np.int64])
SECOND_BITS = 32
"""How many bits of a key (`index_keys`) its second index has."""
ASPECTS_FROM = "aspects_from"  # a metric in the manifest
EXTENDS = "extends"
"""Metric in the manifest: fingerprints of the datasets that it extends, most recent first."""
KEPT = "kept"
"""Metric in the manifest: the share of the previous dataset that is left, by table."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """The tables, in the schemas of xrec.schemas, with U users and I items.

    `interactions` and `explanations` contain each pair once, sorted by user and item. No pair whose
    explanation is held out (validation or test) is a training interaction. `dislikes` are pairs
    that are never recommended. `training_profiles` are the profiles for training explanations,
    written without the pair's own review; they exist only if the source has reviews. Otherwise the
    profiles are as the source gave them, and may repeat what the pair's review says. Only the
    generated sample has `planted`. The tables of aspects exist if `aspects_from` is not None, and
    count training pairs only. `explanation_aspects` also has held-out pairs, whose aspects are
    references. `low_rated_aspects` is what users said about items that they disliked, by item, and
    `low_rated_user_aspects` by user.

    Rows are in the order of their IDs, unless `user_order` and `item_order` list the indices in
    that order. Only in that case can there be holes; U and I include them. `user_holes` and
    `item_holes` have the IDs for which a hole is kept.

    `on_disk` is `interactions` as read from the manifest's file; its edges can be cached on this
    node.
    """

    manifest: Manifest
    users: pa.Table
    items: pa.Table
    interactions: pa.Table
    explanations: pa.Table
    dislikes: pa.Table | None = None
    training_profiles: pa.Table | None = None
    planted: pa.Table | None = None
    aspects: pa.Table | None = None
    item_aspects: pa.Table | None = None
    user_aspects: pa.Table | None = None
    explanation_aspects: pa.Table | None = None
    low_rated_aspects: pa.Table | None = None
    low_rated_user_aspects: pa.Table | None = None
    user_order: pa.Table | None = None
    item_order: pa.Table | None = None
    user_holes: pa.Table | None = None
    item_holes: pa.Table | None = None
    on_disk: pa.Table | None = None

    @property
    def aspects_from(self) -> AspectsFrom | None:
        """What the tables of aspects count; None if the dataset has no aspects.

        reviews: the training reviews of a user or an item that mention the aspect.
        profiles: 1 for an item whose profile has the aspect; for a user, the number of items in
            their training interactions whose profiles have the aspect.
        """
        if self.aspects is None:
            return None
        # Datasets from before profiles had aspects lack this metric.
        return cast(AspectsFrom, self.manifest.metrics.get(ASPECTS_FROM, "reviews"))

    @property
    def num_users(self) -> int:
        """The number of users, U."""
        return int(self.users.num_rows)

    @property
    def num_items(self) -> int:
        """The number of items, I."""
        return int(self.items.num_rows)

    def user_index(self, user_id: str) -> int:
        """Return the row of `user_id`, 0 to U - 1; raise UnknownIdError if it is unknown."""
        return _known("user", self.user_ids, user_id)

    def item_index(self, item_id: str) -> int:
        """Return the row of `item_id`, 0 to I - 1; raise UnknownIdError if it is unknown."""
        return _known("item", self.item_ids, item_id)

    @cached_property
    def user_ids(self) -> IdIndex:
        """The index that finds the rows of user IDs."""
        return self._ids("user", self.users, self.user_order)

    @cached_property
    def item_ids(self) -> IdIndex:
        """The index that finds the rows of item IDs."""
        return self._ids("item", self.items, self.item_order)

    def _ids(self, what: str, rows: pa.Table, order: pa.Table | None) -> IdIndex:
        return IdIndex(rows[f"{what}_id"], None if order is None else order[f"{what}_index"])

    @cached_property
    def lost_items(self) -> npt.NDArray[np.int64]:
        """The indices of holes among the items; they must never be ranked, whatever their score."""
        if self.item_order is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(pc.equal(self.items["item_id"], "").to_numpy())

    def interaction_edges(self, split: Split) -> npt.NDArray[np.int64]:
        """Return the split's E interactions, (2, E) int64; the rows are user and item indices.

        They are unique and sorted by user and item. For a dataset that was read, the array is a
        copy-on-write memory map.
        """

        def make() -> Arrays:
            batches = self.interactions.to_batches()  # to filter all at once would copy the table
            edges = (edges_of(each.filter(pc.equal(each["split"], split))) for each in batches)
            return {"edges": np.concatenate([np.empty((2, 0), np.int64), *edges], axis=1)}

        return self._cached(("interactions",), f"{split}-edges", make)["edges"]

    def chosen_edges(self) -> npt.NDArray[np.int64]:
        """Return the training interactions that users did not dislike, like `interaction_edges`."""
        edges, dislikes = self.interaction_edges("train"), self.dislikes
        if dislikes is None or not dislikes.num_rows:
            return edges

        def make() -> Arrays:
            return {"edges": edges[:, ~np.isin(index_keys(*edges), pair_keys(dislikes))]}

        return self._cached(("interactions", "dislikes"), "chosen", make)["edges"]

    def known_edges(self) -> npt.NDArray[np.int64]:
        """Return the E pairs that are never recommended, (2, E) int64, sorted by user.

        They are the interactions of all splits and the items that users disliked. For a dataset
        that was read, the array is a copy-on-write memory map.
        """

        def make() -> Arrays:
            tables = [self.interactions, *([] if self.dislikes is None else [self.dislikes])]
            edges = np.concatenate([edges_of(table) for table in tables], axis=1)
            return {"edges": edges[:, edges[0].argsort(kind="stable")]}

        return self._cached(("interactions", "dislikes"), "known", make)["edges"]

    def _cached(self, tables: Sequence[str], what: str, make: Callable[[], Arrays]) -> Arrays:
        """Return arrays made from tables; on this node they are made once if they are on disk."""
        if self.interactions is not self.on_disk:
            return make()
        files = [self.manifest.files.get(f"{table}.parquet", "") for table in tables]
        return mapped_arrays("-".join([*files, what]), make)

    def explained_pairs(self, split: Split) -> pa.Table:
        """Return the split's rows of `explanations` (schema EXPLANATIONS), by user and item."""
        return _of_split(self.explanations, split)

    def profiles_of(
        self, user_index: int, item_index: int, *, leave_out_own: bool
    ) -> tuple[str, str]:
        """Return the profiles of the user and the item.

        With `leave_out_own`, an explained training pair gets the profiles that were written without
        its review, if there are any (`training_profiles`).
        """
        if leave_out_own and self.training_profiles is not None:
            row = self.training_row(user_index, item_index)
            if row is not None:
                of_pair = (
                    self.training_profiles[name] for name in ("user_profile", "item_profile")
                )
                user, item = (column[row].as_py() for column in of_pair)
                return user, item
        return (
            self.users["profile"][user_index].as_py(),
            self.items["profile"][item_index].as_py(),
        )

    def training_row(self, user_index: int, item_index: int) -> int | None:
        """Return the row of a pair among the explained training pairs; None if it is not one."""
        key = index_keys(user_index, item_index)
        row = int(np.searchsorted(self._training_keys, key))
        is_known = row < len(self._training_keys) and self._training_keys[row] == key
        return row if is_known else None

    @cached_property
    def _training_keys(self) -> npt.NDArray[np.int64]:
        """The `pair_keys` of the explained training pairs, in ascending order."""
        pairs = self.explanations.select(["user_index", "item_index", "split"])
        keys = pair_keys(_of_split(pairs, "train"))
        assert (keys[1:] > keys[:-1]).all(), "the explanations are not sorted"
        return keys


_SCHEMAS: dict[str, pa.Schema] = {
    each.name: getattr(schemas, each.name.upper())
    for each in fields(Dataset)
    if each.name not in ("manifest", "on_disk")
}


def read_dataset(location: Location) -> Dataset:
    """Return the dataset at `location`, mapped; each node fetches and decodes its files once.

    Raises ArtifactNotFoundError if there is no finished dataset, ArtifactMismatchError if the
    artifact has another kind or schema version or a file does not match the manifest, DataError if
    a table is not in its schema, and StorageError if the node's disk is full.
    """
    manifest = read_manifest(location, "dataset")
    tables = {
        name: map_table(location, manifest, f"{name}.parquet", schema)
        for name, schema in _SCHEMAS.items()
        if f"{name}.parquet" in manifest.files
    }
    return Dataset(manifest=manifest, on_disk=tables["interactions"], **tables)


def open_dataset(uri: str, storage: StorageConfig | None = None) -> Dataset:
    """Return the dataset at a path or s3:// URI; raise the errors of `read_dataset`."""
    return read_dataset(open_location(uri, storage or StorageConfig()))


def check_has_explanations(location: Location) -> None:
    """Raise DataError if the dataset at `location` has no explanations to train an adapter on.

    Reads only the manifest. Also raises whatever `read_manifest` raises.
    """
    if read_manifest(location, "dataset").row_counts["explanations"] == 0:
        raise DataError(
            f"{location}: this dataset has no explanations, and an adapter cannot be trained "
            "without them; add a table of explanations to the source, delete the dataset, and run "
            "`xrec prepare` again",
            code="no_explanations",
            key="dataset",
            saw=str(location),
        )


def write_dataset(
    location: Location,
    tables: Mapping[str, pa.Table | pa.RecordBatchReader],
    rejected: pa.Table | pa.RecordBatchReader,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, with its manifest last, and return the manifest.

    The fingerprint depends only on the content of the tables, but not on the IDs of holes.

    tables: users, items, interactions, explanations, and any of the optional tables of
        `Dataset`.
    rejected: the rows that were left out (schema REJECTED).
    config, inputs: everything that the content depends on.
    """
    all_tables = {**tables, "rejected": rejected}
    files = {
        f"{name}.parquet": write_table(
            location / f"{name}.parquet", table, _SCHEMAS.get(name, schemas.REJECTED)
        )
        for name, table in all_tables.items()
    }
    return write_manifest(
        location,
        "dataset",
        config=config,
        inputs=inputs,
        files=files,
        fingerprint=fingerprint_of(
            {name: files[f"{name}.parquet"] for name in tables if not name.endswith("_holes")}
        ),
        row_counts={
            name: read_footer(location / f"{name}.parquet").num_rows for name in all_tables
        },
        metrics=metrics,
    )


def _of_split(table: pa.Table, split: Split) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


def edges_of(pairs: pa.Table) -> npt.NDArray[np.int64]:
    """Return the user_index and item_index of E pairs, (2, E) int64."""
    columns = [pairs[name].to_numpy() for name in ("user_index", "item_index")]
    return np.stack(columns).astype(np.int64)


def pair_keys(pairs: pa.Table) -> npt.NDArray[np.int64]:
    """Return one int64 key for each of P pairs, (P,); keys sort by user, then by item."""
    users, items = edges_of(pairs)
    return index_keys(users, items)


def index_keys(first: Index, second: Index) -> Index:
    """Return one key for a pair of indices, or for each of several; keys sort like the pairs."""
    return (first << SECOND_BITS) + second


def taken(column: pa.ChunkedArray, rows: Iterable[int]) -> list[Any]:
    """Return a column's values at these rows; pyarrow's `take` would copy the whole column."""
    return [column[row].as_py() for row in rows]


def _known(what: str, ids: IdIndex, wanted: str) -> int:
    if (row := ids.find(wanted)) is None:
        raise UnknownIdError(
            f"{what} {wanted!r} is not among the {len(ids)} {what}s of the dataset",
            what,
            saw=wanted,
        )
    return row


@dataclass(frozen=True)
class HeldOutPair:
    """A held-out pair and its reference explanation.

    `aspect` (the one that the text should name) and `aspects` (all of the item's) are set only in
    the generated sample.
    """

    user_id: str
    item_id: str
    user_index: int
    item_index: int
    reference: str
    aspect: str | None = None
    aspects: tuple[str, ...] | None = None

    @property
    def ids(self) -> tuple[str, str]:
        """The IDs of the user and the item."""
        return self.user_id, self.item_id


def held_out_pairs(dataset: Dataset, split: Literal["validation", "test"]) -> list[HeldOutPair]:
    """Return the split's explained pairs, by user and item."""
    planted = {
        (row["user_index"], row["item_index"]): (row["aspect"], tuple(row["aspects"]))
        for row in ([] if dataset.planted is None else dataset.planted.to_pylist())
    }
    users, items, texts, _ = dataset.explained_pairs(split).to_pydict().values()
    ids = taken(dataset.users["user_id"], users), taken(dataset.items["item_id"], items)
    return [
        HeldOutPair(*pair, *planted.get(pair[2:4], ()))
        for pair in zip(*ids, users, items, texts, strict=True)
    ]
