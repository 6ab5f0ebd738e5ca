"""Reads one input file (CSV, JSON Lines, or Parquet) in blocks of rows, by column.

The line number of a Parquet row is its row number, counted from 1.
"""

import codecs
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.data.arrow_rows import json_block
from xrec.data.block import MISSING, Block, Part, block_of
from xrec.data.csv_rows import csv_blocks
from xrec.errors import DataError

BLOCK_BYTES = 1 << 20  # of text
_BLOCK_ROWS = 32_768  # of Parquet
_DECODER = json.JSONDecoder()


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
    text = next(texts, "")
    head = _json_part(text, 1)
    known = list(
        dict.fromkeys(key for each in head.cells if isinstance(each, dict) for key in each)
    )
    names = wanted or known

    def columns(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        return {name: [row.get(name, MISSING) for row in cells] for name in names}

    def blocks() -> Iterator[Block]:
        yield block_of(file, head, columns)
        first = 1 + text.count("\n")
        for below in texts:
            block = json_block(file, below, first, wanted)
            yield block or block_of(file, _json_part(below, first), columns)
            first += below.count("\n")

    return known or None, blocks()


def _json_part(text: str, first: int) -> Part:
    lines = enumerate(map(str.strip, text.split("\n")), start=first)
    numbered = {number: line for number, line in lines if line}
    objects = [_loaded(line) for line in numbered.values()]
    problems = {
        row: "not valid JSON" if each is MISSING else "not a JSON object"
        for row, each in enumerate(objects)
        if not isinstance(each, dict)
    }
    return Part([*numbered], [*numbered.values()], objects, problems)


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
    mark = codecs.BOM_UTF8
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
        yield Block(file, numbers, columns, _texts_of(batch))
        first += batch.num_rows


def _texts_of(batch: pa.RecordBatch) -> Callable[[int], str]:
    return lambda row: str([column[row].as_py() for column in batch.columns])
