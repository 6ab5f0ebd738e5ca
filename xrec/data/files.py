"""Reads one input file (CSV, JSON Lines, or Parquet) in blocks of rows, by column.

The line number of a Parquet row is its row number, counted from 1. Arrow reads the blocks of text
that it reads as Python's json and csv do (csv_rows); these read all others.
"""

import codecs
import gzip
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from xrec.data.block import MISSING, Block
from xrec.data.csv_rows import csv_blocks
from xrec.errors import DataError

BLOCK_BYTES = 1 << 20  # of text
_BLOCK_ROWS = 32_768  # of Parquet
_MARK = codecs.BOM_UTF8
_DECODER = json.JSONDecoder()
_JSON_TYPES: Mapping[type, pa.DataType] = {str: pa.large_string(), int: pa.int64()}


def read_blocks(
    file: str,
    source: IO[bytes],
    wanted: Collection[str] = (),
    delimiter: str = ",",
    encoding: str | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[list[str] | None, Iterator[Block]]:
    """Return the columns of `file`, and its rows, read block by block.

    The file extension determines the format and whether the file is gzipped. The columns of JSON
    Lines are those of the first block, None if it has no row.

    source: the content, which must stay open until the last row is read. wanted: the columns of the
    blocks; all if it is empty. encoding: used for lines that are not UTF-8. block_bytes:
    approximate size of a block of text. Raises DataError, now or with a later block, if the file as
    a whole cannot be read.
    """
    name = file.lower()
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        source = cast(IO[bytes], gzip.GzipFile(fileobj=source))
    if name.endswith(".parquet"):
        return _parquet(file, source, wanted)
    texts = _texts(file, source, encoding, block_bytes)
    if name.endswith((".csv", ".tsv")):
        names, blocks = csv_blocks(
            file, texts, "\t" if name.endswith(".tsv") else delimiter, wanted
        )
        _check_unique(file, names)
        return names, blocks
    return _json(file, texts, wanted)


def _json(
    file: str, texts: Iterator[str], wanted: Collection[str]
) -> tuple[list[str] | None, Iterator[Block]]:
    """Return the keys in the first block of JSON Lines, None if it has no object, and the rows."""
    head = next(texts, "")
    objects = map(_loaded, map(str.strip, head.split("\n")))
    known = list(dict.fromkeys(key for each in objects if isinstance(each, dict) for key in each))

    def blocks() -> Iterator[Block]:
        first = 1
        for text in itertools.chain([head], texts):
            block = _json_by_arrow(file, text, first, wanted)
            yield block or _json_by_line(file, text, first, wanted or known)
            first += text.count("\n")

    return known or None, blocks()


def _json_by_arrow(file: str, text: str, first: int, wanted: Collection[str]) -> Block | None:
    """Return the rows of JSON Lines whose first line has the number `first`; None if not simple.

    Each line must be an object. Each of the `wanted` columns must have strings or integers
    throughout, as in the first line, or be in no line.
    """
    num_lines = text.count("\n") + (not text.endswith("\n"))
    # If each line ends with } and the next one begins with {, each object is one line.
    if not wanted or text.count("}\n{") != num_lines - 1 or text.startswith(_MARK.decode()):
        return None
    try:
        data, values = text.encode(), json.loads(text.partition("\n")[0])
        types = {name: _JSON_TYPES[type(values[name])] for name in wanted if name in values}
        missing = [name for name in wanted if name not in values]
        spelled = [key for name in missing for key in (f'"{name}"', json.dumps(name))]
        if not types or any(key in text for key in spelled):  # a later line has it
            return None
        table = pyarrow.json.read_json(
            io.BytesIO(data),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(types), unexpected_field_behavior="ignore"
            ),
        )
    except (ValueError, TypeError, KeyError, RecursionError):  # ArrowInvalid is a ValueError
        return None
    columns = {name: table[name].combine_chunks() for name in types}
    if table.num_rows != num_lines or any(column.null_count for column in columns.values()):
        return None
    columns |= {name: [MISSING] * num_lines for name in missing}
    lines = cache(lambda: text.split("\n"))
    numbers = range(first, first + num_lines)
    return Block(file, numbers, columns, lambda line: lines()[line - first].strip())


def _json_by_line(file: str, text: str, first: int, names: Collection[str]) -> Block:
    lines = {n: line for n, each in enumerate(text.split("\n"), first) if (line := each.strip())}
    objects = {number: _loaded(line) for number, line in lines.items()}
    problems = {
        number: "not valid JSON" if each is MISSING else "not a JSON object"
        for number, each in objects.items()
        if not isinstance(each, dict)
    }
    rows = {number: each for number, each in objects.items() if number not in problems}
    columns = {name: [row.get(name, MISSING) for row in rows.values()] for name in names}
    return Block(file, [*rows], columns, lines.__getitem__, problems)


def _loaded(line: str) -> Any:
    """Return the value of a line, or MISSING; `json.loads` would take half as long again."""
    try:
        value, end = _DECODER.raw_decode(line)
    except (ValueError, RecursionError):
        return MISSING
    return value if end == len(line) else MISSING


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


def _texts(file: str, source: IO[bytes], encoding: str | None, block_bytes: int) -> Iterator[str]:
    """Yield the text in blocks of whole lines, the first one without a byte order mark.

    Bytes that cannot be decoded become lone surrogates.
    """
    mark = _MARK
    while True:
        with _broken(file, "gzip"):
            block = source.read(block_bytes)
            if not block.endswith(b"\n"):
                block += source.readline()
        if not block:
            return
        block, mark = block.removeprefix(mark), b""
        try:
            yield block.decode()
        except UnicodeDecodeError:
            yield "\n".join(_decoded(line, encoding) for line in block.split(b"\n"))


def _decoded(line: bytes, encoding: str | None) -> str:
    text = line.decode("utf-8", "surrogateescape")
    try:  # a line with non-ASCII characters in UTF-8 is not in another encoding
        return text.encode("ascii", "surrogateescape").decode(encoding) if encoding else text
    except UnicodeError:
        return text


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


def _parquet(
    file: str, source: IO[bytes], wanted: Collection[str]
) -> tuple[list[str], Iterator[Block]]:
    with _broken(file, "Parquet"):
        opened = pq.ParquetFile(source)
    names = opened.schema_arrow.names
    _check_unique(file, names)
    columns = [name for name in names if name in wanted] if wanted else None
    return names, _parquet_blocks(file, opened.iter_batches(_BLOCK_ROWS, columns=columns))


def _parquet_blocks(file: str, batches: Iterator[pa.RecordBatch]) -> Iterator[Block]:
    first = 1
    while True:
        with _broken(file, "Parquet"):
            batch = next(batches, None)
        if batch is None:
            return
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        numbers = range(first, first + batch.num_rows)
        yield Block(file, numbers, columns, partial(_row_text, batch, first))
        first += batch.num_rows


def _row_text(batch: pa.RecordBatch, first: int, number: int) -> str:
    return str([column[number - first].as_py() for column in batch.columns])
