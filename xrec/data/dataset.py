"""The dataset artifact: users, items, who interacted with what, and the known explanations.

Later stages read only the dataset, never the raw data. Row r of `users` has user_index r. If the
dataset extends an earlier one, the row of a user or an item that is gone is a hole: its ID and
texts are empty, and its index is in no other table. The tables of a dataset that was read are
memory-mapped files of the node (xrec.storage.mapped), so their columns are chunked: read text
columns one row at a time or with `taken`, and never combine their chunks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
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
    mapped,
    mapped_arrays,
    open_location,
    read_footer,
    read_manifest,
    write_manifest,
    write_table,
)

AspectsFrom = Literal["reviews", "profiles"]
Index = TypeVar("Index", int, npt.NDArray[np.int64])
_KNOWN = ("interactions", "dislikes")
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
    references. `low_rated_aspects` is what reviews below the minimum rating say about items.

    Rows are in the order of their IDs, unless `user_order` and `item_order` list the indices in
    that order. Only in that case can there be holes; U and I include them.

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
    user_order: pa.Table | None = None
    item_order: pa.Table | None = None
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
        if self.interactions is not self.on_disk:
            return edges_of(_of_split(self.interactions, split))
        name = f"{self.manifest.files['interactions.parquet']}-{split}.npy"
        make = partial(_write_edges, self.interactions, split)
        return mapped(name, make, lambda path: np.asarray(np.load(path, mmap_mode="c")))

    def known_edges(self) -> npt.NDArray[np.int64]:
        """Return the E pairs that are never recommended, (2, E) int64, sorted by user.

        They are the interactions of all splits and the items that users disliked. For a dataset
        that was read, the array is a copy-on-write memory map.
        """

        def make() -> Arrays:
            tables = [self.interactions, *([] if self.dislikes is None else [self.dislikes])]
            edges = np.concatenate([edges_of(table) for table in tables], axis=1)
            return {"edges": edges[:, edges[0].argsort(kind="stable")]}

        if self.interactions is not self.on_disk:
            return make()["edges"]
        files = (self.manifest.files.get(f"{name}.parquet", "") for name in _KNOWN)
        return mapped_arrays(f"{'-'.join(files)}-known", make)["edges"]

    def explained_pairs(self, split: Split) -> pa.Table:
        """Return the split's rows of `explanations` (schema EXPLANATIONS), by user and item."""
        return _of_split(self.explanations, split)


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

    The fingerprint depends only on the content of the tables.

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
        fingerprint=fingerprint_of({name: files[f"{name}.parquet"] for name in tables}),
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


def _write_edges(interactions: pa.Table, split: Split, path: Path) -> None:
    """Write `Dataset.interaction_edges` batch by batch, first all users and then all items."""
    batches = interactions.to_batches()
    count = sum(pc.sum(pc.equal(batch["split"], split)).as_py() or 0 for batch in batches)
    header = {"descr": "<i8", "fortran_order": False, "shape": (2, count)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        for name in ("user_index", "item_index"):
            for batch in batches:
                indices = batch[name].filter(pc.equal(batch["split"], split))
                file.write(indices.to_numpy().astype("<i8").tobytes())


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
