"""The rows of a published version that a plan takes over, read by ranges of buckets.

A version and a plan divide rows by the same hash, but into different numbers of buckets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.runs.plan import EARLIER
from xrec.bulk.runs.row_format import RowFormat
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.errors import ArtifactMismatchError
from xrec.storage import Location, row_groups
from xrec.storage.delta import (
    FEW_AT_ONCE,
    DeltaLog,
    check_sound,
    file_errors,
    files_of,
    open_log,
)

ROWS_AT_ONCE = 2**16
_PLACE = "place"


@dataclass(frozen=True)
class Earlier:
    """The rows of the newest version of a table, without those that are on its list `taken`.

    num_buckets: of the table.
    """

    log: DeltaLog
    format: RowFormat
    taken: Takedowns
    num_buckets: int

    def beside(self, rows: pa.Table, num_buckets: int) -> pa.Table:
        """Return planned rows with the column `EARLIER`, null where the version has no such row.

        rows: by bucket, of which there are `num_buckets`; a power of two.
        """
        planned = _joined(rows, self.format.keys)
        schema = self.format.table_schema
        found = [schema.empty_table().append_column(_PLACE, pa.array([], pa.int32()))]
        for earlier in self._near(rows, num_buckets):
            places = pc.index_in(_joined(earlier, self.format.keys), value_set=planned)
            known = earlier.append_column(_PLACE, places).filter(pc.is_valid(places))
            found.append(self.taken.without(known))
        known = pa.concat_tables(found).combine_chunks()
        which = np.full(rows.num_rows, -1)
        which[known[_PLACE].to_numpy()] = np.arange(known.num_rows)
        nullable = pa.schema([field.with_nullable(True) for field in schema]).remove_metadata()
        structs = known.select(schema.names).cast(nullable).to_struct_array()
        column = structs.take(pa.array(which, mask=which < 0))
        return rows.append_column(EARLIER, column)

    def _near(self, rows: pa.Table, num_buckets: int) -> Iterator[pa.Table]:
        """Yield the version's rows in the buckets of `rows`."""
        if not rows.num_rows:
            return
        ends = (rows["bucket"][0].as_py(), rows["bucket"][-1].as_py() + 1)
        least = ends[0] * self.num_buckets // num_buckets
        greatest = (ends[1] * self.num_buckets - 1) // num_buckets
        sizes = {
            file["path"]: file["num_bytes"]
            for file in self.log.files(self.log.version).to_pylist()
            if file["min.bucket"] is None
            or (file["min.bucket"] <= greatest and file["max.bucket"] >= least)
        }
        location, schema, bucket = self.log.location, self.format.table_schema, pc.field("bucket")
        # The files are opened anew for each range: a dataset would keep the footers of all.
        batches = files_of(location, sizes, schema).to_batches(
            columns=schema.names,
            filter=(bucket >= least) & (bucket <= greatest),
            **FEW_AT_ONCE,
        )
        tables = (pa.Table.from_batches([each]) for each in batches if each.num_rows)
        with file_errors(location):
            yield from row_groups(tables, ROWS_AT_ONCE)


def open_earlier(location: Location, format: RowFormat, output: Location) -> Earlier | None:
    """The rows of what is published at `location`; None if nothing is.

    It is also None if the table is that of `output` and has other columns, since an older xrec
    published it. Raises ArtifactMismatchError if another table has other columns; TableError if its
    newest version is not sound; StorageError.
    """
    log = open_log(location)
    if log is None:
        return None
    check_sound(log)
    shown = log.decided_by(log.version)
    if shown is None or shown.manifest is None:
        return None
    there = pa.schema(log.delta.schema().to_arrow())
    types = dict(zip(there.names, there.types, strict=True))
    differing = [
        f"{field.name}: {types.get(field.name, 'none')} there, {field.type} here"
        for field in format.table_schema
        if types.get(field.name) != field.type
    ]
    if differing and location.shared_uri == output.shared_uri:
        return None
    if differing:
        raise ArtifactMismatchError(
            f"{location}: its rows have other columns, so none can be carried over: "
            + ", ".join(differing),
            code="other_columns",
            key=differing[0].partition(":")[0],
            saw=differing,
        )
    return Earlier(log, format, read_takedowns(location), shown.manifest.metrics["num_buckets"])


def _joined(rows: pa.Table, keys: Sequence[str]) -> pa.ChunkedArray:
    """The keys of each row as one text, with the length of each key, so that no two are alike."""
    parts = []
    for name in keys:
        parts += [pc.cast(pc.binary_length(rows[name]), pa.string()), rows[name]]
    return pc.binary_join_element_wise(*parts, " ")
