"""The lines of one input file (CSV, JSON Lines or Parquet), as the file holds them.

A line that cannot be read is kept with its problem.

A CSV header is line 1. In JSON Lines the first object is line 1. In Parquet a line is a row's
number, from 1.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.errors import DataError


@dataclass(frozen=True)
class Line:
    """A row as read: `values` by column name, or `problem` if it cannot be read."""

    number: int
    text: str
    values: Mapping[str, Any] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Lines:
    """The rows of a file, and its columns.

    `columns` is null for JSON Lines without a single object, since no columns are named there.
    """

    columns: list[str] | None
    rows: list[Line]


def read_lines(file: str, data: bytes, delimiter: str = ",") -> Lines:
    """The rows in the content `data` of `file`.

    The ending of its name tells the format, and whether it is gzipped.

    Raises DataError if the file as a whole cannot be read.
    """
    name = file.lower()
    if name.endswith(".gz"):
        name, data = name.removesuffix(".gz"), _decompressed(file, data)
    if name.endswith(".parquet"):
        return _parquet(file, data)
    # Bytes that are not UTF-8 survive as lone surrogates, which the columns' parsers then refuse
    # row by row.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    if name.endswith(".tsv"):
        return _csv(text, "\t")
    return _csv(text, delimiter) if name.endswith(".csv") else _json_lines(text)


def _decompressed(file: str, data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: not a readable gzip file ({error}); is it complete?") from error


def _csv(text: str, delimiter: str) -> Lines:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    _, header = next(_csv_records(reader), (1, []))
    if isinstance(header, str):
        return Lines([], [])
    rows = [
        _csv_line(header, number, cells, delimiter)
        for number, cells in _csv_records(reader)
        if cells
    ]
    return Lines(header, rows)


def _csv_records(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of each record's first line, and its cells or the csv module's error."""
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, str(error)
        else:
            yield number, cells


def _csv_line(header: list[str], number: int, cells: list[str] | str, delimiter: str) -> Line:
    if isinstance(cells, str):
        return Line(number, "", problem=f"not readable as CSV: {cells}")
    text = delimiter.join(cells)
    if len(cells) != len(header):
        return Line(number, text, problem=f"expected {len(header)} columns, saw {len(cells)}")
    return Line(number, text, dict(zip(header, cells, strict=True)))


def _json_lines(text: str) -> Lines:
    numbered = enumerate(text.split("\n"), start=1)
    rows = [_json_line(number, line.strip()) for number, line in numbered if line.strip()]
    objects = [row.values for row in rows if row.values is not None]
    columns = list(dict.fromkeys(key for values in objects for key in values))
    return Lines(columns if objects else None, rows)


def _json_line(number: int, text: str) -> Line:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return Line(number, text, problem="not valid JSON")
    if not isinstance(values, dict):
        return Line(number, text, problem="not a JSON object")
    return Line(number, text, values)


def _parquet(file: str, data: bytes) -> Lines:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error
    rows = [
        Line(number, str(list(row.values())), row)
        for number, row in enumerate(table.to_pylist(), start=1)
    ]
    return Lines(table.column_names, rows)
