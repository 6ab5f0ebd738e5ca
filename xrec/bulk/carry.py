"""Rows that an earlier run did already, for a task that can tell whether they are still good.

The earlier run's table is pinned at one version while a run carries rows over from it, so a retry,
a compaction or a vacuum there changes nothing here. A file all of whose rows are still good is
copied by the store as it is; other rows are written anew. Afterwards the earlier run may be
deleted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from xrec.bulk.keys import key_hash
from xrec.bulk.row_format import OK, RowFormat
from xrec.bulk.state import read_state
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import Location, open_location, storage_errors
from xrec.table import Table
from xrec.table.pins import delete_pin

FILE = "__filename"
"""The column in which pyarrow gives the file of each row of a dataset."""
_FILE_FIELD = pa.field(FILE, pa.string())


class CarryFrom(BaseModel):
    """The version of an earlier run that rows are carried over from.

    num_buckets: of the earlier run. pin: the name of the pin that keeps the version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    run: str
    num_buckets: int
    version: int
    pin: str

    def release(self, storage: StorageConfig) -> None:
        """Let vacuum delete the version; nothing happens if its table is no longer there."""
        delete_pin(open_location(self.uri, storage), self.pin)


def pin_earlier(
    uri: str, run: str, num_buckets: int, format: RowFormat, pin: str, storage: StorageConfig
) -> CarryFrom:
    """Pin the newest version of the earlier run at `uri`; raises what `find_earlier` raises."""
    table, version = find_earlier(uri, run, format, storage)
    table.pin(pin, version)
    return CarryFrom(
        uri=table.location.shared_uri, run=run, num_buckets=num_buckets, version=version, pin=pin
    )


def find_earlier(
    uri: str, run: str, format: RowFormat, storage: StorageConfig
) -> tuple[Table, int]:
    """The table of the earlier run at `uri`, which must be finished, and its newest version.

    Raises ArtifactNotFoundError if it is not finished, ArtifactMismatchError if its rows have other
    columns.
    """
    table = Table.open(uri, run=run, storage=storage)
    version = table.newest_version()
    _, state = read_state(table, version)
    if state is None or state.state != "finished":
        raise ArtifactNotFoundError(
            f"{uri}: the run is not finished, so nothing can be carried over from it; finish it "
            "first"
        )
    there = {field.name: field.type for field in table.format.schema}
    wanted = {field.name: field.type for field in format.ok_schema}
    differing = [name for name, type_ in wanted.items() if there.get(name) != type_]
    if differing:
        raise ArtifactMismatchError(
            f"{uri}: its rows have other columns, so none can be carried over: "
            + ", ".join(
                f"{name}: {there.get(name)} there, {wanted[name]} here" for name in differing
            )
        )
    return table, version


@dataclass(frozen=True)
class Carried:
    """The rows of a chunk that are still good.

    rows: those that are to be written anew (`RowFormat.ok_schema`).
    files: names of files of the earlier table, with their bytes, all of whose rows are still good
        and belong to the chunk; they are copied as they are. keys: of the rows in these files.
    """

    rows: pa.Table
    files: Mapping[str, int]
    keys: pa.Table


class EarlierRows:
    """The rows that succeeded in an earlier run, for an actor.

    num_buckets: of the run that carries them over. Whole files are copied if the earlier run has as
    many, because a file's rows have their buckets in it.
    """

    def __init__(
        self, earlier: CarryFrom, format: RowFormat, num_buckets: int, storage: StorageConfig
    ):
        self._format = format
        self._num_buckets = earlier.num_buckets
        table = Table.open(earlier.uri, run=earlier.run, storage=storage)
        self._location = table.location
        self._snapshot = table.snapshot(earlier.version)
        self._may_copy = earlier.num_buckets == num_buckets and table.format == format.table

    def of(self, rows: pa.Table) -> pa.Table:
        """The earlier rows with the keys of `rows`, in their order.

        They have the columns of `RowFormat.ok_schema`, and `FILE`.
        """
        schema, keys = self._format.ok_schema.append(_FILE_FIELD), list(self._format.keys)
        ids = set(rows[keys[0]].to_pylist())
        buckets = sorted({key_hash(id_) % self._num_buckets for id_ in ids})
        with storage_errors(self._location.uri):
            earlier = self._snapshot.dataset(
                [("status", "=", OK), ("bucket", "in", buckets)]
            ).to_table(columns=schema.names)
        return self._format.among(earlier, rows).cast(schema)

    def divide(self, good: pa.Table, may_copy: bool) -> Carried:
        """Tell rows whose whole file can be copied from those that are to be written anew.

        good: rows as `of` gives them, all of which are still good. may_copy: whether the rows of a
        file of the earlier table may be in one file of this run.
        """
        root = f"{self._location.path.rstrip('/')}/"
        counts = good.group_by(FILE).aggregate([([], "count_all")]).to_pylist()
        num_good = {count[FILE].removeprefix(root): count["count_all"] for count in counts}
        whole = {
            file["path"]: file["num_bytes"]
            for file in (self._sizes(list(num_good)) if may_copy and self._may_copy else ())
            if file["num_rows"] == num_good[file["path"]]
        }
        copied = pa.array([f"{root}{path}" for path in whole], pa.string())
        is_copied = pc.is_in(good[FILE], copied)
        return Carried(
            good.filter(pc.invert(is_copied)).select(self._format.ok_schema.names),
            whole,
            good.filter(is_copied).select(self._format.keys),
        )

    def location(self, path: str) -> Location:
        """Where a file of the earlier table lies."""
        return self._location / path

    def _sizes(self, paths: list[str]) -> list[dict[str, Any]]:
        """What the earlier table's log says of these files."""
        files = self._snapshot.files()
        named = files.filter(pc.is_in(files["path"], pa.array(paths, pa.string())))
        sizes: list[dict[str, Any]] = named.to_pylist()
        return sizes
