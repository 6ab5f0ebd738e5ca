"""A plan: which rows are in which chunk, as files with one piece per chunk, and an index.

A piece is an Arrow stream of the chunk's rows. A plan is complete before a record names its folder,
to which nobody else writes. The record has a digest of the index, and the index has a digest of
each piece, so a damaged plan raises an error and never yields wrong rows. `Spill` sorts the rows
before they are planned.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec.bulk.rows import bare
from xrec.errors import DataError, StorageError, StorageNotFoundError
from xrec.storage import Location, Record, content_hash, fingerprint_of, row_groups, write_table

PART_BYTES = 64 * 2**20
_INDEX_FILE, _INDEX_ROWS = "chunks.parquet", 1024
_TYPES = {
    "part": pa.int32(),
    "start": pa.int64(),
    "num_bytes": pa.int64(),
    "rows": pa.int32(),
    "first": pa.int64(),  # first and last chunk of the first plan with any of these rows
    "last": pa.int64(),
    "digest": pa.binary(16),
}
_INDEX = pa.schema([pa.field(name, type_, nullable=False) for name, type_ in _TYPES.items()])
ORIGIN = "chunk"
"""The column, in a retry's plan, with the number of the row's chunk in the first plan."""
EARLIER = "earlier"
"""The column with what an earlier run wrote for a planned row, or null."""


class PlanSize(Record):
    """What a run's or pass's record says about its plan.

    parts: the size of each part in bytes. digest: of the index, as hex digits.
    """

    num_rows: int
    num_chunks: int
    parts: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Plan:
    """The plan in `folder`; row N of the index (56 bytes per row) describes chunk N."""

    folder: Location
    size: PlanSize

    @cached_property
    def index(self) -> pa.Table:
        """The index, read once; raises DataError if it is missing or was changed."""
        try:
            data = (self.folder / _INDEX_FILE).read_bytes()
        except StorageNotFoundError as error:
            raise self._broken(f"{_INDEX_FILE} is missing") from error
        if content_hash(data) != self.size.digest:
            raise self._broken(f"{_INDEX_FILE} was changed")
        return pq.read_table(pa.BufferReader(data))

    @property
    def rows_of_chunks(self) -> npt.NDArray[np.int64]:
        """The number of rows of each chunk, (C,)."""
        counts: npt.NDArray[np.int64] = self.index["rows"].to_numpy().astype(np.int64)
        return counts

    def is_whole(self) -> bool:
        """Return whether all files of the plan exist, using one listing."""
        sizes = self.folder.sizes()
        parts = {_part_name(number): size for number, size in enumerate(self.size.parts)}
        return _INDEX_FILE in sizes and parts.items() <= sizes.items()

    def rows(self, chunk: int) -> pa.Table:
        """Return the rows of a chunk; raise DataError if they are missing or were changed."""
        (row,) = self.index.slice(chunk, 1).to_pylist()
        name = _part_name(row["part"])
        try:
            piece = (self.folder / name).read_range(row["start"], row["num_bytes"])
        except StorageNotFoundError as error:
            raise self._broken(f"{name} is missing") from error
        if _digest(piece) != row["digest"]:
            raise self._broken(f"{name} was changed at chunk {chunk}")
        return pa.ipc.open_stream(piece).read_all()

    def chunks_of(self, first: int, last: int) -> list[int]:
        """Return the chunks that have rows from the first plan's chunks `first` to `last`."""
        starts, ends = (self.index[name].to_numpy() for name in ("first", "last"))
        chunks: list[int] = np.flatnonzero((starts <= last) & (ends >= first)).tolist()
        return chunks

    def _broken(self, what: str) -> DataError:
        return DataError(
            f"{self.folder}: the plan is damaged: {what}; run the job again, which makes another "
            "plan",
            code="broken_plan",
            key=str(self.folder),
            saw=what,
        )


def write_plan(folder: Location, chunks: Iterable[pa.Table]) -> PlanSize:
    """Write a plan; only the chunks of one part are in memory at a time."""
    num_rows, num_chunks, sizes = 0, 0, list[int]()

    def index() -> Iterator[pa.RecordBatch]:
        nonlocal num_rows, num_chunks
        part, index_rows = io.BytesIO(), list[dict[str, int | bytes]]()
        for rows in chunks:
            if part.tell() >= PART_BYTES:
                _finish(folder, part, sizes)
            start, piece = part.tell(), _piece(rows)
            part.write(piece)
            ends = pc.min_max(rows[ORIGIN]).as_py() if ORIGIN in rows.column_names else {}
            index_rows.append(
                {
                    "part": len(sizes),
                    "start": start,
                    "num_bytes": len(piece),
                    "rows": rows.num_rows,
                    "first": ends.get("min", num_chunks),
                    "last": ends.get("max", num_chunks),
                    "digest": _digest(piece),
                }
            )
            num_rows, num_chunks = num_rows + rows.num_rows, num_chunks + 1
            if len(index_rows) == _INDEX_ROWS:
                yield pa.RecordBatch.from_pylist(index_rows, _INDEX)
                index_rows.clear()
        yield pa.RecordBatch.from_pylist(index_rows, _INDEX)
        if part.tell():
            _finish(folder, part, sizes)

    reader = pa.RecordBatchReader.from_batches(_INDEX, index())
    digest = write_table(folder / _INDEX_FILE, reader, _INDEX)
    return PlanSize(num_rows=num_rows, num_chunks=num_chunks, parts=tuple(sizes), digest=digest)


def _finish(folder: Location, part: io.BytesIO, sizes: list[int]) -> None:
    """Write a part and empty the buffer."""
    (folder / _part_name(len(sizes))).write_bytes(part.getvalue())
    sizes.append(part.tell())
    part.seek(0)
    part.truncate()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


def _piece(rows: pa.Table) -> bytes:
    sink, rows = io.BytesIO(), bare(rows).combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def _part_name(part: int) -> str:
    return f"part-{part:05d}.arrow"


MEMORY, THREADS = "1GB", 2
"""DuckDB's limits. Its threads share the memory; by default there is one per core."""
_NUM_FILES = 256
"""A power of two. With 1e9 rows and IDs of 10 characters, a file has 4e6 rows: 120 MB."""
ROWS_AT_ONCE, BYTES_AT_ONCE = 2**16, 2**24


class Spill:
    """The rows of `batches` that are distinct in the columns of `keys`, on the local disk.

    The columns of `given` are kept too. Of rows with the same keys, the one with the least values
    is kept whole; the first column decides before the second.

    A hash of the first key divides the rows into files, and each file is sorted on its own, so
    memory use depends neither on the number of rows nor on the number of cores. `fingerprint` is a
    hash of the set of rows. Raises StorageError if the disk is full.
    """

    def __init__(
        self,
        batches: Iterable[pa.Table],
        keys: pa.Schema,
        given: pa.Schema = pa.schema([]),  # noqa: B008  it is immutable
    ):
        self._schema = pa.schema([*keys, *given])
        names, values = ([f'"{name}"' for name in schema.names] for schema in (keys, given))
        self._keys, self._first = ", ".join(names), names[0]
        least = f"min(struct_pack({', '.join(f'{value} := {value}' for value in values)}))"
        kept = (f"struct_extract({least}, '{name}') AS \"{name}\"" for name in given.names)
        self._rows = ", ".join([self._keys, *kept])
        self._folder = TemporaryDirectory(prefix="xrec-rows-")
        self._database = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "threads": THREADS,
                "temp_directory": self._folder.name,
                "preserve_insertion_order": "false",
            }
        )
        for rows in row_groups(
            (batch.select(self._schema.names) for batch in batches), ROWS_AT_ONCE
        ):
            with self._disk_errors():
                self._append(rows)
        # The length before each key keeps different rows from becoming the same text.
        text = " || ".join(
            [
                *(f"length({name}) || ' ' || {name}" for name in names),
                *(f"' ' || coalesce({value}::VARCHAR, '')" for value in values),
            ]
        )
        sql = (
            f"SELECT count(*), bit_xor(md5_number({text})) "
            f"FROM (SELECT {self._rows} FROM rows GROUP BY {self._keys})"
        )
        self.num_rows, digest = 0, 0
        for numbers in self._groups(1):
            with self._disk_errors():
                self._database.register("rows", self._read(numbers))
                ((num_rows, digest_of_rows),) = self._database.execute(sql).fetchall()
            self.num_rows += num_rows
            digest ^= digest_of_rows or 0
        self.fingerprint = fingerprint_of([self.num_rows, digest])

    def chunks(
        self,
        rows_per_chunk: int,
        num_buckets: int,
        prepare: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> Iterator[pa.Table]:
        """Yield chunks of rows, sorted by bucket and keys, with the column `bucket`.

        A chunk has at most `rows_per_chunk` rows. Rows with the same first key are in one chunk
        unless there are more than that. num_buckets: a power of two. prepare: called with many rows
        at a time, in order; may drop rows and add columns.
        """
        return _chunked(map(prepare, self._sorted(num_buckets)), rows_per_chunk)

    def delete(self) -> None:
        self._database.close()
        self._folder.cleanup()

    def _append(self, rows: pa.Table) -> None:
        """Append rows to the files that their hashes select."""
        self._database.register("batch", rows)
        sql = f"SELECT *, md5_number_upper({self._first}) >> 32 AS hash FROM batch ORDER BY hash"
        rows = self._database.sql(sql).to_arrow_table()
        self._database.unregister("batch")
        starts = np.arange(_NUM_FILES + 1, dtype=np.uint64) * np.uint64(2**32 // _NUM_FILES)
        ends = np.searchsorted(rows["hash"].to_numpy(), starts)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        for number in np.flatnonzero(np.diff(ends)).tolist():
            with (
                open(self._file(number), "ab") as file,
                pa.ipc.new_stream(file, rows.schema, options=options) as writer,
            ):
                writer.write_table(rows.slice(ends[number], ends[number + 1] - ends[number]))

    def _file(self, number: int) -> Path:
        """Return the path of a file of consecutive Arrow streams."""
        return Path(self._folder.name) / f"rows-{number:03d}"

    def _groups(self, multiple: int) -> Iterator[range]:
        """Yield consecutive file numbers in groups that are large enough for a DuckDB query.

        The size of a group is a multiple of `multiple`.
        """
        start, num_bytes = 0, 0
        for stop in range(multiple, _NUM_FILES + 1, multiple):
            paths = map(self._file, range(stop - multiple, stop))
            num_bytes += sum(path.stat().st_size for path in paths if path.exists())
            if num_bytes >= BYTES_AT_ONCE or stop == _NUM_FILES:
                yield range(start, stop)
                start, num_bytes = stop, 0

    def _read(self, numbers: Iterable[int]) -> pa.Table:
        """Return the rows of some files, with duplicates and the column `hash`."""
        schema = pa.schema([*self._schema, pa.field("hash", pa.uint64())])
        tables = [schema.empty_table()]
        for path in filter(Path.exists, map(self._file, numbers)):
            with pa.OSFile(str(path)) as file:
                while file.tell() < file.size():
                    with pa.ipc.open_stream(file) as reader:
                        tables.append(reader.read_all().cast(schema))
        return pa.concat_tables(tables).combine_chunks()

    def _sorted(self, num_buckets: int) -> Iterator[pa.Table]:
        """Yield the distinct rows, sorted by bucket and keys; no bucket spans two groups."""
        fields = [*self._schema, pa.field("bucket", pa.int32(), nullable=False)]
        columns = f"{self._rows}, (hash * {num_buckets} >> 32)::INTEGER AS bucket"
        sql = (
            f"SELECT {columns} FROM rows GROUP BY {self._keys}, hash ORDER BY bucket, {self._keys}"
        )
        for numbers in self._groups(max(1, _NUM_FILES // num_buckets)):
            with self._disk_errors():
                self._database.register("rows", self._read(numbers))
                reader = self._database.sql(sql).to_arrow_reader(ROWS_AT_ONCE)
            while True:
                with self._disk_errors():
                    batch = next(reader, None)
                if batch is None:
                    break
                yield pa.Table.from_batches([batch]).cast(pa.schema(fields))

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn errors of DuckDB and the disk into StorageError."""
        try:
            yield
        except (duckdb.Error, OSError) as error:
            raise StorageError(
                f"{self._folder.name}: cannot sort the rows of the run on this disk: "
                f"{str(error).splitlines()[0]}; set TMPDIR to a folder on a larger disk",
                code="no_room",
                key="TMPDIR",
            ) from error


def _chunked(tables: Iterable[pa.Table], rows_per_chunk: int) -> Iterator[pa.Table]:
    rest: pa.Table | None = None
    for table in tables:
        rows = table if rest is None else pa.concat_tables([rest, table])
        ends = pc.run_end_encode(rows.column(0).combine_chunks()).run_ends.to_numpy()
        start = 0
        while rows.num_rows - start > rows_per_chunk:
            last = int(np.searchsorted(ends, start + rows_per_chunk, side="right")) - 1
            stop = int(ends[last]) if last >= 0 else 0
            if stop <= start:
                stop = start + rows_per_chunk
            yield rows.slice(start, stop - start).combine_chunks()
            start = stop
        rest = rows.slice(start)
    if rest is not None and rest.num_rows:
        yield rest.combine_chunks()
