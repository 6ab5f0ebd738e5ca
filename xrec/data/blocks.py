"""The rows of one input file (CSV, JSON Lines or Parquet), block by block.

Arrow reads the blocks whose rows are all well formed. Other blocks are read row by row
(xrec.data.lines). So is the rest of a CSV file after the first quote that does not enclose a whole
cell. The line number of a Parquet row is its row number, counted from 1.
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
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from xrec.data.lines import Line, Record, csv_lines, csv_records, decoded, json_lines
from xrec.errors import DataError

BLOCK_BYTES = 1 << 20  # of text
_BLOCK_ROWS = 32_768  # of Parquet
_BLOCK_RECORDS = 8192  # of CSV with quotes, all held as Python objects at once


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    lines: the rows, read lazily; can be iterated only once. table: the requested columns if all
    rows are well formed, otherwise None; row r is line `first` + r.
    """

    lines: Iterable[Line]
    first: int = 0
    table: pa.Table | None = None


def stream_lines(
    file: str, source: IO[bytes], delimiter: str = ",", encoding: str | None = None
) -> tuple[list[str] | None, Iterator[Line]]:
    """Return the columns and rows of `file`, like `stream_blocks`, but one row at a time."""
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
    """Return the columns of `file` (None for JSON Lines), and its rows, read block by block.

    The file extension determines the format and whether the file is gzipped. source: the content,
    which must stay open until the last row is read. wanted: the columns of the blocks' tables.
    encoding: used for lines that are not UTF-8. block_bytes: approximate size of a block of text.
    For the columns of JSON Lines, see `keys_of`. Raises DataError, now or with a later block, if
    the file as a whole cannot be read.
    """
    name = file.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        source = cast(IO[bytes], gzip.GzipFile(fileobj=source))
    if name.endswith(".parquet"):
        return _parquet(file, source, wanted)
    blocks = _text_blocks(file, source, block_bytes)
    if name.endswith((".csv", ".tsv")):
        delimiter = "\t" if name.endswith(".tsv") else delimiter
        return _csv(_Text(file, blocks, wanted, encoding, "", delimiter))
    # A line of JSON may contain other line-break characters.
    return None, _json(_Text(file, blocks, wanted, encoding, "\n"))


@dataclass(frozen=True)
class _Text:
    """A text file, read once in blocks of whole lines.

    newline: the line ending, as for `io.StringIO`.
    """

    file: str
    blocks: Iterator[bytes]
    wanted: Collection[str]
    encoding: str | None
    newline: str
    delimiter: str = ""

    def lines(self, blocks: Iterable[bytes]) -> Iterator[str]:
        """Yield the lines of blocks; bytes that cannot be decoded become lone surrogates."""
        for block in blocks:
            for line in io.StringIO(block.decode("utf-8", "surrogateescape"), self.newline):
                is_known = self.encoding is None or line.isascii()
                yield line if is_known else decoded(line, str(self.encoding))

    def records(self, blocks: Iterable[bytes], first: int, num_columns: int) -> Iterator[Record]:
        """Yield the records of CSV blocks, like `csv_records`."""
        return csv_records(self.file, self.lines(blocks), self.delimiter, first, num_columns)


@contextmanager
def _broken(file: str, kind: str) -> Iterator[None]:
    """Raise DataError if reading fails because the file is damaged or of another kind."""
    try:
        yield
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{file}: not a readable {kind} file ({error}); is it complete?",
            code="broken_file",
            key=file,
        ) from error


def _text_blocks(file: str, source: IO[bytes], block_bytes: int) -> Iterator[bytes]:
    """Yield blocks of whole lines, the first one without a byte order mark."""
    mark = codecs.BOM_UTF8
    while True:
        with _broken(file, "gzip"):
            block = source.read(block_bytes)
            if not block.endswith(b"\n"):
                block += source.readline()
        if not block:
            return
        yield block.removeprefix(mark)
        mark = b""


def _check_unique(file: str, names: Sequence[str]) -> None:
    """Raise DataError if two columns have the same name; columns without a name are ignored."""
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise DataError(
            f"{file}: more than one column is called {', '.join(map(repr, repeated))}; "
            "expected each name only once; rename or remove the others",
            code="repeated_column",
            key=file,
            saw=tuple(repeated),
        )


def _json(text: _Text) -> Iterator[Block]:
    first = 1
    for block in text.blocks:
        lines = json_lines(text.lines([block]), first)
        yield Block(lines, first, _json_table(block, text.wanted))
        first += block.count(b"\n")


def _json_table(block: bytes, wanted: Collection[str]) -> pa.Table | None:
    """Return the wanted columns; None if a line is not an object that has them all, or if their
    types differ from those in the first line.

    If every line ends with } and the next one begins with {, each line is one object.
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
    with _broken(file, "Parquet"):
        opened = pq.ParquetFile(source)
    names = opened.schema_arrow.names
    _check_unique(file, names)
    columns = [name for name in names if name in wanted] if wanted else None
    return names, _parquet_blocks(file, opened, columns)


def _parquet_blocks(
    file: str, opened: pq.ParquetFile, columns: Sequence[str] | None
) -> Iterator[Block]:
    first = 1
    batches = opened.iter_batches(_BLOCK_ROWS, columns=columns)
    while True:
        with _broken(file, "Parquet"):
            batch = next(batches, None)
        if batch is None:
            return
        yield Block(_parquet_lines(file, batch, first), first, pa.table(batch))
        first += batch.num_rows


def _parquet_lines(file: str, batch: pa.RecordBatch, first: int) -> Iterator[Line]:
    """Yield the rows; raise DataError, with the column, for a value that Python cannot hold."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except (OverflowError, ValueError) as error:
            raise DataError(
                f"{file}: column {name!r} of type {column.type} has a value that cannot be read "
                f"({error}); expected dates in the years 1 to 9999; fix or drop it",
                code="unreadable_value",
                key=name,
            ) from error
    for number, row in enumerate(zip(*columns.values(), strict=True), start=first):
        yield Line(number, str(list(row)), dict(zip(columns, row, strict=True)))


def _csv(text: _Text) -> tuple[list[str], Iterator[Block]]:
    head, end, rest = next(text.blocks, b"").partition(b"\n")
    head, blocks = head + end, itertools.chain([rest] if rest else (), text.blocks)
    records = text.records(itertools.chain([head], blocks), 1, 0)
    number, _, header, problem = next(records, (1, "", [], ""))
    if problem:
        raise DataError(
            f"{text.file}: line {number}, the header, is not readable as CSV: {problem}; fix it",
            code="broken_header",
            key=text.file,
        )
    _check_unique(text.file, header)
    if _is_simple(head, text.delimiter):  # so the header took only this line
        return header, _csv_blocks(text, blocks, header)
    return header, _in_blocks(records, header)


def _is_simple(block: bytes, delimiter: str) -> bool:
    """Return whether every line of the CSV is one row and all quotes enclose whole cells."""
    if block.count(b"\r") != block.count(b"\r\n"):
        return False
    is_quoted = b'"' in block
    return not is_quoted or (delimiter != "\t" and bool(_simple(delimiter).fullmatch(block)))


@cache
def _simple(delimiter: str) -> re.Pattern[bytes]:
    mark = re.escape(delimiter.encode())
    cell = rb'(?:"[^"\n]*"|[^"\n' + mark + rb"]*)"
    return re.compile(rb"(?:" + cell + rb"(?:" + mark + rb"|\r?\n|\Z))*+")


def _csv_blocks(text: _Text, blocks: Iterator[bytes], header: list[str]) -> Iterator[Block]:
    """Yield simple blocks; from the first one that is not simple, read the rows one by one."""
    first = 2
    for block in blocks:
        if not _is_simple(block, text.delimiter):
            rest = text.records(itertools.chain([block], blocks), first, len(header))
            yield from _in_blocks(rest, header)
            return
        records = text.records([block], first, len(header))
        yield Block(csv_lines(records, header), first, _csv_table(text, block, header))
        first += block.count(b"\n")


def _in_blocks(records: Iterator[Record], header: list[str]) -> Iterator[Block]:
    while some := list(itertools.islice(records, _BLOCK_RECORDS)):
        yield Block(csv_lines(some, header))


def _csv_table(text: _Text, block: bytes, header: list[str]) -> pa.Table | None:
    """Return the wanted columns of a block of simple lines; None if any line is not a row."""
    lines = block.removesuffix(b"\n").split(b"\n")
    names = [str(place) for place in range(len(header))]  # for unnamed columns, too
    taken = {names[header.index(name)]: name for name in text.wanted if name in header}
    is_long = len(max(lines, key=len)) > csv.field_size_limit()
    # With a single column, an empty line may be a row. Arrow drops a BOM at the start of a block.
    if is_long or not taken or len(header) == 1 or block.startswith(codecs.BOM_UTF8):
        return None
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(block),
            pyarrow.csv.ReadOptions(
                column_names=names, use_threads=False, block_size=len(block) + 1
            ),
            pyarrow.csv.ParseOptions(delimiter=text.delimiter, ignore_empty_lines=False),
            pyarrow.csv.ConvertOptions(
                include_columns=list(taken), column_types=dict.fromkeys(names, pa.string())
            ),
        )
    except pa.ArrowInvalid:
        return None
    return table.rename_columns([*taken.values()]) if table.num_rows == len(lines) else None
