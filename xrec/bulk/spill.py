"""Keeps all rows of a run on this machine's disk, so that they need not fit in memory.

One pass over the input writes the N rows to 256 files by the first bits of the hash of their first
key. A second pass sorts each file and drops duplicates. A file is read as a whole, so memory is
needed for N / 256 rows: 1e8 rows of two short ids take about 40 MB a file, and 3 GB of disk.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.keys import key_hashes, rows_hash
from xrec.storage import fingerprint_of

_FILE_BITS = 8
EARLIER = "earlier"
"""The column of a planned row that has what an earlier run wrote for it, or null."""


class Spill:
    """The distinct rows of `batches`, whose columns are all keys, on disk.

    `num_given` counts the rows with duplicates, `num_rows` without. `fingerprint` is a hash of the
    set of rows, which does not depend on their order.
    """

    def __init__(self, batches: Iterable[pa.Table], schema: pa.Schema):
        self._schema = schema
        self._folder = TemporaryDirectory(prefix="xrec-rows-")
        self.num_given = _deal(batches, schema, self._path)
        self._files = [file for file in range(2**_FILE_BITS) if self._path(file).exists()]
        summaries = [self._sort(file) for file in self._files]
        self.num_rows = sum(num_rows for num_rows, _ in summaries)
        self.fingerprint = fingerprint_of(
            [[file, digest] for file, (_, digest) in zip(self._files, summaries, strict=True)]
        )

    def chunks(
        self,
        rows_per_chunk: int,
        num_buckets: int,
        earlier: Iterable[pa.Table] = (),
        earlier_schema: pa.Schema | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the rows by bucket and keys, with the column `bucket`, a chunk at a time.

        A chunk has at most `rows_per_chunk` rows, and those of a value of the first key unless they
        are more.

        earlier: rows with the same keys, which stand in the column `EARLIER` beside theirs.
        """
        if earlier_schema is None:
            return self._cut(self._buckets(num_buckets), rows_per_chunk)
        num_earlier = _deal(earlier, earlier_schema, self._earlier_path)
        schema = earlier_schema if num_earlier else None
        return self._cut(self._buckets(num_buckets, schema), rows_per_chunk)

    def delete(self) -> None:
        """Delete the rows from the disk."""
        self._folder.cleanup()

    def _path(self, file: int) -> Path:
        return Path(self._folder.name) / f"{file:03d}.arrow"

    def _earlier_path(self, file: int) -> Path:
        return Path(self._folder.name) / f"{file:03d}-earlier.arrow"

    def _sort(self, file: int) -> tuple[int, str]:
        """Sort a file's rows and drop duplicates; returns the number of rows and their hash."""
        names = self._schema.names
        distinct = _read(self._path(file)).group_by(names).aggregate([])
        rows = _sorted(distinct.select(names).cast(self._schema), names)
        with pa.ipc.new_stream(str(self._path(file)), self._schema) as writer:
            writer.write_table(rows)
        return rows.num_rows, rows_hash(rows)

    def _buckets(
        self, num_buckets: int, earlier_schema: pa.Schema | None = None
    ) -> Iterator[pa.Table]:
        """The rows of each file, by bucket; later files have later buckets."""
        for file in self._files:
            rows = _read(self._path(file))
            buckets = buckets_of(rows.column(0), num_buckets)
            rows = rows.append_column(pa.field("bucket", pa.int32(), nullable=False), buckets)
            if earlier_schema is not None:
                path = self._earlier_path(file)
                rows = _with_earlier(rows, self._schema.names, path, earlier_schema)
            yield _sorted(rows, ["bucket", *self._schema.names])

    def _cut(self, tables: Iterable[pa.Table], rows_per_chunk: int) -> Iterator[pa.Table]:
        held: pa.Table | None = None
        for table in tables:
            rows = table if held is None else pa.concat_tables([held, table])
            ends = _group_ends(rows.column(0))
            start = 0
            while rows.num_rows - start > rows_per_chunk:
                last = int(np.searchsorted(ends, start + rows_per_chunk, side="right")) - 1
                stop = int(ends[last]) if last >= 0 else 0
                if stop <= start:
                    stop = start + rows_per_chunk
                yield rows.slice(start, stop - start).combine_chunks()
                start = stop
            held = rows.slice(start)
        if held is not None and held.num_rows:
            yield held.combine_chunks()


def buckets_of(ids: pa.ChunkedArray, num_buckets: int) -> pa.Array:
    """For each of N first keys its bucket, (N,) int32: which of C equal ranges has its hash."""
    hashes = key_hashes(ids)
    # The first 32 bits, times C, divided by 2^32: exact in 64 bits for C below 2^31.
    first: npt.NDArray[np.uint64] = (hashes >> np.uint64(32)) * np.uint64(num_buckets)
    return pa.array((first >> np.uint64(32)).astype(np.int32))


def _deal(batches: Iterable[pa.Table], schema: pa.Schema, path_of: Callable[[int], Path]) -> int:
    """Write each batch's rows to their files; returns the number of rows."""
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    num_rows = 0
    try:
        for batch in batches:
            num_rows += batch.num_rows
            for file, rows in _by_file(batch.select(schema.names).cast(schema)):
                if file not in writers:
                    writers[file] = pa.ipc.new_stream(str(path_of(file)), schema)
                writers[file].write_table(rows)
    finally:
        for writer in writers.values():
            writer.close()
    return num_rows


def _by_file(rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Yield each file's number with its rows, in their order."""
    if not rows.num_rows:
        return
    values = key_hashes(rows.column(0)) >> np.uint64(64 - _FILE_BITS)
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    ordered = rows.take(pa.array(order))
    sizes = np.diff(starts, append=len(order))
    for value, start, num_rows in zip(found, starts, sizes, strict=True):
        yield int(value), ordered.slice(start, num_rows)


def _with_earlier(rows: pa.Table, keys: Sequence[str], path: Path, schema: pa.Schema) -> pa.Table:
    """The rows with a struct of the earlier row with their keys, null where there is none."""
    fields = [field.with_nullable(True) for field in schema]  # a null struct has null children
    structs = pa.nulls(rows.num_rows, pa.struct(fields))
    if path.exists():
        there = _read(path)
        number = pa.array(range(there.num_rows), pa.int64())
        numbered = there.select(keys).append_column("", number).group_by(keys)
        place = pa.array(range(rows.num_rows), pa.int64())
        joined = (
            rows.select(keys)
            .append_column(" ", place)
            .join(numbered.aggregate([("", "min")]), list(keys), join_type="left outer")
        )
        indices = joined.sort_by(" ")["_min"].combine_chunks()
        columns = [column.combine_chunks() for column in there.columns]
        whole = pa.StructArray.from_arrays(columns, fields=fields)
        structs = whole.take(indices)
    return rows.append_column(EARLIER, structs)


def _group_ends(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Where each run of equal values ends, in increasing order."""
    ids = pa.chunked_array(column).combine_chunks()
    if len(ids) < 2:
        return np.array([len(ids)], dtype=np.int64)
    differs = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.append(np.flatnonzero(differs) + 1, len(ids)).astype(np.int64)


def _sorted(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in names])


def _read(path: Path) -> pa.Table:
    with pa.ipc.open_stream(str(path)) as reader:
        return reader.read_all()
