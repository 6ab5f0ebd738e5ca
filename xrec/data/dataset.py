"""The dataset artifact: users, items, who interacted with what, and the known explanations.

Every later stage reads it and nothing else of the raw data. Rows are numbered: row r of `users` has
user_index r.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec import schemas
from xrec.config.shared import Split, StorageConfig
from xrec.errors import DataError, UnknownIdError
from xrec.storage import (
    Location,
    Manifest,
    fingerprint_of,
    open_location,
    read_footer,
    read_manifest,
    read_table,
    write_manifest,
    write_table,
)

AspectsFrom = Literal["reviews", "profiles"]
ASPECTS_FROM = "aspects_from"  # among the manifest's metrics


@dataclass(frozen=True, eq=False)
class Dataset:
    """The tables, in the schemas of xrec.schemas; U users, I items.

    `interactions` and `explanations` hold each pair once, sorted by user and item. No pair whose
    explanation is held out (validation or test) is a train interaction. `training_profiles` are the
    profiles of training explanations without their own review, where the source has reviews; else
    profiles are as the source gave them, and may hold what the pair's review says. Only the
    generated sample has `planted`. The tables of aspects are there if `aspects_from` says what they
    count; of training pairs only. `explanation_aspects` has held-out pairs too, whose aspects are
    references. `low_rated_aspects` are what reviews that are no interactions say of items, where
    the source has some. `reviewed` are the interactions without those that
    `extend_dataset` added, which have no reviews; None before it was called.
    """

    manifest: Manifest
    users: pa.Table
    items: pa.Table
    interactions: pa.Table
    explanations: pa.Table
    training_profiles: pa.Table | None = None
    planted: pa.Table | None = None
    aspects: pa.Table | None = None
    item_aspects: pa.Table | None = None
    user_aspects: pa.Table | None = None
    explanation_aspects: pa.Table | None = None
    low_rated_aspects: pa.Table | None = None
    reviewed: pa.Table | None = None

    @property
    def aspects_from(self) -> AspectsFrom | None:
        """What the tables of aspects count; null without them.

        reviews: the training reviews of a user or an item that mention the aspect.
        profiles: 1 for an item whose profile has the aspect; for a user, the items of their
            training interactions whose profiles have it.
        """
        if self.aspects is None:
            return None
        # Datasets that were made before profiles had aspects do not say it.
        return cast(AspectsFrom, self.manifest.metrics.get(ASPECTS_FROM, "reviews"))

    @property
    def num_users(self) -> int:
        """U."""
        return int(self.users.num_rows)

    @property
    def num_items(self) -> int:
        """I."""
        return int(self.items.num_rows)

    def user_index(self, user_id: str) -> int:
        """The row of `user_id`, 0 to U - 1; raises UnknownIdError."""
        return _look_up("user", self.user_indices, user_id)

    def item_index(self, item_id: str) -> int:
        """The row of `item_id`, 0 to I - 1; raises UnknownIdError."""
        return _look_up("item", self.item_indices, item_id)

    def interaction_edges(self, split: Split) -> npt.NDArray[np.int64]:
        """The E interactions of the split, (2, E) int64: row 0 has user indices, row 1 items'."""
        return edges_of(_of_split(self.interactions, split))

    def reviewed_edges(self, split: Split) -> npt.NDArray[np.int64]:
        """Those of `interaction_edges` that may have a review: none that came after training."""
        there = self.interactions if self.reviewed is None else self.reviewed
        return edges_of(_of_split(there, split))

    def explained_pairs(self, split: Split) -> pa.Table:
        """The split's rows of `explanations` (schema EXPLANATIONS), by user and item."""
        return _of_split(self.explanations, split)

    @cached_property
    def user_indices(self) -> dict[str, int]:
        """The row of each user_id."""
        return _rows_by_id(self.users["user_id"])

    @cached_property
    def item_indices(self) -> dict[str, int]:
        """The row of each item_id."""
        return _rows_by_id(self.items["item_id"])


_SCHEMAS: dict[str, pa.Schema] = {
    each.name: getattr(schemas, each.name.upper())
    for each in fields(Dataset)
    if each.name not in ("manifest", "reviewed")
}


def read_dataset(location: Location) -> Dataset:
    """The dataset at `location`.

    Raises ArtifactNotFoundError if there is no finished one, ArtifactMismatchError if the artifact
    is of another kind or schema version, DataError if a table is not in its schema.
    """
    manifest = read_manifest(location, "dataset")
    tables = {
        name: read_table(location / f"{name}.parquet", schema)
        for name, schema in _SCHEMAS.items()
        if f"{name}.parquet" in manifest.files
    }
    return Dataset(manifest=manifest, **tables)


def open_dataset(uri: str, storage: StorageConfig | None = None) -> Dataset:
    """The dataset at a path or s3:// URI; raises what `read_dataset` raises."""
    return read_dataset(open_location(uri, storage or StorageConfig()))


def check_has_explanations(location: Location) -> None:
    """Raise DataError if the dataset at `location` has no explanations to train an adapter on.

    Reads the manifest only; raises what `read_manifest` raises.
    """
    if read_manifest(location, "dataset").row_counts["explanations"] == 0:
        raise DataError(
            f"{location}: this dataset has no explanations, and an adapter learns from nothing "
            "else; add a table of explanations to the source, delete the dataset, and run "
            "`xrec prepare` again"
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
    """Write the artifact, its manifest last; returns the manifest.

    Its fingerprint is that of the tables' content, and of nothing else.

    tables: users, items, interactions, explanations; planted and tables of aspects, if
        there are.
    rejected: the rows that were left out (schema REJECTED).
    config, inputs: what the content depends on.
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
    """The columns user_index and item_index of E pairs, (2, E) int64."""
    columns = [pairs[name].to_numpy() for name in ("user_index", "item_index")]
    return np.stack(columns).astype(np.int64)


def pair_keys(pairs: pa.Table) -> npt.NDArray[np.int64]:
    """One number for each of P pairs by index, (P,); ordered by user, then item."""
    users, items = edges_of(pairs)
    return np.asarray((users << 32) + items)


def _rows_by_id(ids: pa.ChunkedArray) -> dict[str, int]:
    return {each: row for row, each in enumerate(ids.to_pylist())}


def _look_up(what: str, indices: Mapping[str, int], wanted: str) -> int:
    if wanted in indices:
        return indices[wanted]
    raise UnknownIdError(
        f"{what} {wanted!r} is not among the {len(indices)} {what}s of the dataset", what
    )


@dataclass(frozen=True)
class HeldOutPair:
    """A pair with the text that it came with.

    In the generated sample only, `aspect` is the right one to name, and `aspects` are all of the
    item's.
    """

    user_id: str
    item_id: str
    user_index: int
    item_index: int
    reference: str
    aspect: str | None = None
    aspects: tuple[str, ...] | None = None


def held_out_pairs(dataset: Dataset, split: Literal["validation", "test"]) -> list[HeldOutPair]:
    """The split's explained pairs, by user and item."""
    user_ids, item_ids = dataset.users["user_id"].to_pylist(), dataset.items["item_id"].to_pylist()
    planted = {
        (row["user_index"], row["item_index"]): (row["aspect"], tuple(row["aspects"]))
        for row in ([] if dataset.planted is None else dataset.planted.to_pylist())
    }
    rows = (row.values() for row in dataset.explained_pairs(split).to_pylist())
    return [
        HeldOutPair(
            user_ids[user], item_ids[item], user, item, text, *planted.get((user, item), ())
        )
        for user, item, text, _ in rows
    ]
