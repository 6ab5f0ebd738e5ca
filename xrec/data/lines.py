"""The lines of one input file (CSV, JSON Lines or Parquet), as the file holds them.

A line that cannot be read is kept with its problem. A CSV header is line 1. In JSON Lines the first
object is line 1. In Parquet a line is a row's number, from 1.

A cell of CSV may be in quotes, and may then have several lines. A quote that opens a cell and is
never closed would make one cell of all rows after it. So the quotes must add up, and a cell that
seems to hold whole rows is refused with its line. In a file with tabs, whose cells often are in no
quotes at all, quotes that do not add up are plain characters if no cell before them was quoted for
a reason: for a tab, a line end or a quote in it.
"""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.errors import DataError

_BATCH_ROWS = 8192  # of Parquet, which are Python objects at the same time
_LEAST_ROWS_IN_CELL = 3  # of two columns: "tea, and 1,5 litres" has as many commas as a row


@dataclass(frozen=True)
class Line:
    """A row as read: `values` by column name, or `problem` if it cannot be read."""

    number: int
    text: str
    values: Mapping[str, Any] | None = None
    problem: str = ""


def stream_lines(
    file: str, source: IO[bytes], delimiter: str = ",", encoding: str | None = None
) -> tuple[list[str] | None, Iterator[Line]]:
    """The columns of `file`, null for JSON Lines, and its rows, which are read one by one.

    The ending of its name tells the format, and whether it is gzipped. source: the file's content,
    which stays open until the last row. encoding: of lines that are not UTF-8. For the columns of
    JSON Lines see `keys_of`. Raises DataError, now or with a later row, if the file as a whole
    cannot be read.
    """
    name = file.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        source = cast(IO[bytes], gzip.GzipFile(fileobj=source))
    if name.endswith(".parquet"):
        return _parquet(file, source)
    # Bytes that are in no known encoding survive as lone surrogates, which the columns' parsers
    # then refuse row by row.
    is_csv = name.endswith((".csv", ".tsv"))
    newline = "" if is_csv else "\n"  # a JSON line may hold other line ends
    text = io.TextIOWrapper(source, "utf-8-sig", errors="surrogateescape", newline=newline)
    lines = _readable(file, text)
    if encoding is not None:
        lines = (line if line.isascii() else decoded(line, encoding) for line in lines)
    if not is_csv:
        return None, _json_lines(lines)
    return _csv(file, lines, "\t" if name.endswith(".tsv") else delimiter)


def keys_of(rows: Iterable[Line]) -> list[str]:
    """The columns that the rows have, in the order in which they first appear."""
    objects = (row.values for row in rows if row.values is not None)
    return list(dict.fromkeys(key for values in objects for key in values))


def _readable(file: str, text: Iterable[str]) -> Iterator[str]:
    try:
        yield from text
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: not a readable gzip file ({error}); is it complete?") from error


def decoded(line: str, encoding: str) -> str:
    """A line of escaped bytes in its encoding; one with other than ASCII in UTF-8 as it is."""
    try:
        return line.encode("ascii", errors="surrogateescape").decode(encoding)
    except UnicodeError:
        return line


def _check_unique(file: str, names: Sequence[str]) -> None:
    """Raise DataError if two columns have one name; those without a name are not used."""
    repeated = [repr(name) for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise DataError(
            f"{file}: more than one column is called {', '.join(repeated)}; expected a name once, "
            "or it is not known which is meant; rename or remove the others"
        )


def _json_lines(text: Iterator[str]) -> Iterator[Line]:
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


_Record = tuple[int, list[str], str]
"""The number of a record's first line, and its cells, or none and what is wrong with it."""


def _csv(file: str, text: Iterator[str], delimiter: str) -> tuple[list[str], Iterator[Line]]:
    records = _csv_records(file, text, delimiter)
    number, header, problem = next(records, (1, [], ""))
    if problem:
        raise DataError(
            f"{file}: line {number}, the header, is not readable as CSV: {problem}; mend it"
        )
    _check_unique(file, header)
    # An empty line is no row.
    rows = (record for record in records if record[1] or record[2])
    return header, (_csv_line(header, record, delimiter) for record in rows)


def _csv_line(header: list[str], record: _Record, delimiter: str) -> Line:
    number, cells, problem = record
    if problem:
        return Line(number, "", problem=f"not readable as CSV: {problem}")
    text = delimiter.join(cells)
    if len(cells) != len(header):
        return Line(number, text, problem=f"expected {len(header)} columns, saw {len(cells)}")
    return Line(number, text, dict(zip(header, cells, strict=True)))


def _csv_records(file: str, text: Iterator[str], delimiter: str) -> Iterator[_Record]:
    """Yield the records of `text`, whose lines have their ends; the first one is the header.

    Raises DataError, with the line, where a cell in quotes does not end, or holds whole rows.
    """
    lines: list[str] = []  # of the record
    reader = csv.reader(_kept(text, lines), delimiter=delimiter, strict=True)
    num_columns = 0
    may_be_plain = delimiter == "\t"
    while True:
        number = reader.line_num + 1
        lines.clear()
        try:
            cells, problem = next(reader), ""
            is_unbalanced = _holds_rows(lines, cells, num_columns, delimiter)
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], str(error)
            is_unbalanced = _is_open(problem, lines, may_be_plain)
        if is_unbalanced and may_be_plain:
            yield from _plain_records(itertools.chain(list(lines), text), number, delimiter)
            return
        if is_unbalanced:
            raise DataError(_unbalanced(file, number, lines))
        may_be_plain = may_be_plain and not _has_quoted(lines, cells, not num_columns)
        num_columns = num_columns or len(cells)
        yield number, cells, problem


def _kept(text: Iterator[str], lines: list[str]) -> Iterator[str]:
    for line in text:
        lines.append(line)
        yield line


def _plain_records(lines: Iterator[str], first: int, delimiter: str) -> Iterator[_Record]:
    """Yield the records of lines in which quotes are plain characters."""
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    while True:
        number = first + reader.line_num
        try:
            yield number, next(reader), ""
        except StopIteration:
            return
        except csv.Error as error:
            yield number, [], str(error)


def _is_open(problem: str, lines: Sequence[str], may_be_plain: bool) -> bool:
    """Whether the reader failed at a quote that does not end."""
    if problem.startswith("field larger") and len(lines) == 1:
        return False
    return may_be_plain or len(lines) > 1 or problem.startswith("unexpected end")


def _holds_rows(
    lines: Sequence[str], cells: Sequence[str], num_columns: int, delimiter: str
) -> bool:
    """True if lines after a record's first one seem to be rows that a quote took in.

    In a record of the right length, all of them must: each with the delimiters of a row, and none
    of these before a blank, as a comma in a text is. In one of another length, one is enough.
    """
    rest, num_delimiters = lines[1:], num_columns - 1
    if not rest or num_delimiters < 1:
        return False
    if len(cells) != num_columns:
        return any(line.count(delimiter) >= num_delimiters for line in rest)
    least = 1 if num_columns > 2 or delimiter == "\t" else _LEAST_ROWS_IN_CELL
    return len(rest) >= least and all(
        line.count(delimiter) == num_delimiters and f"{delimiter} " not in line for line in rest
    )


def _has_quoted(lines: Sequence[str], cells: Sequence[str], is_header: bool) -> bool:
    """True if a cell is in quotes that it needs, or any cell of the header is in quotes."""
    text = "".join(lines)
    return '"' in text and any(
        '"' + cell.replace('"', '""') + '"' in text
        and (is_header or any(character in cell for character in '\t\r\n"'))
        for cell in cells
    )


def _unbalanced(file: str, number: int, lines: Sequence[str]) -> str:
    last = number + len(lines) - 1
    seen = f"saw one in lines {number} to {last}" if last > number else "saw none"
    return (
        f"{file}: line {number}: a quote opens a cell and nothing ends it where a cell may end; "
        f"expected a closing quote before a delimiter or a line's end, {seen} that takes in the "
        'rows between; write a quote within a cell twice ("" for "), and the cell in quotes'
    )
