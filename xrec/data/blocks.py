"""Reads one input file (CSV, JSON Lines, or Parquet) in blocks of rows, by column.

The line number of a Parquet row is its row number, counted from 1.
"""

import codecs
import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec.data.findings import Finding
from xrec.data.text_rows import Row, csv_rows, json_rows
from xrec.errors import DataError

BLOCK_BYTES = 1 << 20  # of text
_BLOCK_ROWS = 32_768  # of Parquet
MISSING = object()
"""The cell of a row of JSON Lines that does not have the column."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file, by column.

    numbers: the line of each row. columns: the cells of each column, by its name. text: returns the
    text of a row, given its position in the block. findings: the rows that cannot be read.
    """

    file: str
    numbers: Sequence[int]
    columns: Mapping[str, list[Any] | pa.Array]
    text: Callable[[int], str]
    findings: Sequence[Finding] = ()

    def cells(self, name: str) -> list[Any]:
        """Return the cells of a column; raise DataError if Python cannot hold one of them."""
        cells = self.columns[name]
        return cells if isinstance(cells, list) else self._listed(name, cells)

    def distinct(self, name: str) -> tuple[list[Any], npt.NDArray[np.int64]]:
        """Return different cells of a column, and for each row, the place of its own among them."""
        cells = _as_array(self.columns[name])
        if cells is not None:
            with suppress(pa.ArrowNotImplementedError):  # for lists and objects
                encoded = cells.dictionary_encode(null_encoding="encode")
                return self._listed(name, encoded.dictionary), encoded.indices.to_numpy()
        return self.cells(name), np.arange(len(self.numbers))

    def ids(self, name: str) -> pa.Array | None:
        """Return a column as strings; None if not all cells are integers or non-empty strings."""
        cells = _as_array(self.columns[name])
        if cells is None or cells.null_count:
            return None
        if not pa.types.is_integer(cells.type):
            is_text = pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)
            if not is_text or not pc.all(pc.greater(pc.binary_length(cells), 0)).as_py():
                return None
        try:
            cells.validate(full=True)  # checks the UTF-8
        except pa.ArrowInvalid:
            return None
        return cells.cast(pa.large_string())

    def _listed(self, name: str, cells: pa.Array) -> list[Any]:
        try:
            return list(cells.to_pylist())
        except (OverflowError, ValueError) as error:
            raise DataError(
                f"{self.file}: column {name!r} of type {cells.type} has a value that cannot be "
                f"read ({error}); expected dates in the years 1 to 9999; fix or drop it",
                code="unreadable_value",
                key=name,
            ) from error


def _as_array(cells: list[Any] | pa.Array) -> pa.Array | None:
    """Return the cells as an array, if they are all texts (or null) or all integers."""
    if isinstance(cells, pa.Array):
        is_dictionary = pa.types.is_dictionary(cells.type)
        return cells.cast(cells.type.value_type) if is_dictionary else cells
    types = {*map(type, cells)}
    with suppress(ValueError, OverflowError):  # lone surrogates; large integers
        if types <= {str, type(None)}:
            return pa.array(cells, pa.large_string())
        if types == {int}:
            return pa.array(cells, pa.int64())
    return None


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
    names: list[str] | None
    if name.endswith((".csv", ".tsv")):
        names, parts = csv_rows(file, texts, "\t" if name.endswith(".tsv") else delimiter)
        _check_unique(file, names)
    else:
        parts = json_rows(texts)
        head = next(parts, [])
        names, parts = _keys(head) or None, itertools.chain([head], parts)
    return names, (_block(file, rows, wanted or names or _keys(rows)) for rows in parts)


def _keys(rows: Sequence[Row]) -> list[str]:
    """Return the columns of the rows, in the order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row.cells))


def _block(file: str, rows: Sequence[Row], names: Collection[str]) -> Block:
    whole = [row for row in rows if not row.problem]
    columns = {name: [row.cells.get(name, MISSING) for row in whole] for name in names}
    findings = [Finding(file, row.number, row.problem, row.text) for row in rows if row.problem]
    numbers = [row.number for row in whole]
    return Block(file, numbers, columns, lambda row: whole[row].text, findings)


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
