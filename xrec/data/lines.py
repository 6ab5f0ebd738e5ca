"""Reads the rows of CSV and JSON Lines one by one; defines what counts as a row of text.

A row that cannot be read keeps its text and its problem. In CSV the header is line 1; in JSON Lines
the first object is line 1.

A CSV cell in quotes can span several lines. A quote that is opened but never closed would merge all
later rows into one cell, so a cell that seems to contain whole rows is an error that reports its
line. Tab-separated files often use no quoting. There, quotes become plain characters from such a
cell on, unless an earlier cell needed its quotes because it contains a tab, a line end, or a
quote.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec.errors import DataError

_LINE_END = re.compile(r"\r\n?|\n")
_LEAST_ROWS_IN_CELL = 3  # for two columns: prose, too, may have a comma per line


@dataclass(frozen=True)
class Line:
    """A row as read: its `values` by column name, or the `problem` if it cannot be read."""

    number: int
    text: str
    values: Mapping[str, Any] | None = None
    problem: str = ""


Record = tuple[int, str, list[str], str]
"""A row of CSV: the number of its first line, its text, its cells, and its problem or ""."""


def keys_of(rows: Iterable[Line]) -> list[str]:
    """Return the columns of the rows, in the order of first appearance."""
    objects = (row.values for row in rows if row.values is not None)
    return list(dict.fromkeys(key for values in objects for key in values))


def decoded(line: str, encoding: str) -> str:
    """Decode a line of escaped bytes; return it unchanged if it has non-ASCII UTF-8 characters."""
    try:
        return line.encode("ascii", errors="surrogateescape").decode(encoding)
    except UnicodeError:
        return line


def json_lines(text: Iterable[str], first: int) -> Iterator[Line]:
    """Yield the rows of JSON lines, numbered from `first`; empty lines are skipped."""
    for number, line in enumerate(text, start=first):
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


def csv_lines(records: Iterable[Record], header: list[str]) -> Iterator[Line]:
    """Yield the rows of the records below a header; empty lines are skipped."""
    for number, text, cells, problem in records:
        if problem:
            yield Line(number, text, problem=f"not readable as CSV: {problem}")
        elif cells and len(cells) != len(header):
            yield Line(number, text, problem=f"expected {len(header)} columns, saw {len(cells)}")
        elif cells:
            yield Line(number, text, dict(zip(header, cells, strict=True)))


def csv_records(
    file: str, text: Iterator[str], delimiter: str, first: int = 1, num_columns: int = 0
) -> Iterator[Record]:
    """Yield the records of `text`, whose lines keep their line ends, numbered from `first`.

    num_columns: the length of the header, or 0 if the header is the first record. Raises DataError,
    with the line, if a cell in quotes is not closed or seems to contain whole rows.
    """
    lines: list[str] = []  # of the current record
    reader = csv.reader(_kept(text, lines), delimiter=delimiter, strict=True)
    are_plain, may_be_plain = False, delimiter == "\t"
    while True:
        number = first + reader.line_num
        lines.clear()
        try:
            cells, problem = next(reader), ""
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], str(error)
        if not are_plain and (
            _is_open(problem, lines, may_be_plain)
            if problem
            else _holds_rows(lines, cells, num_columns, delimiter)
        ):
            if not may_be_plain:
                raise _open_quote(file, number, lines)
            are_plain, first, text = True, number, itertools.chain(list(lines), text)
            reader = csv.reader(_kept(text, lines), delimiter=delimiter, quoting=csv.QUOTE_NONE)
            continue
        may_be_plain = may_be_plain and not _needs_quotes(lines, cells, not num_columns)
        num_columns = num_columns or len(cells)
        yield number, "".join(lines).rstrip("\r\n"), cells, problem


def _kept(text: Iterable[str], lines: list[str]) -> Iterator[str]:
    for line in text:
        lines.append(line)
        yield line


def _is_open(problem: str, lines: Sequence[str], may_be_plain: bool) -> bool:
    """Return whether the reader failed because a quote was not closed."""
    if problem.startswith("field larger") and len(lines) == 1:
        return False
    return may_be_plain or len(lines) > 1 or problem.startswith("unexpected end")


def _holds_rows(
    lines: Sequence[str], cells: Sequence[str], num_columns: int, delimiter: str
) -> bool:
    """Return whether a cell in quotes seems to contain rows.

    In a record of the right length, this is a cell with k line ends and the delimiters of k rows,
    none of them followed by a space, as a comma in prose would be. In a record of another length,
    one line after the first that has as many delimiters as a row is enough.
    """
    rest, num_delimiters = lines[1:], num_columns - 1
    if not rest or num_delimiters < 1:
        return False
    if len(cells) != num_columns:
        return any(line.count(delimiter) >= num_delimiters for line in rest)
    least = 1 if num_columns > 2 or delimiter == "\t" else _LEAST_ROWS_IN_CELL
    ends = [len(_LINE_END.findall(cell)) for cell in cells]
    return any(
        count >= least
        and cell.count(delimiter) == count * num_delimiters
        and f"{delimiter} " not in cell
        for cell, count in zip(cells, ends, strict=True)
    )


def _needs_quotes(lines: Sequence[str], cells: Sequence[str], is_header: bool) -> bool:
    """Return whether a cell needs its quotes, or whether any cell of the header has quotes."""
    text = "".join(lines)
    return '"' in text and any(
        '"' + cell.replace('"', '""') + '"' in text
        and (is_header or any(character in cell for character in '\t\r\n"'))
        for cell in cells
    )


def _open_quote(file: str, number: int, lines: Sequence[str]) -> DataError:
    last = number + len(lines) - 1
    seen = f"saw a cell from line {number} to line {last}" if last > number else "saw none"
    return DataError(
        f"{file}: line {number}: a quote opens a cell but is not closed at the end of the cell; "
        f"expected a closing quote before a delimiter or a line end, {seen}; to write a quote "
        'inside a cell, double it ("" for ") and put the whole cell in quotes',
        code="open_quote",
        key=file,
        saw=number,
    )
