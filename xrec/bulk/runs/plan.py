"""A plan says which rows are in which chunk: files with a piece for each chunk, and an index.

A piece is an Arrow stream of the chunk's rows. The plan lies in a folder that nobody else writes
to, and is whole before a record names the folder. The record has a digest of the index, and the
index one of each piece, so a damaged plan is an error and never other rows.
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

from xrec.bulk.runs.result import bare
from xrec.errors import DataError, StorageNotFoundError
from xrec.storage import Location, Record, content_hash, write_table

PART_BYTES = 64 * 2**20
_INDEX_FILE, _INDEX_ROWS = "chunks.parquet", 1024
_INDEX = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        # The chunks of the first plan that have its rows: first to last.
        pa.field("first", pa.int64(), nullable=False),
        pa.field("last", pa.int64(), nullable=False),
        pa.field("digest", pa.binary(16), nullable=False),
    ]
)
ORIGIN = "chunk"
"""The column of a retry's rows that has the number of their chunk in the first plan."""
EARLIER = "earlier"
"""The column of a planned row that has what an earlier run wrote for it, or null."""


class PlanSize(Record):
    """What a record says of its plan.

    parts: the number of bytes of each part. digest: of the index, as hexadecimal digits.
    """

    num_rows: int
    num_chunks: int
    parts: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Plan:
    """The plan in `folder`; chunk N is row N of the index, and takes 56 bytes."""

    folder: Location
    size: PlanSize

    @cached_property
    def index(self) -> pa.Table:
        """The index, which is read once; raises DataError if it is not as it was written."""
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
        """Whether all files of the plan are there; it takes one listing."""
        there = self.folder.sizes()
        parts = {_part_name(number): size for number, size in enumerate(self.size.parts)}
        return _INDEX_FILE in there and parts.items() <= there.items()

    def rows(self, chunk: int) -> pa.Table:
        """The rows of a chunk; raises DataError if the part is not as it was written."""
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
        """The chunks that have rows of the chunks `first` to `last` of the first plan."""
        starts, ends = (self.index[name].to_numpy() for name in ("first", "last"))
        return [int(number) for number in np.flatnonzero((starts <= last) & (ends >= first))]

    def _broken(self, what: str) -> DataError:
        return DataError(
            f"{self.folder}: the plan is no longer whole: {what}; run the job again, which makes "
            "another plan",
            code="broken_plan",
            key=str(self.folder),
            saw=what,
        )


def write_plan(folder: Location, chunks: Iterable[pa.Table]) -> PlanSize:
    """Write a plan of chunks, each of which is held until its part is written."""
    num_rows, num_chunks, sizes = 0, 0, list[int]()

    def index() -> Iterator[pa.RecordBatch]:
        nonlocal num_rows, num_chunks
        part, rows_of_index = io.BytesIO(), list[dict[str, int | bytes]]()
        for rows in chunks:
            if part.tell() >= PART_BYTES:
                _finish(folder, part, sizes)
            start = part.tell()
            part.write(piece := _piece(rows))
            ends = pc.min_max(rows[ORIGIN]).as_py() if ORIGIN in rows.column_names else {}
            rows_of_index.append(
                {
                    "part": len(sizes),
                    "start": start,
                    "num_bytes": part.tell() - start,
                    "rows": rows.num_rows,
                    "first": ends.get("min", num_chunks),
                    "last": ends.get("max", num_chunks),
                    "digest": _digest(piece),
                }
            )
            num_rows, num_chunks = num_rows + rows.num_rows, num_chunks + 1
            if len(rows_of_index) == _INDEX_ROWS:
                yield pa.RecordBatch.from_pylist(rows_of_index, _INDEX)
                rows_of_index.clear()
        yield pa.RecordBatch.from_pylist(rows_of_index, _INDEX)
        if part.tell():
            _finish(folder, part, sizes)

    reader = pa.RecordBatchReader.from_batches(_INDEX, index())
    digest = write_table(folder / _INDEX_FILE, reader, _INDEX)
    return PlanSize(num_rows=num_rows, num_chunks=num_chunks, parts=tuple(sizes), digest=digest)


def _finish(folder: Location, part: io.BytesIO, sizes: list[int]) -> None:
    """Write a part, and empty it for the next one."""
    (folder / _part_name(len(sizes))).write_bytes(part.getvalue())
    sizes.append(part.tell())
    part.seek(0)
    part.truncate()


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


def _piece(rows: pa.Table) -> bytes:
    sink, plain = io.BytesIO(), bare(rows).combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, plain.schema, options=options) as writer:
        writer.write_table(plain)
    return sink.getvalue()


def _part_name(part: int) -> str:
    return f"part-{part:05d}.arrow"
