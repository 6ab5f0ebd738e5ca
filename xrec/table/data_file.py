"""A file of rows: what a worker writes, and what is checked before a driver commits it.

All that a commit says of a file (rows, least and greatest values) is read from the file's own
footer, and not from what the worker reported.
"""

import io
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from xrec.errors import StorageNotFoundError, TableError
from xrec.storage import Location, Tail
from xrec.table.format import TableFormat
from xrec.table.log import Action

OLDEST_ADD = timedelta(hours=20)
"""A commit refuses files that are older. Vacuum spares what is younger than `vacuum.YOUNG`, which
is more, so it cannot delete a file between this check and the commit."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_FOOTER_BYTES = 65_536  # enough for the footer of most files, so that one request reads it


class DataFile(BaseModel):
    """A file that a worker wrote and no commit added yet; `path` is relative to the table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    num_bytes: int
    partition: dict[str, str]


@dataclass(frozen=True)
class CheckedFile:
    """A file that was seen in the store as its writer stated it, and what its footer says.

    `statistics` is as the log has it; `modified_at_ms` is in milliseconds since 1970.
    """

    file: DataFile
    num_rows: int
    statistics: Mapping[str, Any]
    modified_at_ms: int

    def to_action(self, data_change: bool) -> Action:
        """The log's line that adds the file."""
        return {
            "add": {
                "path": self.file.path,
                "partitionValues": self.file.partition,
                "size": self.file.num_bytes,
                "modificationTime": self.modified_at_ms,
                "dataChange": data_change,
                "stats": json.dumps(self.statistics, ensure_ascii=False, separators=(",", ":")),
            }
        }


def write_file(
    table: Location,
    format: TableFormat,
    rows: pa.Table,
    *,
    name: str,
    partition: Mapping[str, str] | None = None,
    row_group_by: str | None = None,
) -> DataFile:
    """Write rows as a Parquet file of the table at `table`; a commit makes them part of it.

    name: the beginning of the file's name; a unique ending is added.
    rows: with the columns of `format.file_schema`, at least one row.
    row_group_by: a column; each run of rows with one value of it becomes a row group.

    Raises ValueError if the name, the partition or the rows are not such.
    """
    partition = dict(partition or {})
    path = _new_path(format, name, partition)
    if rows.num_rows == 0:
        raise ValueError(f"file {name!r}: there are no rows to write")
    rows = rows.select(format.file_schema.names).cast(format.file_schema)
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        format.file_schema,
        compression="zstd",
        write_statistics=_columns_with_statistics(format),
    ) as writer:
        for group in _row_groups(rows, row_group_by):
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    data = sink.getvalue()
    (table / path).write_bytes(data)
    return DataFile(path=path, num_bytes=len(data), partition=partition)


def copy_file(
    source: Location,
    table: Location,
    format: TableFormat,
    *,
    num_bytes: int,
    name: str,
    partition: Mapping[str, str] | None = None,
) -> DataFile:
    """Copy a file of another table that has the columns of `format`; see `write_file`.

    The store copies it, if both tables are in one store. A commit sees whether the copy has
    `num_bytes` bytes and these columns.
    """
    partition = dict(partition or {})
    path = _new_path(format, name, partition)
    source.copy_to(table / path)
    return DataFile(path=path, num_bytes=num_bytes, partition=partition)


def _new_path(format: TableFormat, name: str, partition: Mapping[str, str]) -> str:
    """A path that no other file has; raises ValueError if name or partition are not such."""
    format.check_partition(partition)
    if not _NAME.fullmatch(name):
        raise ValueError(f"file name {name!r}: expected letters, digits, _, . and -")
    return f"{format.folder(partition)}{name}-{uuid.uuid4().hex}.parquet"


def check_path(path: str, partition: Mapping[str, str], format: TableFormat) -> None:
    """Raise TableError unless `path` is a Parquet file in the folder of its partition.

    So a path is relative, leads to no other folder, and needs no escapes in the log.
    """
    folder, name = format.folder(partition), path.rpartition("/")[2]
    if path != f"{folder}{name}" or not _NAME.fullmatch(name) or not name.endswith(".parquet"):
        raise TableError(
            f"file {path!r}: expected a relative path {folder}NAME.parquet, with letters, digits, "
            "_, . and - in the name; absolute paths and other folders are refused"
        )


def check_file(table: Location, format: TableFormat, file: DataFile) -> CheckedFile:
    """See that a file is in the store as stated, in one request if its footer is short.

    Raises TableError if it is not there, of another size, no Parquet file of this table's columns,
    or written too long ago; ValueError if its partition is wrong.
    """
    format.check_partition(file.partition)
    check_path(file.path, file.partition, format)
    location = table / file.path
    try:
        tail = location.read_tail(_FOOTER_BYTES)
        if tail.num_bytes == file.num_bytes and (needed := _footer_bytes(tail)) > len(tail.data):
            tail = location.read_tail(needed)
    except StorageNotFoundError as error:
        raise TableError(f"{location}: the file that a commit was to add is not there") from error
    if tail.num_bytes != file.num_bytes:
        raise TableError(
            f"{location}: has {tail.num_bytes} bytes, its writer stated {file.num_bytes}; it was "
            "written over or cut off"
        )
    if tail.age_seconds > OLDEST_ADD.total_seconds():
        raise TableError(
            f"{location}: was written {tail.age_seconds / 3600:.1f} hours ago, a commit adds files "
            f"of at most {OLDEST_ADD}: vacuum may delete it at any time; write it again"
        )
    footer = _parse_footer(location, tail)
    if footer.num_rows == 0:
        raise TableError(f"{location}: holds no rows")
    if not footer.schema.to_arrow_schema().remove_metadata().equals(format.file_schema):
        raise TableError(
            f"{location}: expected columns\n{format.file_schema}\nsaw\n"
            f"{footer.schema.to_arrow_schema().remove_metadata()}"
        )
    return CheckedFile(
        file,
        footer.num_rows,
        _statistics(footer, format.statistics),
        int((time.time() - tail.age_seconds) * 1000),
    )


def _row_groups(rows: pa.Table, by: str | None) -> Iterator[pa.Table]:
    """Slice the rows wherever the value of column `by` changes."""
    if by is None:
        yield rows
        return
    column = rows.column(by).combine_chunks()
    changes = pc.not_equal(column[1:], column[:-1])
    starts = [0, *(index + 1 for index in pc.indices_nonzero(changes).to_pylist())]
    for start, end in zip(starts, [*starts[1:], rows.num_rows], strict=True):
        yield rows.slice(start, end - start)


def _columns_with_statistics(format: TableFormat) -> list[str]:
    """The columns whose least and greatest values a file's footer has, for each row group.

    Those of long texts would be most of a footer, which readers fetch as a whole.
    """
    return [
        field.name
        for field in format.file_schema
        if field.name in format.statistics or not pa.types.is_string(field.type)
    ]


def _footer_bytes(tail: Tail) -> int:
    """The length of a Parquet file's footer with its last eight bytes; 0 if it is no such file."""
    if not tail.data.endswith(b"PAR1") or len(tail.data) < 12:
        return 0
    return min(int.from_bytes(tail.data[-8:-4], "little") + 8, tail.num_bytes)


def _parse_footer(location: Location, tail: Tail) -> pq.FileMetaData:
    try:
        return pq.read_metadata(pa.BufferReader(tail.data))
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{location}: not a readable Parquet file: {error}") from error


def _statistics(footer: pq.FileMetaData, columns: Sequence[str]) -> dict[str, Any]:
    """A file's statistics as the log has them: rows, and of each column least, greatest, nulls.

    A column without a least value (all rows are null, or the strings are very long) has none, so
    readers do not skip the file.
    """
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    num_nulls: dict[str, int] = {}
    for column in columns:
        groups = list(_column_statistics(footer, column))
        if not all(group is not None and group.has_null_count for group in groups):
            continue
        num_nulls[column] = sum(group.null_count for group in groups)
        with_values = [group for group in groups if group.num_values]
        if with_values and all(group.has_min_max for group in with_values):
            least[column] = min(group.min for group in with_values)
            greatest[column] = max(group.max for group in with_values)
    return {
        "numRecords": footer.num_rows,
        "minValues": least,
        "maxValues": greatest,
        "nullCount": num_nulls,
    }


def _column_statistics(footer: pq.FileMetaData, column: str) -> Iterator[Any]:
    """The statistics of a column in each row group; None if its writer made none."""
    first = footer.row_group(0)
    (number,) = (
        number
        for number in range(footer.num_columns)
        if first.column(number).path_in_schema == column
    )
    for group in range(footer.num_row_groups):
        yield footer.row_group(group).column(number).statistics
