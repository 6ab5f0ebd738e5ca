"""Reads the rows of CSV. The header is line 1.

A cell in quotes can span several lines. A quote that is opened but never closed would merge all
later rows into one cell, so a cell that seems to contain whole rows is an error that reports its
line. Tab-separated files often use no quoting. There, quotes become plain characters from such a
cell on, unless an earlier cell needed its quotes because it contains a tab, a line end, or a quote.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from xrec.data.block import Block, Part, block_of
from xrec.errors import DataError

_BLOCK_RECORDS = 8192  # of CSV with quotes
_LINE_END = re.compile(r"\r\n?|\n")
_LEAST_ROWS_IN_CELL = 3  # for two columns: prose, too, may have a comma per line


def csv_blocks(
    file: str, texts: Iterator[str], delimiter: str
) -> tuple[list[str], Iterator[Block]]:
    """Return the header of CSV, and the rows; empty lines are skipped.

    Raises DataError, now or with a later block, if the header cannot be read, or if a quote is not
    closed.
    """
    parts = _csv_parts(file, texts, delimiter)
    head = next(parts, Part((1,), ("",), ([],), {}))
    header: list[str] = head.cells[0]
    if problem := head.problems.get(0):
        raise DataError(
            f"{file}: line {head.numbers[0]}, the header, is not readable as CSV: {problem}; "
            "fix it",
            code="broken_header",
            key=file,
        )

    def columns(cells: Sequence[list[str]]) -> dict[str, list[Any]]:
        by_column = map(list, zip(*cells, strict=True)) if cells else ([] for _ in header)
        return dict(zip(header, by_column, strict=True))

    below = Part(head.numbers[1:], head.texts[1:], head.cells[1:], {})
    rest = itertools.chain([below], parts)
    checked = (part._replace(problems=_csv_problems(part, len(header))) for part in rest)
    return header, (block_of(file, part, columns) for part in checked)


def _csv_problems(part: Part, num_columns: int) -> dict[int, str]:
    sizes = {row: size for row, size in enumerate(map(len, part.cells)) if size != num_columns}
    return {
        **{
            row: f"expected {num_columns} columns, saw {size}" if size else ""
            for row, size in sizes.items()
        },
        **{row: f"not readable as CSV: {why}" for row, why in part.problems.items()},
    }


def _csv_parts(file: str, texts: Iterator[str], delimiter: str) -> Iterator[Part]:
    """Yield the header and all rows; each line is a row up to the first block where one is not."""
    first, num_columns = 1, 0
    for text in texts:
        lines = text.removesuffix("\n").split("\n")
        rows = _rows_of_lines(text, lines, delimiter)
        if rows is None:
            whole = itertools.chain([text], texts)
            rest = itertools.chain.from_iterable(io.StringIO(each, "") for each in whole)
            records = _quoted_records(file, rest, delimiter, first, num_columns)
            size = 1  # of the header alone, if it is still to come
            while some := list(itertools.islice(records, size)):
                numbers, of_rows = [each[0] for each in some], [each[1] for each in some]
                problems = {row: each[3] for row, each in enumerate(some) if each[3]}
                yield Part(numbers, of_rows, [each[2] for each in some], problems)
                size = _BLOCK_RECORDS
            return
        yield Part(range(first, first + len(lines)), lines, rows, {})
        first, num_columns = first + len(lines), num_columns or len(rows[0])


def _rows_of_lines(text: str, lines: list[str], delimiter: str) -> list[list[str]] | None:
    """Return the cells of each line; None if a line may not be a row, or quotes may be plain."""
    if text.count("\r") != text.count("\r\n") or ('"' in text and delimiter == "\t"):
        return None
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows if len(rows) == len(lines) else None


def _quoted_records(
    file: str, text: Iterator[str], delimiter: str, first: int, num_columns: int
) -> Iterator[tuple[int, str, list[str], str]]:
    """Yield the number, text, cells, and problem of each record, numbered from `first`.

    text: lines, which keep their line ends. num_columns: the length of the header, or 0 if the
    header is the first record. Raises DataError, with the line, if a cell in quotes is not closed
    or seems to contain whole rows.
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
        yield number, "".join(lines), cells, problem


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
