"""The rows of one input file (CSV, JSON Lines or Parquet), as the file holds them, block by block.

A block whose rows are all well formed is a table of Arrow; any other block is read row by row. A
row that cannot be read is kept with its problem. A CSV header is line 1. In JSON Lines the first
object is line 1. In Parquet a line is a row's number, from 1.

A cell of CSV may be in quotes, and may then have several lines. A quote that opens a cell and is
never closed would make one cell of all rows after it. So the quotes must add up, and a cell that
seems to hold whole rows is refused with its line. In a file with tabs, whose cells often are in no
quotes at all, quotes that do not add up are plain characters if no cell before them was quoted for
a reason: for a tab, a line end or a quote in it.
"""

import codecs
import csv
import gzip
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from xrec.errors import DataError

_BLOCK_BYTES = 1 << 20  # of text
_BLOCK_ROWS = 32_768  # of Parquet
_BLOCK_RECORDS = 8192  # of CSV with quotes, which are Python objects at the same time
_LEAST_ROWS_IN_CELL = 3  # of two columns: "tea, and 1,5 litres" has as many commas as a row


@dataclass(frozen=True)
class Line:
    """A row as read: `values` by column name, or `problem` if it cannot be read."""

    number: int
    text: str
    values: Mapping[str, Any] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    lines: reads them one by one. table: the columns that were asked for, if all rows are well
    formed; row r is line `first` + r.
    """

    lines: Callable[[], Sequence[Line]]
    first: int = 0
    table: pa.Table | None = None


def stream_lines(
    file: str, source: IO[bytes], delimiter: str = ",", encoding: str | None = None
) -> tuple[list[str] | None, Iterator[Line]]:
    """The columns and rows of `file`, as `stream_blocks` has them, with the rows one by one."""
    columns, blocks = stream_blocks(file, source, (), delimiter, encoding)
    return columns, itertools.chain.from_iterable(block.lines() for block in blocks)


def stream_blocks(
    file: str,
    source: IO[bytes],
    wanted: Collection[str],
    delimiter: str = ",",
    encoding: str | None = None,
) -> tuple[list[str] | None, Iterator[Block]]:
    """The columns of `file`, null for JSON Lines, and its rows, which are read block by block.

    The ending of its name tells the format, and whether it is gzipped. source: the file's content,
    which stays open until the last row. wanted: the columns of the blocks' tables. encoding: of
    lines that are not UTF-8. For the columns of JSON Lines see `keys_of`. Raises DataError, now or
    with a later block, if the file as a whole cannot be read.
    """
    name = file.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        source = cast(IO[bytes], gzip.GzipFile(fileobj=source))
    if name.endswith(".parquet"):
        return _parquet(file, source, wanted)
    if name.endswith((".csv", ".tsv")):
        text = _Text(file, source, encoding, newline="")
        return _csv(text, wanted, "\t" if name.endswith(".tsv") else delimiter)
    # A JSON line may hold other line ends.
    return None, _json(_Text(file, source, encoding, newline="\n"), wanted)


def keys_of(rows: Iterable[Line]) -> list[str]:
    """The columns that the rows have, in the order in which they first appear."""
    objects = (row.values for row in rows if row.values is not None)
    return list(dict.fromkeys(key for values in objects for key in values))


class _Text:
    """A file of text, read by blocks of whole lines.

    newline: what ends a line, as for `io.TextIOWrapper`. Bytes that are in no known encoding
    survive as lone surrogates, which the columns' parsers then refuse row by row.
    """

    def __init__(self, file: str, source: IO[bytes], encoding: str | None, newline: str):
        self.file = file
        self._source, self._encoding, self._newline = source, encoding, newline
        self._is_begun = False

    def line(self) -> bytes:
        """The next line with its end, which is a line feed; empty at the end of the file."""
        return self._read(self._source.readline)

    def blocks(self) -> Iterator[bytes]:
        """Blocks of about `_BLOCK_BYTES`."""
        while block := self._read(lambda: self._source.read(_BLOCK_BYTES)):
            yield block if block.endswith(b"\n") else block + self.line()

    def lines(self, block: bytes) -> Iterator[str]:
        """The lines of a block, with their ends."""
        wrapped = io.TextIOWrapper(
            io.BytesIO(block), "utf-8", errors="surrogateescape", newline=self._newline
        )
        if (encoding := self._encoding) is None:
            return iter(wrapped)
        return (line if line.isascii() else decoded(line, encoding) for line in wrapped)

    def lines_from(self, block: bytes) -> Iterator[str]:
        """The lines of a block, and all that come after it, as they are asked for."""
        while block:
            yield from self.lines(block)
            block = self.line()

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            data = read()
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.file}: not a readable gzip file ({error}); is it complete?"
            ) from error
        is_begun, self._is_begun = self._is_begun, True
        return data if is_begun else data.removeprefix(codecs.BOM_UTF8)


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


def _json(text: _Text, wanted: Collection[str]) -> Iterator[Block]:
    first = 1
    for block in text.blocks():
        read = partial(_json_lines, text, block, first)
        yield Block(read, first, _json_table(block, wanted))
        first += block.count(b"\n")


def _json_table(block: bytes, wanted: Collection[str]) -> pa.Table | None:
    """The wanted columns; None if a line is no object that has them all, or they are of types
    other than those of the first one.

    Where every line ends with } and the next one begins with {, each is one object.
    """
    num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    if not wanted or block.count(b"}\n{") != num_lines - 1:
        return None
    try:
        block.decode()
        values = json.loads(block.split(b"\n", 1)[0])
        types = {True: pa.int64(), False: pa.string()}
        fields = [(name, types[type(values[name]) is int]) for name in wanted if name in values]
        table = pyarrow.json.read_json(
            io.BytesIO(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
            ),
        )
    except (ValueError, TypeError, RecursionError):  # ArrowInvalid is a ValueError
        return None
    is_whole = fields and table.num_rows == num_lines
    return table if is_whole and not any(column.null_count for column in table.columns) else None


def _json_lines(text: _Text, block: bytes, first: int) -> list[Line]:
    lines = enumerate(map(str.strip, text.lines(block)), start=first)
    return [_json_line(number, line) for number, line in lines if line]


def _json_line(number: int, text: str) -> Line:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return Line(number, text, problem="not valid JSON")
    if not isinstance(values, dict):
        return Line(number, text, problem="not a JSON object")
    return Line(number, text, values)


def _parquet(
    file: str, source: IO[bytes], wanted: Collection[str]
) -> tuple[list[str], Iterator[Block]]:
    try:
        opened = pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error
    names = opened.schema_arrow.names
    _check_unique(file, names)
    columns = [name for name in names if name in wanted] if wanted else None
    return names, _parquet_blocks(file, opened, columns)


def _parquet_blocks(
    file: str, opened: pq.ParquetFile, columns: Sequence[str] | None
) -> Iterator[Block]:
    first = 1
    try:
        for batch in opened.iter_batches(_BLOCK_ROWS, columns=columns):
            yield Block(partial(_parquet_lines, file, batch, first), first, pa.table(batch))
            first += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error


def _parquet_lines(file: str, batch: pa.RecordBatch, first: int) -> list[Line]:
    rows = enumerate(_python_rows(file, batch), start=first)
    return [Line(number, str(list(row.values())), row) for number, row in rows]


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


def _csv(text: _Text, wanted: Collection[str], delimiter: str) -> tuple[list[str], Iterator[Block]]:
    head = text.line()
    records = _csv_records(text.file, text.lines_from(head), delimiter)
    number, header, problem = next(records, (1, [], ""))
    if problem:
        raise DataError(
            f"{text.file}: line {number}, the header, is not readable as CSV: {problem}; mend it"
        )
    _check_unique(text.file, header)
    if _is_simple(head):
        return header, _csv_blocks(text, header, wanted, delimiter)
    return header, _blocks_of(records, header, delimiter)


def _is_simple(block: bytes) -> bool:
    """Whether each line of a block of CSV, between line feeds, is a row."""
    return b'"' not in block and block.count(b"\r") == block.count(b"\r\n")


def _csv_blocks(
    text: _Text, header: list[str], wanted: Collection[str], delimiter: str
) -> Iterator[Block]:
    """Yield blocks of columns up to the first quote; from there on rows are read one by one."""
    first = 2
    for block in text.blocks():
        if not _is_simple(block):
            records = _csv_records(text.file, text.lines_from(block), delimiter, first, len(header))
            yield from _blocks_of(records, header, delimiter)
            return
        read = partial(_simple_rows, text, block, header, delimiter, first)
        yield Block(read, first, _csv_table(block, header, wanted, delimiter))
        first += block.count(b"\n")


def _blocks_of(records: Iterator[_Record], header: list[str], delimiter: str) -> Iterator[Block]:
    while some := list(itertools.islice(records, _BLOCK_RECORDS)):
        rows = _csv_rows(some, header, delimiter)
        yield Block(partial(list, rows))


def _simple_rows(
    text: _Text, block: bytes, header: list[str], delimiter: str, first: int
) -> list[Line]:
    return _csv_rows(_plain_records(text.lines(block), first, delimiter), header, delimiter)


def _csv_rows(records: Iterable[_Record], header: list[str], delimiter: str) -> list[Line]:
    # An empty line is no row.
    return [_csv_line(header, each, delimiter) for each in records if each[1] or each[2]]


def _csv_table(
    block: bytes, header: list[str], wanted: Collection[str], delimiter: str
) -> pa.Table | None:
    """The wanted columns of a block of simple lines; None if one of these is no row."""
    lines = block.removesuffix(b"\n").split(b"\n")
    names = [str(place) for place in range(len(header))]  # of columns that have none, too
    taken = {names[header.index(name)]: name for name in wanted if name in header}
    is_long = len(max(lines, key=len)) > csv.field_size_limit()
    if is_long or not taken or len(header) == 1:  # of which an empty line might be a row
        return None
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(block),
            pyarrow.csv.ReadOptions(
                column_names=names, use_threads=False, block_size=len(block) + 1
            ),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, quote_char=False, ignore_empty_lines=False
            ),
            pyarrow.csv.ConvertOptions(
                include_columns=list(taken), column_types=dict.fromkeys(names, pa.string())
            ),
        )
    except pa.ArrowInvalid:
        return None
    return table.rename_columns([*taken.values()]) if table.num_rows == len(lines) else None


def _csv_line(header: list[str], record: _Record, delimiter: str) -> Line:
    number, cells, problem = record
    if problem:
        return Line(number, "", problem=f"not readable as CSV: {problem}")
    text = delimiter.join(cells)
    if len(cells) != len(header):
        return Line(number, text, problem=f"expected {len(header)} columns, saw {len(cells)}")
    return Line(number, text, dict(zip(header, cells, strict=True)))


def _csv_records(
    file: str, text: Iterator[str], delimiter: str, first: int = 1, num_columns: int = 0
) -> Iterator[_Record]:
    """Yield the records of `text`, whose lines have their ends; the first one is line `first`.

    num_columns: of the header, if it is not among them. Raises
    DataError, with the line, where a cell in quotes does not end, or holds whole rows.
    """
    lines: list[str] = []  # of the record
    reader = csv.reader(_kept(text, lines), delimiter=delimiter, strict=True)
    may_be_plain = delimiter == "\t"
    while True:
        number = first + reader.line_num
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


def _kept(text: Iterable[str], lines: list[str]) -> Iterator[str]:
    for line in text:
        lines.append(line)
        yield line


def _plain_records(lines: Iterable[str], first: int, delimiter: str) -> Iterator[_Record]:
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
