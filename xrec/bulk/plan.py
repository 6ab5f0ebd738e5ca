"""A plan: which rows are in which chunk, as files with one piece per chunk, and an index.

A piece is an Arrow stream of the chunk's rows. A plan is complete before a record names its folder,
to which nobody else writes. The record has a digest of the index, and the index has a digest of
each piece, so a damaged plan raises an error and never yields wrong rows.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec.bulk.rows import bare
from xrec.errors import DataError, StorageNotFoundError
from xrec.storage import Location, Record, content_hash, write_table

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
    """The size of a plan, in the record of its run or pass.

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

    def chunks_of(self, chunk: int) -> list[tuple[int, bool]]:
        """Return the chunks that have rows of a chunk of the first plan.

        The second value is whether that is the first such chunk.
        """
        starts, ends = self._spans
        stop = int(np.searchsorted(starts, chunk, side="right"))
        numbers = range(int(np.searchsorted(ends, chunk)), stop)
        return [(number, bool(starts[number] == chunk)) for number in numbers]

    @cached_property
    def _spans(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return self.index["first"].to_numpy(), self.index["last"].to_numpy()

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
