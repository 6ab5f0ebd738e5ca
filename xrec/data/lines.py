"""The rows of CSV and JSON Lines one by one: here are all rules on what a row of text is.

A row that cannot be read keeps its text and its problem. A CSV header is line 1. In JSON Lines the
first object is line 1.

A cell of CSV may be in quotes, and may then have several lines. A quote that opens a cell and is
never closed would make one cell of all rows after it. So a cell that seems to hold whole rows is
refused with its line. In a file with tabs, whose cells often are in no quotes at all, quotes are
plain characters from such a cell on, if no cell before it was quoted for a reason: for a tab, a
line end, or a quote in it.
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
_LEAST_ROWS_IN_CELL = 3  # of two columns: "tea, and 1,5 litres" has as many commas as a row


@dataclass(frozen=True)
class Line:
    """A row as read: `values` by column name, or `problem` if it cannot be read."""

    number: int
    text: str
    values: Mapping[str, Any] | None = None
    problem: str = ""


Record = tuple[int, str, list[str], str]
"""A row of CSV: the number of its first line, its text, its cells, and what is wrong with it."""


def keys_of(rows: Iterable[Line]) -> list[str]:
    """Return the columns that the rows have, in the order in which they first appear."""
    objects = (row.values for row in rows if row.values is not None)
    return list(dict.fromkeys(key for values in objects for key in values))


def decoded(line: str, encoding: str) -> str:
    """Decode a line of escaped bytes; one with other characters than ASCII in UTF-8 stays."""
    try:
        return line.encode("ascii", errors="surrogateescape").decode(encoding)
    except UnicodeError:
        return line


def json_lines(text: Iterable[str], first: int) -> Iterator[Line]:
    """Yield the rows of lines of JSON; the first is line `first`, and an empty line is no row."""
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
    """Yield the rows of records below a header; an empty line is no row."""
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
    """Yield the records of `text`, whose lines have their ends; the first one is line `first`.

    num_columns: of the header, if it is not among them. Raises DataError, with the line, where a
    cell in quotes does not end, or holds whole rows.
    """
    lines: list[str] = []  # of the record
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
    """Return whether the reader failed at a quote that does not end."""
    if problem.startswith("field larger") and len(lines) == 1:
        return False
    return may_be_plain or len(lines) > 1 or problem.startswith("unexpected end")


def _holds_rows(
    lines: Sequence[str], cells: Sequence[str], num_columns: int, delimiter: str
) -> bool:
    """Return whether a cell in quotes seems to hold rows.

    In a record of the right length, a cell of k line ends holds k rows' delimiters then, and none
    of these comes before a blank, as a comma in a text does. In a record of another length, it is
    enough that one line after the first has as many delimiters as a row.
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
    """Return whether a cell is in quotes that it needs, or any cell of the header is in quotes."""
    text = "".join(lines)
    return '"' in text and any(
        '"' + cell.replace('"', '""') + '"' in text
        and (is_header or any(character in cell for character in '\t\r\n"'))
        for cell in cells
    )


def _open_quote(file: str, number: int, lines: Sequence[str]) -> DataError:
    last = number + len(lines) - 1
    seen = f"saw one in lines {number} to {last}" if last > number else "saw none"
    return DataError(
        f"{file}: line {number}: a quote opens a cell and nothing ends it where a cell may end; "
        f"expected a closing quote before a delimiter or a line's end, {seen} that takes in the "
        'rows between; write a quote within a cell twice ("" for "), and the cell in quotes',
        code="open_quote",
        key=file,
        saw=number,
    )
