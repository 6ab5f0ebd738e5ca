"""The records of a CSV file: cells may be in quotes, and may then have several lines.

A quote that opens a cell and is never closed would make one cell of all rows after it. So the
quotes must add up, and a cell that seems to hold whole rows is refused with its line. In a file
with tabs, whose cells often are in no quotes at all, quotes that do not add up are plain characters
if no cell before them was quoted for a reason: for a tab, a line end or a quote in it.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from xrec.errors import DataError

_LEAST_ROWS_IN_CELL = 3  # of two columns: "tea, and 1,5 litres" has as many commas as a row


@dataclass(frozen=True)
class Record:
    """The cells of a record, or none and the `problem`; `number` is that of its first line."""

    number: int
    cells: Sequence[str] = ()
    problem: str = ""


@dataclass
class _Lines:
    """The lines of a file, of which `record` are those read since it was emptied."""

    source: Iterator[str]
    record: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        for line in self.source:
            self.record.append(line)
            yield line


def csv_records(file: str, text: Iterator[str], delimiter: str) -> Iterator[Record]:
    """Yield the records of `text`, whose lines have their ends; the first one is the header.

    Raises DataError, with the line, where a cell in quotes does not end, or holds whole rows.
    """
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: Sequence[str] | None = None
    may_be_plain = delimiter == "\t"
    while True:
        number = reader.line_num + 1
        lines.record.clear()
        try:
            cells, problem = next(reader), ""
            is_unbalanced = header is not None and _holds_rows(
                lines.record, cells, len(header), delimiter
            )
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], str(error)
            is_long = problem.startswith("field larger") and len(lines.record) == 1
            is_unbalanced = not is_long and (
                may_be_plain or len(lines.record) > 1 or problem.startswith("unexpected end")
            )
        if is_unbalanced and may_be_plain:
            plain = itertools.chain(list(lines.record), text)
            yield from _plain_records(plain, number, delimiter)
            return
        if is_unbalanced:
            raise DataError(_unbalanced(file, number, lines.record))
        may_be_plain = may_be_plain and not _has_quoted(lines.record, cells, header is None)
        header = cells if header is None else header
        yield Record(number, cells, f"not readable as CSV: {problem}" if problem else "")


def _plain_records(lines: Iterator[str], first: int, delimiter: str) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    while True:
        number = first + reader.line_num
        try:
            yield Record(number, next(reader))
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(number, problem=f"not readable as CSV: {error}")


def _holds_rows(
    lines: Sequence[str], cells: Sequence[str], num_columns: int, delimiter: str
) -> bool:
    """True if lines after a record's first one seem to be rows that a quote took in.

    In a record of the right length, all of them must: each with the delimiters of a row, and none
    of these before a blank, as a comma in a text is. In one of another length, one is enough.
    """
    rest, num_delimiters = lines[1:], num_columns - 1
    if not rest or not num_delimiters:
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
    if '"' not in text:
        return False
    return any(
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
