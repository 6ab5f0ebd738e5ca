"""Rows that an earlier run did already, for a task that can tell whether they are still good.

The earlier run's table is pinned at one version while a run carries rows over from it, so a retry,
a compaction or a vacuum there changes nothing here. Rows are copied; afterwards the earlier run may
be deleted.
"""

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from xrec.bulk.keys import key_hash
from xrec.bulk.row_format import OK, RowFormat
from xrec.bulk.state import read_state
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import open_location, storage_errors
from xrec.table import Table
from xrec.table.pins import delete_pin


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
    """Pin the newest version of the earlier run at `uri`, which must be finished.

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
    table.pin(pin, version)
    return CarryFrom(
        uri=table.location.shared_uri, run=run, num_buckets=num_buckets, version=version, pin=pin
    )


class EarlierRows:
    """The rows that succeeded in an earlier run, for an actor."""

    def __init__(self, earlier: CarryFrom, format: RowFormat, storage: StorageConfig):
        self._format = format
        self._num_buckets = earlier.num_buckets
        table = Table.open(earlier.uri, run=earlier.run, storage=storage)
        self._snapshot = table.snapshot(earlier.version)
        self._uri = earlier.uri

    def of(self, rows: pa.Table) -> pa.Table:
        """The earlier rows (`RowFormat.ok_schema`) with the keys of `rows`, in their order."""
        schema, keys = self._format.ok_schema, list(self._format.keys)
        ids = set(rows[keys[0]].to_pylist())
        buckets = sorted({key_hash(id_) % self._num_buckets for id_ in ids})
        with storage_errors(self._uri):
            earlier = self._snapshot.dataset(
                [("status", "=", OK), ("bucket", "in", buckets)]
            ).to_table(columns=schema.names)
        return self._format.sorted(
            earlier.join(rows.select(keys), keys, join_type="left semi").select(schema.names)
        ).cast(schema)
