"""Reads the rows of CSV; the header is line 1.

Arrow reads all simple blocks up to the first one with a quote that may span lines.

A cell in quotes can span several lines. A quote that is opened but never closed would merge all
later rows into one cell, so a cell that seems to contain whole rows is an error that reports its
line. Tab-separated files often use no quoting. There, quotes become plain characters from such a
cell on, unless an earlier cell needed its quotes because it contains a tab, a line end, or a quote.
"""

import csv
import io
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.csv

from xrec.data.block import Block
from xrec.errors import DataError

_BLOCK_RECORDS = 8192  # of CSV with quotes
_LINE_END = re.compile(r"\r\n?|\n")
_Record = tuple[int, str, list[str], str]
_LEAST_ROWS_IN_CELL = 3  # for two columns: prose, too, may have a comma per line


def csv_blocks(
    file: str, texts: Iterator[str], delimiter: str, wanted: Collection[str]
) -> tuple[list[str], Iterator[Block]]:
    """Return the header of CSV, and the rows; empty lines are skipped.

    wanted: the columns of the blocks, if not all. Raises DataError, now or with a later block, if
    the header cannot be read, or if a quote is not closed.
    """
    head, end, rest = next(texts, "").partition("\n")
    texts = itertools.chain([rest] if rest else [], texts)
    is_line = _is_simple(head + end, delimiter)
    whole = itertools.chain([head + end], () if is_line else texts)
    records = _records(file, whole, delimiter, 1, 0)
    number, _, header, problem = next(records, (1, "", [], ""))
    if problem:
        raise DataError(
            f"{file}: line {number}, the header, is not readable as CSV: {problem}; fix it",
            code="broken_header",
            key=file,
        )
    if is_line:
        return header, _blocks(file, texts, delimiter, header, wanted)
    return header, _record_blocks(file, records, header)


def _blocks(
    file: str, texts: Iterator[str], delimiter: str, header: list[str], wanted: Collection[str]
) -> Iterator[Block]:
    """Yield the rows below the header, by Arrow up to the first quote that can span lines."""
    first = 2
    for text in texts:
        is_by_line = _is_simple(text, delimiter)
        block = _arrow_block(file, text, first, header, wanted, delimiter) if is_by_line else None
        if block is None:
            rest = [text] if is_by_line else itertools.chain([text], texts)
            yield from _record_blocks(
                file, _records(file, rest, delimiter, first, len(header)), header
            )
        else:
            yield block
        first += text.count("\n")


def _is_simple(text: str, delimiter: str) -> bool:
    """Return whether each line of CSV is a row, and quotes enclose whole cells or are literal."""
    if "\r" in text and text.count("\r") != text.count("\r\n"):
        return False
    return '"' not in text or (delimiter != "\t" and bool(_simple_cells(delimiter).fullmatch(text)))


@cache
def _simple_cells(delimiter: str) -> re.Pattern[str]:
    mark = re.escape(delimiter)
    quoted, plain = r'"[^"\n]*+(?:""[^"\n]*+)*+"', rf'(?:[^"\n{mark}][^\n{mark}]*+)?'
    return re.compile(rf"(?:(?:{quoted}|{plain})(?:{mark}|\r?\n|\Z))*+")


def _arrow_block(
    file: str,
    text: str,
    first: int,
    header: Sequence[str],
    wanted: Collection[str],
    delimiter: str,
) -> Block | None:
    """Return the rows of simple text whose first line has the number `first`.

    The result is None if Arrow would read them in another way than Python's csv.
    """
    lines = text.removesuffix("\n").split("\n")
    is_long = max(map(len, lines)) > csv.field_size_limit()
    # Arrow drops a byte order mark, and reads an empty line as a row.
    if len(header) < 2 or is_long or text.startswith(("\ufeff", "\n", "\r")):
        return None
    if "\n\n" in text or "\n\r\n" in text:
        return None
    names = [str(place) for place in range(len(header))]  # unique, unlike the header
    taken = {name: names[place] for place, name in enumerate(header) if name in (wanted or header)}
    problems = dict[int, str]()

    def skip(row: Any) -> str:
        problems[first + row.number - 1] = _wrong_width(header, row.actual_columns)
        return "skip"

    try:
        data = text.encode()
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            pyarrow.csv.ReadOptions(
                column_names=names, use_threads=False, block_size=len(data) + 1
            ),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, ignore_empty_lines=False, invalid_row_handler=skip
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=[*taken.values()] or names[:1],
                column_types=dict.fromkeys(names, pa.large_string()),
            ),
        )
    except (pa.ArrowInvalid, UnicodeEncodeError):
        return None
    numbers = [line for line in range(first, first + len(lines)) if line not in problems]
    if table.num_rows != len(numbers):
        return None
    columns = {name: table[place].combine_chunks() for name, place in taken.items()}
    return Block(file, numbers, columns, lambda line: lines[line - first].rstrip("\r"), problems)


def _record_blocks(file: str, records: Iterator[_Record], header: list[str]) -> Iterator[Block]:
    while some := list(itertools.islice(records, _BLOCK_RECORDS)):
        yield _record_block(file, some, header)


def _record_block(file: str, records: Sequence[_Record], header: list[str]) -> Block:
    """Return records as rows, without those of empty lines."""
    problems = {
        number: f"not readable as CSV: {problem}" if problem else _wrong_width(header, len(cells))
        for number, _, cells, problem in records
        if problem or len(cells) not in (0, len(header))
    }
    rows = {number: cells for number, _, cells, _ in records if cells and number not in problems}
    by_column = map(list, zip(*rows.values(), strict=True)) if rows else ([] for _ in header)
    texts = {number: text for number, text, _, _ in records}
    columns = dict(zip(header, by_column, strict=True))
    return Block(file, [*rows], columns, lambda line: texts[line].rstrip("\r\n"), problems)


def _wrong_width(header: Sequence[str], num_cells: int) -> str:
    return f"expected {len(header)} columns, saw {num_cells}"


def _records(
    file: str, texts: Iterable[str], delimiter: str, first: int, num_columns: int
) -> Iterator[_Record]:
    """Yield the number, text, cells, and problem of each record, numbered from `first`.

    texts: blocks of whole lines. num_columns: the length of the header, or 0 if the
    header is the first record. Raises DataError, with the line, if a cell in quotes is not closed
    or seems to contain whole rows.
    """
    text = itertools.chain.from_iterable(io.StringIO(each, "") for each in texts)
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
