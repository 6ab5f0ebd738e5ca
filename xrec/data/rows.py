"""Reads the rows of one input file, under our column names.

Rows that cannot be used become findings. The parser of a column returns a cell's value as xrec
stores it, or raises ValueError with the reason.
"""

import html
import itertools
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

from xrec.data.block import MISSING, Block
from xrec.data.files import BLOCK_BYTES, read_blocks
from xrec.data.findings import Finding
from xrec.errors import DataError

SPLITS = ("train", "validation", "test")

_SENTIMENTS = {"1": "positive", "0": "neutral", "-1": "negative"}

Parser = Callable[[object], str | None]

_TAG = re.compile(
    r" ?(?:</?(?:br|p|div|b|i|u|em|strong|a|span|font|li|ul|ol|h[1-6]|hr|img)\b[^<>]{0,500}>\s*)+",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:amp;)*(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]\w{1,31});", re.I)

# Text that `parse_text` returns as it is: no tag, no entity, nothing to strip.
_PLAIN = r"^(?:[!-%'-;=-~](?:[^&<]*[!-%'-;=-~])?)?$"


def parse_id(value: object) -> str:
    """Return an ID (any non-empty string or integer) as a string."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a string or an integer")
    if value == "":
        raise ValueError("must not be empty")
    return _valid_unicode(str(value))


def parse_text(value: object) -> str:
    """Return text, stripped and without HTML; a missing value becomes the empty string.

    Tags become spaces, and entities are unescaped, up to twice.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    text = _valid_unicode(value)
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(html.unescape(found[0])), text)
    return (_TAG.sub(" ", text) if "<" in text else text).strip()


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


def parse_aspect(value: object) -> str:
    """Return the name of an aspect on one line, which must not be empty."""
    if not (text := " ".join(parse_text(value).split())):
        raise ValueError("must not be empty")
    return text


def parse_sentiment(value: object) -> str:
    """Return a sentiment, given as a word in any case or as 1, 0, or -1; by default positive."""
    word = "positive" if value is None or value == "" else str(value).strip().lower()
    if (sentiment := _SENTIMENTS.get(word, word)) not in _SENTIMENTS.values():
        raise ValueError("must be positive, neutral, or negative (or 1, 0, or -1)")
    return sentiment


def _valid_unicode(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    return text


@dataclass(frozen=True)
class FileRows:
    """The rows of `file` that can be used, and those that were left out.

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

    def parsed(self, cell: object) -> str | None:
        """Return the parsed cell; raise ValueError, with the reason, if it is invalid."""
        if cell is MISSING:
            if self.is_required:
                raise ValueError(f"no value for {self.label}")
            return None
        try:
            return self.parse(cell)
        except ValueError as error:
            raise ValueError(f"{self.label} {error}") from None


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
    """Parse a file block by block; its extension determines the format (see xrec.data.files).

    The file does not have to fit in memory. The first part has no rows.

    `names` maps each of our columns that the file names differently to the file's columns: none
    (our column is empty), one, or several (their values are joined into one text). The `columns`
    are required, and so are optional ones that are in `names`; other `optional` columns may be
    missing (null). All other columns are ignored. `may_be_missing` are our columns that a row may
    lack even if they are in `names`.

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
    seen, blocks = read_blocks(file, source, sources, delimiter, encoding, block_bytes=block_bytes)
    if seen is not None:
        _check_columns(file, seen, wanted, advice)
    for block in itertools.chain([Block(file, [], {}, str)], blocks):
        yield _parse(block, wanted)


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


def _parse(block: Block, wanted: Sequence[_Column]) -> FileRows:
    """Return the rows of a block; one with several bad cells has the reason of the first."""
    cells, reasons = dict[str, pa.Array](), dict[int, str]()
    for column in wanted:
        cells[column.name], bad = _parse_column(block, column)
        reasons = bad | reasons
    table = pa.table({**cells, "line": pa.array(block.numbers, pa.int64())})
    if reasons:
        is_good = np.ones(table.num_rows, bool)
        is_good[list(reasons)] = False
        table = table.filter(pa.array(is_good))
    problems = {**block.problems, **{block.numbers[row]: why for row, why in reasons.items()}}
    findings = (
        Finding(block.file, line, why, block.text(line)) for line, why in sorted(problems.items())
    )
    return FileRows(block.file, table, tuple(findings))


def _parse_column(block: Block, column: _Column) -> tuple[pa.Array, dict[int, str]]:
    """Return the parsed cells, and the reasons why others are bad; parse equal cells once."""
    present = [name for name in column.sources if name in block.columns]
    places = np.arange(len(block.numbers), dtype=np.int64)
    if not column.sources:
        cells, places = [None], np.zeros_like(places)
    elif not present:
        return pa.nulls(len(places), pa.large_string()), {}
    elif len(column.sources) > 1:
        parts = (block.cells(name) for name in present)
        cells = [_joined(dict(zip(present, row, strict=True))) for row in zip(*parts, strict=True)]
    elif (whole := _parsed_at_once(block, present[0], column.parse)) is not None:
        return whole, {}
    else:
        cells, places = block.distinct(present[0])
    parsed, reasons = list[str | None](), dict[int, str]()
    for place, cell in enumerate(cells):
        try:
            parsed.append(column.parsed(cell))
        except ValueError as error:
            parsed.append(None)
            reasons[place] = str(error)
    bad = np.flatnonzero(np.isin(places, list(reasons)))
    taken = pa.array(parsed, pa.large_string()).take(pa.array(places))
    return taken, {int(row): reasons[int(places[row])] for row in bad}


def _parsed_at_once(block: Block, name: str, parse: Parser) -> pa.Array | None:
    """Return a column of only IDs or only texts as its parser returns it; None for any other.

    `parse_text` sees only the texts that it may change.
    """
    cells = block.array(name) if parse in (parse_id, parse_text) else None
    if cells is None:
        return None
    is_text = pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)
    if parse is parse_id:
        is_id = pa.types.is_integer(cells.type) or (
            is_text and pc.all(pc.greater(pc.binary_length(cells), 0)).as_py()
        )
        return cells.cast(pa.large_string()) if is_id and not cells.null_count else None
    if not is_text:
        return None
    texts = cells.cast(pa.large_string()).fill_null("")
    may_change = pc.invert(pc.match_substring_regex(texts, _PLAIN))
    parsed = [parse_text(text) for text in texts.filter(may_change).to_pylist()]
    return pc.replace_with_mask(texts, may_change, pa.array(parsed, texts.type))


def _joined(values: Mapping[str, Any]) -> Any:
    """Return the values of several columns as one text: "city: Leeds; colors: red, blue"."""
    written = {name: _written(value) for name, value in values.items() if value is not MISSING}
    return "; ".join(f"{k}: {text}" for k, text in written.items() if text) if written else MISSING


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
