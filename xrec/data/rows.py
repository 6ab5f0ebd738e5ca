"""The well-formed rows of one input file, under our column names; broken rows become findings.

What a cell must be, its parser says: it returns the value as xrec holds it, or raises ValueError
with the reason.
"""

import html
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.data.blocks import BLOCK_BYTES, Block, stream_blocks
from xrec.data.lines import Line, keys_of
from xrec.data.source import Finding
from xrec.errors import DataError

SPLITS = ("train", "validation", "test")
MAX_INDEX = 2**31 - 1

Parser = Callable[[object], str | None]

_TAG = re.compile(
    r" ?(?:</?(?:br|p|div|b|i|u|em|strong|a|span|font|li|ul|ol|h[1-6]|hr|img)\b[^<>]{0,500}>\s*)+",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:amp;)*(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]\w{1,31});", re.I)


def parse_id(value: object) -> str:
    """An id: any non-empty string, or an integer, as a string."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a string or an integer")
    if value == "":
        raise ValueError("must not be empty")
    return _valid_unicode(str(value))


def parse_dense_id(value: object) -> str:
    """An id of the public release: an integer from 0 on, as a string without leading zeros."""
    text = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value).strip()
    is_number = text.isascii() and text.isdigit() and len(text) < 1000  # int() takes no more
    if not (is_number and int(text) <= MAX_INDEX):
        raise ValueError(f"must be an integer from 0 to {MAX_INDEX}")
    return str(int(text))


def parse_text(value: object) -> str:
    """A text, stripped and without HTML's tags and entities; a missing value is the empty text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return without_html(_valid_unicode(value)).strip()


def without_html(text: str) -> str:
    """The text with a blank for each tag, and characters for entities, those of entities too."""
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(html.unescape(found[0])), text)
    return _TAG.sub(" ", text) if "<" in text else text


def parse_description(value: object) -> str:
    """A title or profile: as `parse_text`, with numbers and dates written out.

    The parts of a list are joined: "tea, cake".
    """
    if isinstance(value, list | tuple):
        return ", ".join(text for part in value if (text := parse_description(part)))
    if isinstance(value, float | Decimal) and math.isnan(value):
        return ""
    if isinstance(value, int | float | Decimal | date):
        return str(value)
    return parse_text(value)


def parse_split(value: object) -> str | None:
    """train, validation or test; None if it is missing, so that the pair's hash decides."""
    if value is None or value == "":
        return None
    if value not in SPLITS:
        raise ValueError(f"must be one of {', '.join(SPLITS)}")
    return str(value)


def _valid_unicode(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    return text


@dataclass(frozen=True)
class FileRows:
    """What could be read of `file`, and what was left out of its `num_rows` rows.

    table: the columns as large strings, and `line`.
    """

    file: str
    table: pa.Table
    findings: tuple[Finding, ...]
    num_rows: int


@dataclass(frozen=True)
class _Column:
    """One of our columns, and the columns of the file that it is made from."""

    name: str
    parse: Parser
    sources: tuple[str, ...]
    is_required: bool

    @property
    def label(self) -> str:
        """What messages call it."""
        if self.sources == (self.name,) or not self.sources:
            return self.name
        return f"{self.name} ({', '.join(self.sources)})"


def stream_rows(
    file: str,
    source: IO[bytes],
    columns: Mapping[str, Parser],
    optional: Mapping[str, Parser] | None = None,
    *,
    names: Mapping[str, tuple[str, ...]] | None = None,
    delimiter: str = ",",
    encoding: str | None = None,
    advice: str = "rename or add them",
    may_be_missing: Collection[str] = (),
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[FileRows]:
    """Parse a file, whose ending tells the format (see xrec.data.blocks), block by block.

    So the file need not fit in memory. The first part has no rows.

    `names` gives, for each of our columns that has another name there, the file's columns: none
    (the column is empty), one, or several (their values are joined to one text). The `columns` must
    be there, and so must an optional one that `names` names; other `optional` ones may be missing
    (null). Columns that are not asked for are ignored. `may_be_missing` are columns of ours that a
    row may lack, although `names` names what they are made from. Of JSON Lines the first rows say
    which columns the file has.

    A row that cannot be read, lacks a value's key or fails a column's parser is a finding. Raises
    DataError for a missing column, with the columns seen, those expected, and `advice`.
    """
    names = names or {}
    wanted = [
        _Column(
            name,
            parse,
            names.get(name, (name,)),
            (name in columns or name in names) and name not in may_be_missing,
        )
        for name, parse in {**columns, **(optional or {})}.items()
    ]
    sources = {source for column in wanted for source in column.sources}
    seen, blocks = stream_blocks(
        file, source, sources, delimiter, encoding, block_bytes=block_bytes
    )
    if seen is not None:
        _check_columns(file, seen, wanted, advice)
    is_checked = seen is not None
    yield _parse_lines(file, (), wanted)
    for block in blocks:
        rows = _parse_columns(file, block, wanted)
        if rows is None:
            lines = list(block.lines)
            if not is_checked and (seen := keys_of(lines)):
                _check_columns(file, seen, wanted, advice)
            rows = _parse_lines(file, lines, wanted)
        is_checked = True
        yield rows


def read_rows(file: str, source: IO[bytes], *columns: Any, **settings: Any) -> FileRows:
    """All rows of a file at once; for arguments and errors see `stream_rows`."""
    parts = list(stream_rows(file, source, *columns, **settings))
    return FileRows(
        file,
        pa.concat_tables([part.table for part in parts]),
        tuple(finding for part in parts for finding in part.findings),
        sum(part.num_rows for part in parts),
    )


def _check_columns(file: str, seen: list[str], wanted: Sequence[_Column], advice: str) -> None:
    required = [column for column in wanted if column.is_required]
    missing = [name for column in required for name in column.sources if name not in seen]
    if missing:
        raise DataError(
            f"{file}: missing column(s) {', '.join(missing)}; "
            f"expected {', '.join(column.label for column in required)}, "
            f"saw {', '.join(map(repr, seen)) or 'none'}; {advice}",
            code="missing_column",
            key=missing[0],
            saw=tuple(seen),
        )


def _parse_columns(file: str, block: Block, wanted: Sequence[_Column]) -> FileRows | None:
    """The rows of a block as columns; None if a cell is broken, or must be looked at by itself."""
    if block.table is None:
        return None
    try:
        cells = {column.name: _parsed(block.table, column) for column in wanted}
    except (ValueError, OverflowError, pa.ArrowNotImplementedError):
        return None
    lines = pa.array(np.arange(block.first, block.first + block.table.num_rows))
    return FileRows(file, pa.table({**cells, "line": lines}), (), block.table.num_rows)


def _parsed(table: pa.Table, column: _Column) -> pa.ChunkedArray:
    """The parsed cells of a column; each distinct value is parsed once. Raises ValueError."""
    if len(column.sources) > 1:
        raise ValueError("several columns are joined row by row")
    source = column.sources[0] if column.sources else ""
    if source not in table.column_names:
        value = _cell({}, column)
        return pa.chunked_array([pa.array([value] * table.num_rows, pa.large_string())])
    values = table[source]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if column.parse is parse_id and _are_ids(values):
        values.validate(full=True)  # as UTF-8
        return values.cast(pa.large_string())
    encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    parsed = [column.parse(value) for value in encoded.dictionary.to_pylist()]
    cells = pa.array(parsed, pa.large_string()).take(encoded.indices)
    return pa.chunked_array([cells])


def _are_ids(values: pa.ChunkedArray) -> bool:
    if values.null_count or pa.types.is_integer(values.type):
        return not values.null_count
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    return is_text and (pc.min(pc.binary_length(values)).as_py() or 0) > 0


def _parse_lines(file: str, rows: Sequence[Line], wanted: Sequence[_Column]) -> FileRows:
    parsed: list[list[str | None]] = []
    numbers: list[int] = []
    findings: list[Finding] = []
    for line in rows:
        try:
            if line.values is None:
                raise ValueError(line.problem)
            parsed.append([_cell(line.values, column) for column in wanted])
            numbers.append(line.number)
        except ValueError as error:
            findings.append(Finding(file, line.number, str(error), line.text))
    cells = {
        column.name: pa.array([row[place] for row in parsed], pa.large_string())
        for place, column in enumerate(wanted)
    }
    table = pa.table({**cells, "line": pa.array(numbers, pa.int64())})
    return FileRows(file, table, tuple(findings), num_rows=len(rows))


def _cell(values: Mapping[str, Any], column: _Column) -> str | None:
    """The parsed value of our column; raises ValueError with the reason if it is broken."""
    there = [name for name in column.sources if name in values]
    if not there and column.sources:
        if column.is_required:
            raise ValueError(f"no value for {column.label}")
        return None
    try:
        return column.parse(_value(values, there, column.sources))
    except ValueError as error:
        raise ValueError(f"{column.label} {error}") from None


def _value(values: Mapping[str, Any], there: list[str], sources: tuple[str, ...]) -> Any:
    """The value of the only source, or None without a source.

    The values of several sources are joined, as in "city: Leeds; colors: red, blue".
    """
    if len(sources) < 2:
        return values[there[0]] if there else None
    written = {name: _written(values[name]) for name in there}
    return "; ".join(f"{name}: {text}" for name, text in written.items() if text)


def _written(value: Any) -> str:
    """A value as it stands among others; what is no text, number or list of these, as it is."""
    try:
        return parse_description(value)
    except ValueError:
        return str(value)


def reject_duplicates(rows: FileRows, keys: list[str]) -> FileRows:
    """The rows whose `keys` are new; each later row with the same keys becomes a finding.

    The text of a finding is the other values of its row.
    """
    duplicated = pa.array(rows.table.select(keys).to_pandas().duplicated().to_numpy(dtype=bool))
    reason = f"duplicate of an earlier {', '.join(keys)}"
    findings = tuple(
        Finding(rows.file, row.pop("line"), reason, json.dumps(row, ensure_ascii=False))
        for row in rows.table.filter(duplicated).to_pylist()
    )
    kept = rows.table.filter(pc.invert(duplicated))
    return replace(rows, table=kept, findings=rows.findings + findings)
