"""The rows of one input file (CSV, JSON Lines or Parquet), block by block.

A block whose rows are all well formed is a table of Arrow. Any other block is read row by row
(xrec.data.lines), and so is a CSV file from the first quote on that is not around a whole cell. In
Parquet a line is a row's number, from 1.
"""

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import IO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from xrec.data.lines import Line, Record, csv_records, csv_rows, decoded, json_lines
from xrec.errors import DataError

BLOCK_BYTES = 1 << 20  # of text
_BLOCK_ROWS = 32_768  # of Parquet
_BLOCK_RECORDS = 8192  # of CSV with quotes, which are Python objects at the same time


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    lines: the rows, which are read when they are asked for, once. table: the columns that were
    asked for, if all rows are well formed; row r is line `first` + r.
    """

    lines: Iterable[Line]
    first: int = 0
    table: pa.Table | None = None


def stream_lines(
    file: str, source: IO[bytes], delimiter: str = ",", encoding: str | None = None
) -> tuple[list[str] | None, Iterator[Line]]:
    """The columns and rows of `file`, as `stream_blocks` has them, with the rows one by one."""
    columns, blocks = stream_blocks(file, source, (), delimiter, encoding)
    return columns, itertools.chain.from_iterable(block.lines for block in blocks)


def stream_blocks(
    file: str,
    source: IO[bytes],
    wanted: Collection[str],
    delimiter: str = ",",
    encoding: str | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[list[str] | None, Iterator[Block]]:
    """The columns of `file`, null for JSON Lines, and its rows, which are read block by block.

    The ending of its name tells the format, and whether it is gzipped. source: the file's content,
    which stays open until the last row. wanted: the columns of the blocks' tables. encoding: of
    lines that are not UTF-8. block_bytes: about how long a block of text is. For the columns of
    JSON Lines see `keys_of`. Raises DataError, now or with a later block, if the file as a whole
    cannot be read.
    """
    name = file.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        source = cast(IO[bytes], gzip.GzipFile(fileobj=source))
    if name.endswith(".parquet"):
        return _parquet(file, source, wanted)
    if name.endswith((".csv", ".tsv")):
        text = _Text(file, source, encoding, "", block_bytes)
        return _csv(text, wanted, "\t" if name.endswith(".tsv") else delimiter)
    # A JSON line may hold other line ends.
    return None, _json(_Text(file, source, encoding, "\n", block_bytes), wanted)


class _Text:
    """A file of text, read by blocks of whole lines.

    newline: what ends a line, as for `io.TextIOWrapper`. Bytes that are in no known encoding
    survive as lone surrogates, which the columns' parsers then refuse row by row.
    """

    def __init__(
        self, file: str, source: IO[bytes], encoding: str | None, newline: str, block_bytes: int
    ):
        self.file = file
        self._source, self._encoding, self._newline = source, encoding, newline
        self._block_bytes = block_bytes
        self._is_begun = False

    def line(self) -> bytes:
        """The next line with its end, which is a line feed; empty at the end of the file."""
        return self._without_mark(self._read(self._source.readline))

    def blocks(self) -> Iterator[bytes]:
        """Blocks of about `block_bytes`."""
        while block := self._read(lambda: self._source.read(self._block_bytes)):
            rest = b"" if block.endswith(b"\n") else self._read(self._source.readline)
            yield self._without_mark(block + rest)

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
        for each in itertools.chain([block], self.blocks()):
            yield from self.lines(each)

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.file}: not a readable gzip file ({error}); is it complete?",
                code="broken_file",
                key=self.file,
            ) from error

    def _without_mark(self, data: bytes) -> bytes:
        """The data, at the beginning of the file without a byte order mark."""
        is_begun, self._is_begun = self._is_begun, True
        return data if is_begun else data.removeprefix(codecs.BOM_UTF8)


def _check_unique(file: str, names: Sequence[str]) -> None:
    """Raise DataError if two columns have one name; those without a name are not used."""
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise DataError(
            f"{file}: more than one column is called {', '.join(map(repr, repeated))}; "
            "expected a name once, or it is not known which is meant; rename or remove the others",
            code="repeated_column",
            key=file,
            saw=tuple(repeated),
        )


def _json(text: _Text, wanted: Collection[str]) -> Iterator[Block]:
    first = 1
    for block in text.blocks():
        lines = json_lines(text.lines(block), first)
        yield Block(lines, first, _json_table(block, wanted))
        first += block.count(b"\n")


def _json_table(block: bytes, wanted: Collection[str]) -> pa.Table | None:
    """The wanted columns; None if a line is no object that has them all, or they are of types
    other than those of the first one.

    Where every line ends with } and the next one begins with {, each is one object.
    """
    num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    if not wanted or block.count(b"}\n{") != num_lines - 1 or block.startswith(codecs.BOM_UTF8):
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


def _parquet(
    file: str, source: IO[bytes], wanted: Collection[str]
) -> tuple[list[str], Iterator[Block]]:
    try:
        opened = pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{file}: not a readable Parquet file ({error})", code="broken_file", key=file
        ) from error
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
            yield Block(_parquet_lines(file, batch, first), first, pa.table(batch))
            first += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{file}: not a readable Parquet file ({error})", code="broken_file", key=file
        ) from error


def _parquet_lines(file: str, batch: pa.RecordBatch, first: int) -> Iterator[Line]:
    """Yield the rows; raises DataError, with the column, for a value that Python has no form of."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except (OverflowError, ValueError) as error:
            raise DataError(
                f"{file}: column {name!r} of type {column.type} has a value that cannot be read "
                f"({error}); expected dates in the years 1 to 9999; mend or drop it",
                code="unreadable_value",
                key=name,
            ) from error
    for number, row in enumerate(zip(*columns.values(), strict=True), start=first):
        yield Line(number, str(list(row)), dict(zip(columns, row, strict=True)))


def _csv(text: _Text, wanted: Collection[str], delimiter: str) -> tuple[list[str], Iterator[Block]]:
    head = text.line()
    records = csv_records(text.file, text.lines_from(head), delimiter)
    number, header, problem = next(records, (1, [], ""))
    if problem:
        raise DataError(
            f"{text.file}: line {number}, the header, is not readable as CSV: {problem}; mend it",
            code="broken_header",
            key=text.file,
        )
    _check_unique(text.file, header)
    if _is_simple(head, delimiter):
        return header, _csv_blocks(text, header, wanted, delimiter)
    return header, _blocks_of(records, header, delimiter)


def _is_simple(block: bytes, delimiter: str) -> bool:
    """Whether each line of a block of CSV is a row, and quotes, if any, stand around cells only."""
    if block.count(b"\r") != block.count(b"\r\n"):
        return False
    is_quoted = b'"' in block
    return not is_quoted or (delimiter != "\t" and bool(_simple(delimiter).fullmatch(block)))


@cache
def _simple(delimiter: str) -> re.Pattern[bytes]:
    mark = re.escape(delimiter.encode())
    cell = rb'(?:"[^"\n]*"|[^"\n' + mark + rb"]*)"
    return re.compile(rb"(?:" + cell + rb"(?:" + mark + rb"|\r?\n|\Z))*+")


def _csv_blocks(
    text: _Text, header: list[str], wanted: Collection[str], delimiter: str
) -> Iterator[Block]:
    """Yield blocks up to one that is not simple; from there on, rows are read one by one."""
    first = 2
    for block in text.blocks():
        if not _is_simple(block, delimiter):
            records = csv_records(text.file, text.lines_from(block), delimiter, first, len(header))
            yield from _blocks_of(records, header, delimiter)
            return
        records = csv_records(text.file, text.lines(block), delimiter, first, len(header))
        lines = csv_rows(records, header, delimiter)
        yield Block(lines, first, _csv_table(block, header, wanted, delimiter))
        first += block.count(b"\n")


def _blocks_of(records: Iterator[Record], header: list[str], delimiter: str) -> Iterator[Block]:
    while some := list(itertools.islice(records, _BLOCK_RECORDS)):
        yield Block(csv_rows(some, header, delimiter))


def _csv_table(
    block: bytes, header: list[str], wanted: Collection[str], delimiter: str
) -> pa.Table | None:
    """The wanted columns of a block of simple lines; None if one of these is no row."""
    lines = block.removesuffix(b"\n").split(b"\n")
    names = [str(place) for place in range(len(header))]  # of columns that have none, too
    taken = {names[header.index(name)]: name for name in wanted if name in header}
    is_long = len(max(lines, key=len)) > csv.field_size_limit()
    # Of a single column, an empty line might be a row. Arrow drops a mark at a block's beginning.
    if is_long or not taken or len(header) == 1 or block.startswith(codecs.BOM_UTF8):
        return None
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(block),
            pyarrow.csv.ReadOptions(
                column_names=names, use_threads=False, block_size=len(block) + 1
            ),
            pyarrow.csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(
                include_columns=list(taken), column_types=dict.fromkeys(names, pa.string())
            ),
        )
    except pa.ArrowInvalid:
        return None
    return table.rename_columns([*taken.values()]) if table.num_rows == len(lines) else None
