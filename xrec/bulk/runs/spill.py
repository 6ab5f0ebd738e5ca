"""Keeps all rows of a run on this machine's disk: they need not fit in memory.

A hash of the first key divides the rows into files, and each file is sorted on its own. So memory
depends neither on the number of rows nor on the number of cores.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.errors import StorageError
from xrec.storage import fingerprint_of, row_groups

MEMORY, THREADS = "1GB", 2
"""DuckDB's limits. Its threads share the memory, and by default there is one for each core."""
_NUM_FILES = 256
"""A power of two. Of 1e9 rows with ids of 10 characters, a file has 4e6: 120 MB."""
ROWS_AT_ONCE, BYTES_AT_ONCE = 2**16, 2**24


class Spill:
    """The distinct rows of `batches`, whose columns are all keys, on disk.

    `fingerprint` is a hash of the set of rows, which does not depend on their order. Raises
    StorageError if the disk is full.
    """

    def __init__(self, batches: Iterable[pa.Table], schema: pa.Schema):
        self._schema = schema
        keys = [f'"{name}"' for name in schema.names]
        self._keys, self._first = ", ".join(keys), keys[0]
        self._folder = TemporaryDirectory(prefix="xrec-rows-")
        self._database = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "threads": THREADS,
                "temp_directory": self._folder.name,
                "preserve_insertion_order": "false",
            }
        )
        for rows in row_groups((each.select(schema.names) for each in batches), ROWS_AT_ONCE):
            with self._disk_errors():
                self._divide(rows)
        # Each key is preceded by its length, so no two rows are hashed as the same text.
        text = " || ".join(f"length({key}) || ' ' || {key}" for key in keys)
        counted = (
            f"SELECT count(*), bit_xor(md5_number({text})) "
            f"FROM (SELECT DISTINCT {self._keys} FROM rows)"
        )
        self.num_rows, digest = 0, 0
        for numbers in self._groups(1):
            with self._disk_errors():
                self._database.register("rows", self._read(numbers))
                ((num_rows, digest_of_rows),) = self._database.execute(counted).fetchall()
            self.num_rows += num_rows
            digest ^= digest_of_rows or 0
        self.fingerprint = fingerprint_of([self.num_rows, digest])

    def chunks(
        self,
        rows_per_chunk: int,
        num_buckets: int,
        prepare: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> Iterator[pa.Table]:
        """Yield the rows by bucket and keys, with the column `bucket`, a chunk at a time.

        A chunk has at most `rows_per_chunk` rows, and those of a value of the first key unless they
        are more.

        num_buckets: a power of two. prepare: called with many rows at a time, in the same order; it
        may leave rows out, and add columns.
        """
        return _cut(map(prepare, self._sorted(num_buckets)), rows_per_chunk)

    def delete(self) -> None:
        self._database.close()
        self._folder.cleanup()

    def _divide(self, rows: pa.Table) -> None:
        """Append rows to the files that their hashes lead to."""
        self._database.register("batch", rows)
        hashed = f"SELECT *, md5_number_upper({self._first}) >> 32 AS hash FROM batch ORDER BY hash"
        rows = self._database.sql(hashed).to_arrow_table()
        self._database.unregister("batch")
        starts = np.arange(_NUM_FILES + 1, dtype=np.uint64) * np.uint64(2**32 // _NUM_FILES)
        places = np.searchsorted(rows["hash"].to_numpy(), starts)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        for number in np.flatnonzero(np.diff(places)).tolist():
            piece = rows.slice(places[number], places[number + 1] - places[number])
            with (
                open(self._file(number), "ab") as file,
                pa.ipc.new_stream(file, rows.schema, options=options) as writer,
            ):
                writer.write_table(piece)

    def _file(self, number: int) -> Path:
        """A file of Arrow streams, one after the other."""
        return Path(self._folder.name) / f"rows-{number:03d}"

    def _groups(self, num_files: int) -> Iterator[range]:
        """Yield the numbers of all files, in order, so many that there is some work for DuckDB.

        The files of a group are a multiple of `num_files`.
        """
        start, num_bytes = 0, 0
        for stop in range(num_files, _NUM_FILES + 1, num_files):
            paths = map(self._file, range(stop - num_files, stop))
            num_bytes += sum(path.stat().st_size for path in paths if path.exists())
            if num_bytes >= BYTES_AT_ONCE or stop == _NUM_FILES:
                yield range(start, stop)
                start, num_bytes = stop, 0

    def _read(self, numbers: Iterable[int]) -> pa.Table:
        """The rows of some files, with the column `hash`; some may be there twice."""
        schema = pa.schema([*self._schema, pa.field("hash", pa.uint64())])
        tables = [schema.empty_table()]
        for path in filter(Path.exists, map(self._file, numbers)):
            with pa.OSFile(str(path)) as file:
                while file.tell() < file.size():
                    with pa.ipc.open_stream(file) as reader:
                        tables.append(reader.read_all().cast(schema))
        return pa.concat_tables(tables).combine_chunks()

    def _sorted(self, num_buckets: int) -> Iterator[pa.Table]:
        """The distinct rows by bucket and keys; a bucket's rows are in one file, or in several."""
        fields = [*self._schema, pa.field("bucket", pa.int32(), nullable=False)]
        columns = f"{self._keys}, (hash * {num_buckets} >> 32)::INTEGER AS bucket"
        sql = f"SELECT DISTINCT {columns} FROM rows ORDER BY bucket, {self._keys}"
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
        """Turn the errors of DuckDB and of the disk into StorageError."""
        try:
            yield
        except (duckdb.Error, OSError) as error:
            raise StorageError(
                f"{self._folder.name}: the rows of the run cannot be sorted on this disk: "
                f"{str(error).splitlines()[0]}; set TMPDIR to a folder on a larger disk",
                code="no_room",
                key="TMPDIR",
            ) from error


def _cut(tables: Iterable[pa.Table], rows_per_chunk: int) -> Iterator[pa.Table]:
    held: pa.Table | None = None
    for table in tables:
        rows = table if held is None else pa.concat_tables([held, table])
        ends = pc.run_end_encode(rows.column(0).combine_chunks()).run_ends.to_numpy()
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
