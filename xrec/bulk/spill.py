"""Keeps all rows of a run on this machine's disk, so that they need not fit in memory.

One pass over the input writes the N rows to B files by the hash of their first key. A second pass
sorts each file and drops duplicates. A file is read as a whole, so memory is needed for N / B rows:
1e8 rows of two short ids take about 20 MB a file, and 3 GB of disk.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xrec.bulk.keys import key_hashes, rows_hash
from xrec.storage import fingerprint_of

# A power of two, as the number of buckets is: a bucket lies in one file or consists of whole ones.
_NUM_FILES = 256


class Spill:
    """The distinct rows of `batches`, whose columns are all keys, on disk.

    `num_given` counts the rows with duplicates, `num_rows` without. `fingerprint` is a hash of the
    set of rows, which does not depend on their order.
    """

    def __init__(self, batches: Iterable[pa.Table], schema: pa.Schema):
        self._schema = schema
        self._folder = TemporaryDirectory(prefix="xrec-rows-")
        self.num_given = self._deal(batches)
        self._files = sorted(int(path.stem) for path in Path(self._folder.name).iterdir())
        summaries = [self._sort(file) for file in self._files]
        self.num_rows = sum(num_rows for num_rows, _ in summaries)
        self.fingerprint = fingerprint_of(
            [[file, digest] for file, (_, digest) in zip(self._files, summaries, strict=True)]
        )

    def chunks(self, rows_per_chunk: int) -> Iterator[tuple[int, pa.Table]]:
        """Yield each chunk's number and its rows, sorted.

        A bucket is a value of hash(first key) mod C, where C is `num_buckets`. A bucket of fewer
        than twice `rows_per_chunk` rows is one chunk; else it is cut into chunks of equal size, and
        the p-th has the number p C + bucket.
        """
        num_buckets = self.num_buckets(rows_per_chunk)
        for bucket, rows in self._buckets(num_buckets):
            is_large = rows.num_rows >= 2 * rows_per_chunk
            num_pieces = math.ceil(rows.num_rows / rows_per_chunk) if is_large else 1
            size = math.ceil(rows.num_rows / num_pieces)
            for piece, start in enumerate(range(0, rows.num_rows, size)):
                yield piece * num_buckets + bucket, rows.slice(start, size)

    def num_buckets(self, rows_per_chunk: int) -> int:
        """C, the least power of two with at most `rows_per_chunk` rows a bucket on average."""
        return 1 << math.ceil(math.log2(max(1.0, self.num_rows / rows_per_chunk)))

    def delete(self) -> None:
        """Delete the rows from the disk."""
        self._folder.cleanup()

    def _buckets(self, num_buckets: int) -> Iterator[tuple[int, pa.Table]]:
        for first in range(min(num_buckets, _NUM_FILES)):
            files = [file for file in self._files if file % num_buckets == first]
            if files:
                rows = _sorted(pa.concat_tables(_read(self._path(file)) for file in files))
                yield from _by_hash(rows, num_buckets)

    def _path(self, file: int) -> Path:
        return Path(self._folder.name) / f"{file:03d}.arrow"

    def _deal(self, batches: Iterable[pa.Table]) -> int:
        """Write each batch's rows to their files; returns the number of rows."""
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        num_rows = 0
        try:
            for batch in batches:
                num_rows += batch.num_rows
                for file, rows in _by_hash(batch.cast(self._schema), _NUM_FILES):
                    if file not in writers:
                        writers[file] = pa.ipc.new_stream(str(self._path(file)), self._schema)
                    writers[file].write_table(rows)
        finally:
            for writer in writers.values():
                writer.close()
        return num_rows

    def _sort(self, file: int) -> tuple[int, str]:
        """Sort a file's rows and drop duplicates; returns the number of rows and their hash."""
        names = self._schema.names
        distinct = _read(self._path(file)).group_by(names).aggregate([])
        rows = _sorted(distinct.select(names).cast(self._schema))
        with pa.ipc.new_stream(str(self._path(file)), self._schema) as writer:
            writer.write_table(rows)
        return rows.num_rows, rows_hash(rows)


def _by_hash(rows: pa.Table, modulus: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield each value of hash(first key) mod `modulus` with its rows, in their order."""
    values: npt.NDArray[np.uint64] = key_hashes(rows.column(0)) % np.uint64(modulus)
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    ordered = rows.take(pa.array(order)).combine_chunks()
    sizes = np.diff(starts, append=len(order))
    for value, start, num_rows in zip(found, starts, sizes, strict=True):
        yield int(value), ordered.slice(start, num_rows)


def _sorted(rows: pa.Table) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in rows.column_names])


def _read(path: Path) -> pa.Table:
    with pa.ipc.open_stream(str(path)) as reader:
        return reader.read_all()
