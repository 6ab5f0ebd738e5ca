"""Reads the well-formed rows of one input file, under our column names.

Broken rows become findings. The parser of a column returns a cell's value as xrec stores it, or
raises ValueError with the reason.
"""

import html
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

Parser = Callable[[object], str | None]

_TAG = re.compile(
    r" ?(?:</?(?:br|p|div|b|i|u|em|strong|a|span|font|li|ul|ol|h[1-6]|hr|img)\b[^<>]{0,500}>\s*)+",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:amp;)*(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]\w{1,31});", re.I)


def parse_id(value: object) -> str:
    """Return an ID (any non-empty string or integer) as a string."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a string or an integer")
    if value == "":
        raise ValueError("must not be empty")
    return _valid_unicode(str(value))


def parse_text(value: object) -> str:
    """Return text, stripped and without HTML; a missing value becomes the empty string."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return without_html(_valid_unicode(value)).strip()


def without_html(text: str) -> str:
    """Return the text with spaces for tags and with entities unescaped, up to twice."""
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(html.unescape(found[0])), text)
    return _TAG.sub(" ", text) if "<" in text else text


def parse_description(value: object) -> str:
    """Return a title or profile, like `parse_text`, but also accept numbers, dates, and lists.

    The parts of a list are joined with commas: "tea, cake".
    """
    if isinstance(value, list | tuple):
        return ", ".join(text for part in value if (text := parse_description(part)))
    if isinstance(value, float | Decimal) and math.isnan(value):
        return ""
    if isinstance(value, int | float | Decimal | date):
        return str(value)
    return parse_text(value)


def parse_split(value: object) -> str | None:
    """Return a split, or None if it is missing; the pair's hash then determines it."""
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
    """The rows that could be read from `file`, and those that were left out.

    table: the columns as large strings, and `line`.
    """

    file: str
    table: pa.Table
    findings: tuple[Finding, ...] = ()

    @property
    def num_rows(self) -> int:
        """The number of rows, including those left out."""
        return int(self.table.num_rows) + len(self.findings)


@dataclass(frozen=True)
class _Column:
    """One of our columns, and the file's columns that it is made from."""

    name: str
    parse: Parser
    sources: tuple[str, ...]
    is_required: bool

    @property
    def label(self) -> str:
        """The name of the column in messages."""
        if self.sources in ((), (self.name,)):
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
    """Parse a file block by block; its extension determines the format (see xrec.data.blocks).

    The file does not have to fit in memory. The first part has no rows.

    `names` maps each of our columns that the file names differently to the file's columns: none
    (our column is empty), one, or several (their values are joined into one text). The `columns`
    are required, and so are optional ones that are in `names`; other `optional` columns may be
    missing (null). All other columns are ignored. `may_be_missing` are our columns that a row may
    lack even if they are in `names`. The columns of a JSON Lines file are those of its first rows.

    A row that cannot be read, lacks a required key, or fails a column's parser is a finding. Raises
    DataError if a column is missing, with the columns seen and expected, and `advice`.
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
    is_checked = seen is not None
    if seen is not None:
        _check_columns(file, seen, wanted, advice)
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


def joined_rows(parts: Iterable[FileRows]) -> FileRows:
    """Return all parts of a file as one part."""
    all_parts = list(parts)
    return FileRows(
        all_parts[0].file,
        pa.concat_tables([part.table for part in all_parts]),
        tuple(finding for part in all_parts for finding in part.findings),
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
    """Return a block's rows, parsed by column; None if they must be parsed row by row."""
    if block.table is None:
        return None
    try:
        cells = {column.name: _parsed(block.table, column) for column in wanted}
    except (ValueError, OverflowError, pa.ArrowNotImplementedError):
        return None
    lines = pa.array(np.arange(block.first, block.first + block.table.num_rows))
    return FileRows(file, pa.table({**cells, "line": lines}))


def _parsed(table: pa.Table, column: _Column) -> pa.ChunkedArray:
    """Return a column's parsed cells, parsing each distinct value once; may raise ValueError."""
    if len(column.sources) > 1:
        raise ValueError("several columns are joined row by row")
    source = column.sources[0] if column.sources else ""
    if source not in table.column_names:
        return pa.repeat(pa.scalar(_cell({}, column), pa.large_string()), table.num_rows)
    values = table[source]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if column.parse is parse_id and _are_ids(values):
        values.validate(full=True)  # checks the UTF-8
        return values.cast(pa.large_string())
    encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    parsed = [column.parse(value) for value in encoded.dictionary.to_pylist()]
    return pa.array(parsed, pa.large_string()).take(encoded.indices)


def _are_ids(values: pa.ChunkedArray) -> bool:
    if values.null_count or pa.types.is_integer(values.type):
        return not values.null_count
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    return is_text and (pc.min(pc.binary_length(values)).as_py() or 0) > 0


def _parse_lines(file: str, rows: Iterable[Line], wanted: Sequence[_Column]) -> FileRows:
    parsed, findings = list[list[Any]](), list[Finding]()
    for line in rows:
        try:
            if line.values is None:
                raise ValueError(line.problem)
            cells: list[Any] = [_cell(line.values, column) for column in wanted]
            parsed.append([*cells, line.number])
        except ValueError as error:
            findings.append(Finding(file, line.number, str(error), line.text))
    fields = [*((column.name, pa.large_string()) for column in wanted), ("line", pa.int64())]
    columns = zip(*parsed, strict=True) if parsed else [()] * len(fields)
    table = pa.table([*map(list, columns)], pa.schema(fields))
    return FileRows(file, table, tuple(findings))


def _cell(values: Mapping[str, Any], column: _Column) -> str | None:
    """Return the parsed value of our column; raise ValueError, with the reason, if invalid."""
    present = [name for name in column.sources if name in values]
    if column.sources and not present:
        if column.is_required:
            raise ValueError(f"no value for {column.label}")
        return None
    try:
        if len(column.sources) > 1:
            return column.parse(_joined({name: values[name] for name in present}))
        return column.parse(values[present[0]] if present else None)
    except ValueError as error:
        raise ValueError(f"{column.label} {error}") from None


def _joined(values: Mapping[str, Any]) -> str:
    """Return the values of several columns as one text: "city: Leeds; colors: red, blue"."""
    written = {name: _written(value) for name, value in values.items()}
    return "; ".join(f"{name}: {text}" for name, text in written.items() if text)


def _written(value: Any) -> str:
    """Format a value as text; use `str` if it is not a string, number, or list of these."""
    try:
        return parse_description(value)
    except ValueError:
        return str(value)


def reject_duplicates(rows: FileRows, keys: list[str]) -> FileRows:
    """Return the rows without repeated `keys`; each later row with the same keys is a finding.

    The text of a finding is its row as JSON, without the line number.
    """
    is_repeated = pa.array(rows.table.select(keys).to_pandas().duplicated().to_numpy(dtype=bool))
    reason = f"duplicate of an earlier {', '.join(keys)}"
    findings = tuple(
        Finding(rows.file, row.pop("line"), reason, json.dumps(row, ensure_ascii=False))
        for row in rows.table.filter(is_repeated).to_pylist()
    )
    return FileRows(rows.file, rows.table.filter(pc.invert(is_repeated)), rows.findings + findings)
