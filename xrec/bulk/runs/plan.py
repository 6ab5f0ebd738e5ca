"""A plan says which rows are in which chunk: Parquet files, a row group a chunk, and an index.

It lies in a folder that nobody else writes to, and is whole before a record names the folder.
"""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from xrec.errors import DataError, StorageNotFoundError
from xrec.storage import (
    Location,
    parquet_bytes,
    read_footer,
    read_known_row_group,
    read_table,
    storage_errors,
)

_ROWS_PER_PART, _CHUNKS_PER_PART = 2**20, 2**12
_INDEX = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        # The chunks of the first plan that have its rows: first to last.
        pa.field("first", pa.int64(), nullable=False),
        pa.field("last", pa.int64(), nullable=False),
    ]
)
ORIGIN = "chunk"
"""The column of a retry's rows that has the number of their chunk in the first plan."""


class PlanSize(BaseModel):
    """What a record says of its plan. parts: the number of bytes of each part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rows: int
    num_chunks: int
    parts: tuple[int, ...]


class Plan:
    """The plan in `folder`; chunk N is row N of the index, and takes 28 bytes."""

    def __init__(self, folder: Location, size: PlanSize):
        self.folder = folder
        self.size = size
        self._footers: dict[int, pq.FileMetaData] = {}
        self._index: pa.Table | None = None

    @property
    def index(self) -> pa.Table:
        """The index, which is read once; raises DataError if it is not whole."""
        if self._index is None:
            try:
                self._index = read_table(self.folder / "index.parquet", _INDEX)
            except StorageNotFoundError as error:
                raise self._broken("index.parquet is missing") from error
            if self._index.num_rows != self.size.num_chunks:
                raise self._broken(f"the index has {self._index.num_rows} chunks")
        return self._index

    @property
    def rows_of_chunks(self) -> npt.NDArray[np.int64]:
        """The number of rows of each chunk, (C,)."""
        counts: npt.NDArray[np.int64] = self.index["rows"].to_numpy().astype(np.int64)
        return counts

    def lacks(self) -> str | None:
        """What is missing of the plan's files; None if all are there. It takes one listing."""
        there = self.folder.sizes()
        if "index.parquet" not in there:
            return "index.parquet"
        wrong = [n for n, size in enumerate(self.size.parts) if there.get(_part_name(n)) != size]
        return _part_name(wrong[0]) if wrong else None

    def rows(self, chunk: int) -> pa.Table:
        """The rows of a chunk; raises DataError if the part is not as it was written."""
        part, group = (self.index[name][chunk].as_py() for name in ("part", "row_group"))
        file = self.folder / _part_name(part)
        try:
            with storage_errors(file.uri):
                if part not in self._footers:
                    self._footers[part] = read_footer(file)
                rows = read_known_row_group(file, self._footers[part], group)
        except StorageNotFoundError as error:
            raise self._broken(f"{_part_name(part)} is missing") from error
        except pa.ArrowInvalid as error:
            raise self._broken(f"{_part_name(part)} was changed: {error}") from error
        return rows

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
    """Write the rows of each chunk, and the index."""
    index: list[tuple[int, ...]] = []
    sizes: list[int] = []
    part: list[pa.Table] = []
    num_rows = num_in_part = 0

    def finish_part() -> None:
        data = _part_bytes(part)
        (folder / _part_name(len(sizes))).write_bytes(data)
        sizes.append(len(data))
        part.clear()

    for rows in chunks:
        is_full = num_in_part + rows.num_rows > _ROWS_PER_PART or len(part) == _CHUNKS_PER_PART
        if part and is_full:
            finish_part()
            num_in_part = 0
        number = len(index)
        origins = rows[ORIGIN].to_pylist() if ORIGIN in rows.column_names else [number]
        index.append((len(sizes), len(part), rows.num_rows, min(origins), max(origins)))
        part.append(rows)
        num_rows += rows.num_rows
        num_in_part += rows.num_rows
    if part:
        finish_part()
    columns: list[Any] = list(zip(*index, strict=True)) or [()] * len(_INDEX)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _INDEX, strict=True)]
    table = pa.table(arrays, schema=_INDEX)
    (folder / "index.parquet").write_bytes(parquet_bytes(table, _INDEX))
    return PlanSize(num_rows=num_rows, num_chunks=len(index), parts=tuple(sizes))


def _part_bytes(chunks: list[pa.Table]) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, chunks[0].schema, compression="zstd") as writer:
        for rows in chunks:
            writer.write_table(rows, row_group_size=rows.num_rows)
    return sink.getvalue()


def _part_name(part: int) -> str:
    return f"part-{part:05d}.parquet"
