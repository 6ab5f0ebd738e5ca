"""A plan says which rows are in which chunk: files with a piece for each chunk, and an index.

A piece is an Arrow stream of the chunk's rows. The plan lies in a folder that nobody else writes
to, and is whole before a record names the folder. The record has a digest of the index, and the
index one of each piece, so a damaged plan is an error and never other rows.
"""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from xrec.bulk.runs.result import bare
from xrec.errors import DataError, StorageNotFoundError
from xrec.storage import Location, Record, parquet_bytes

_PART_BYTES = 64 * 2**20
_INDEX_FILE = "chunks.parquet"
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
        if _digest(data).hex() != self.size.digest:
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
            "another plan"
        )


def write_plan(folder: Location, chunks: Iterable[pa.Table]) -> PlanSize:
    index: list[tuple[int | bytes, ...]] = []
    num_rows = 0
    sizes: list[int] = []
    part = io.BytesIO()

    def finish_part() -> None:
        (folder / _part_name(len(sizes))).write_bytes(part.getvalue())
        sizes.append(part.tell())
        part.seek(0)
        part.truncate()

    for rows in chunks:
        if part.tell() >= _PART_BYTES:
            finish_part()
        number, start = len(index), part.tell()
        origins = rows[ORIGIN].to_pylist() if ORIGIN in rows.column_names else [number]
        part.write(piece := _piece(rows))
        place = (len(sizes), start, len(piece))
        index.append((*place, rows.num_rows, min(origins), max(origins), _digest(piece)))
        num_rows += rows.num_rows
    if part.tell():
        finish_part()
    columns: list[Any] = list(zip(*index, strict=True)) or [()] * len(_INDEX)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _INDEX, strict=True)]
    data = parquet_bytes(pa.table(arrays, schema=_INDEX), _INDEX)
    (folder / _INDEX_FILE).write_bytes(data)
    digest = _digest(data).hex()
    return PlanSize(num_rows=num_rows, num_chunks=len(index), parts=tuple(sizes), digest=digest)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:16]


def _piece(rows: pa.Table) -> bytes:
    sink, plain = io.BytesIO(), bare(rows)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, plain.schema, options=options) as writer:
        writer.write_table(plain)
    return sink.getvalue()


def _part_name(part: int) -> str:
    return f"part-{part:05d}.arrow"
