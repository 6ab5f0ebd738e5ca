"""The lines of one input file (CSV, JSON Lines or Parquet), as the file holds them.

A line that cannot be read is kept with its problem.

A CSV header is line 1. In JSON Lines the first object is line 1. In Parquet a line is a row's
number, from 1.
"""

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.data.csv_records import Record, csv_records
from xrec.errors import DataError

T = TypeVar("T")
_BATCH_ROWS = 8192  # of Parquet, which are Python objects at the same time


@dataclass(frozen=True)
class Line:
    """A row as read: `values` by column name, or `problem` if it cannot be read."""

    number: int
    text: str
    values: Mapping[str, Any] | None = None
    problem: str = ""


def stream_lines(
    file: str, source: IO[bytes], delimiter: str = ","
) -> tuple[list[str] | None, Iterator[Line]]:
    """The columns of `file`, null for JSON Lines, and its rows, which are read one by one.

    The ending of its name tells the format, and whether it is gzipped. source: the file's content,
    which stays open until the last row. For the columns of JSON Lines see `keys_of`. Raises
    DataError, now or with a later row, if the file as a whole cannot be read.
    """
    name = file.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        source = cast(IO[bytes], gzip.GzipFile(fileobj=source))
    if name.endswith(".parquet"):
        return _parquet(file, source)
    # Bytes that are not UTF-8 survive as lone surrogates, which the columns' parsers then refuse
    # row by row.
    is_csv = name.endswith((".csv", ".tsv"))
    newline = "" if is_csv else "\n"  # a JSON line may hold other line ends
    text = io.TextIOWrapper(source, "utf-8-sig", errors="surrogateescape", newline=newline)
    if not is_csv:
        return None, _readable(file, _json_lines(text))
    delimiter = "\t" if name.endswith(".tsv") else delimiter
    return _csv(file, csv_records(file, text, delimiter), delimiter)


def keys_of(rows: Iterable[Line]) -> list[str]:
    """The columns that the rows have, in the order in which they first appear."""
    objects = (row.values for row in rows if row.values is not None)
    return list(dict.fromkeys(key for values in objects for key in values))


def _readable(file: str, lines: Iterator[T]) -> Iterator[T]:
    try:
        yield from lines
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: not a readable gzip file ({error}); is it complete?") from error


def _csv(file: str, records: Iterator[Record], delimiter: str) -> tuple[list[str], Iterator[Line]]:
    records = _readable(file, records)
    header = next(records, Record(1))
    if header.problem:
        raise DataError(f"{file}: line {header.number}, the header, is {header.problem}; mend it")
    names = list(header.cells)
    _check_unique(file, names)
    return names, (_csv_line(names, record, delimiter) for record in records if _is_row(record))


def _is_row(record: Record) -> bool:
    return bool(record.cells or record.problem)  # an empty line is none


def _check_unique(file: str, names: Sequence[str]) -> None:
    """Raise DataError if two columns have one name; those without a name are not used."""
    repeated = [repr(name) for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise DataError(
            f"{file}: more than one column is called {', '.join(repeated)}; expected a name once, "
            "or it is not known which is meant; rename or remove the others"
        )


def _csv_line(header: list[str], record: Record, delimiter: str) -> Line:
    number, cells = record.number, record.cells
    if record.problem:
        return Line(number, "", problem=record.problem)
    text = delimiter.join(cells)
    if len(cells) != len(header):
        return Line(number, text, problem=f"expected {len(header)} columns, saw {len(cells)}")
    return Line(number, text, dict(zip(header, cells, strict=True)))


def _json_lines(text: IO[str]) -> Iterator[Line]:
    for number, line in enumerate(text, start=1):
        if stripped := line.strip():
            yield _json_line(number, stripped)


def _json_line(number: int, text: str) -> Line:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return Line(number, text, problem="not valid JSON")
    if not isinstance(values, dict):
        return Line(number, text, problem="not a JSON object")
    return Line(number, text, values)


def _parquet(file: str, source: IO[bytes]) -> tuple[list[str], Iterator[Line]]:
    try:
        opened = pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error
    names = opened.schema_arrow.names
    _check_unique(file, names)
    return names, _parquet_lines(file, opened)


def _parquet_lines(file: str, opened: pq.ParquetFile) -> Iterator[Line]:
    try:
        batches = opened.iter_batches(_BATCH_ROWS)
        rows = (row for batch in batches for row in _python_rows(file, batch))
        for number, row in enumerate(rows, start=1):
            yield Line(number, str(list(row.values())), row)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error


def _python_rows(file: str, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows; raises DataError, with the column, for a value that Python has no form of."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except (OverflowError, ValueError) as error:
            raise DataError(
                f"{file}: column {name!r} of type {column.type} has a value that cannot be read "
                f"({error}); expected dates in the years 1 to 9999; mend or drop it"
            ) from error
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
