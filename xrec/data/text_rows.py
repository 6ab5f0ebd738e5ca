"""Reads the rows of JSON Lines and CSV.

A row that cannot be read keeps its text and its problem. The header of CSV is line 1; so is the
first line of JSON Lines.

A CSV cell in quotes can span several lines. A quote that is opened but never closed would merge all
later rows into one cell, so a cell that seems to contain whole rows is an error that reports its
line. Tab-separated files often use no quoting. There, quotes become plain characters from such a
cell on, unless an earlier cell needed its quotes because it contains a tab, a line end, or a quote.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from xrec.errors import DataError

_BLOCK_RECORDS = 8192  # of CSV with quotes
_LINE_END = re.compile(r"\r\n?|\n")
_LEAST_ROWS_IN_CELL = 3  # for two columns: prose, too, may have a comma per line


class Row(NamedTuple):
    """A row as read: the number of its first line, its text, its cells, and its problem or ""."""

    number: int
    text: str
    cells: Any
    problem: str = ""


Rows = Iterator[list[Row]]
"""Blocks of rows whose cells are a mapping by column, empty if there is a problem."""


def json_rows(texts: Iterable[str]) -> Rows:
    """Yield the rows of each block of JSON Lines; empty lines are skipped."""
    first = 1
    for text in texts:
        lines = enumerate(map(str.strip, text.split("\n")), start=first)
        yield [_json_row(number, line) for number, line in lines if line]
        first += text.count("\n")


def _json_row(number: int, text: str) -> Row:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return Row(number, text, {}, "not valid JSON")
    if not isinstance(values, dict):
        return Row(number, text, {}, "not a JSON object")
    return Row(number, text, values)


def csv_rows(file: str, texts: Iterator[str], delimiter: str) -> tuple[list[str], Rows]:
    """Return the header of CSV, and the rows in blocks; empty lines are skipped.

    Raises DataError, now or with a later block, if the header cannot be read, or if a quote is not
    closed.
    """
    parts = _csv_records(file, texts, delimiter)
    head = next(parts, [])
    number, _, header, problem = head[0] if head else Row(1, "", [])
    if problem:
        raise DataError(
            f"{file}: line {number}, the header, is not readable as CSV: {problem}; fix it",
            code="broken_header",
            key=file,
        )
    rest = itertools.chain([head[1:]], parts)
    return header, ([_csv_row(each, header) for each in part if any(each[2:])] for part in rest)


def _csv_row(record: Row, header: list[str]) -> Row:
    number, text, cells, problem = record
    if problem:
        return Row(number, text, {}, f"not readable as CSV: {problem}")
    if len(cells) != len(header):
        return Row(number, text, {}, f"expected {len(header)} columns, saw {len(cells)}")
    return Row(number, text, dict(zip(header, cells, strict=True)))


def _csv_records(file: str, texts: Iterator[str], delimiter: str) -> Rows:
    """Yield records, whose cells are a list; until the first quote, each line is a record."""
    first, num_columns = 1, 0
    for text in texts:
        lines = text.removesuffix("\n").split("\n")
        rows = _plain_rows(text, lines, delimiter)
        if rows is None:
            whole = itertools.chain([text], texts)
            rest = itertools.chain.from_iterable(io.StringIO(each, "") for each in whole)
            records = _quoted_records(file, rest, delimiter, first, num_columns)
            yield list(itertools.islice(records, 1))  # maybe the header: no later record is read
            while some := list(itertools.islice(records, _BLOCK_RECORDS)):
                yield some
            return
        numbered = enumerate(zip(lines, rows, strict=True), start=first)
        yield [Row(number, line.rstrip("\r"), cells) for number, (line, cells) in numbered]
        first, num_columns = first + len(lines), num_columns or len(rows[0])


def _plain_rows(text: str, lines: list[str], delimiter: str) -> list[list[str]] | None:
    """Return the cells of each line; None if a line may not be a record."""
    if '"' in text or text.count("\r") != text.count("\r\n"):
        return None
    try:
        return list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:  # a cell is too long
        return None


def _quoted_records(
    file: str, text: Iterator[str], delimiter: str, first: int, num_columns: int
) -> Iterator[Row]:
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
        yield Row(number, "".join(lines).rstrip("\r\n"), cells, problem)


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
