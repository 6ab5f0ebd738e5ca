"""The well-formed rows of one input file, under our column names; broken rows become findings."""

import io
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import pyarrow as pa

from xrec.data.columns import Parser, parse_description
from xrec.data.findings import Finding
from xrec.data.lines import Line, keys_of, stream_lines
from xrec.errors import DataError


@dataclass(frozen=True)
class FileRows:
    """What could be read of `file`, and what was left out of its `num_rows` rows.

    table: the columns as strings, and `file` and `line`.
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


def read_rows(
    file: str,
    data: bytes,
    columns: Mapping[str, Parser],
    optional: Mapping[str, Parser] | None = None,
    *,
    names: Mapping[str, tuple[str, ...]] | None = None,
    delimiter: str = ",",
    advice: str = "rename or add them",
) -> FileRows:
    """Parse the content `data` of `file`, whose ending tells the format (see xrec.data.lines).

    `names` gives, for each of our columns that has another name there, the file's columns: none
    (the column is empty), one, or several (their values are joined to one text). The `columns` must
    be there, and so must an optional one that `names` names; other `optional` ones may be missing
    (null). Columns that are not asked for are ignored.

    A row that cannot be read, lacks a value's key or fails a column's parser is a finding. Raises
    DataError for a missing column, with the columns seen, those expected, and `advice`.
    """
    parts = stream_rows(
        file,
        io.BytesIO(data),
        columns,
        optional,
        names=names,
        delimiter=delimiter,
        advice=advice,
        rows_at_once=None,
    )
    return next(parts)


def stream_rows(
    file: str,
    source: IO[bytes],
    columns: Mapping[str, Parser],
    optional: Mapping[str, Parser] | None = None,
    *,
    names: Mapping[str, tuple[str, ...]] | None = None,
    delimiter: str = ",",
    advice: str = "rename or add them",
    may_be_missing: Collection[str] = (),
    rows_at_once: int | None = 20_000,
) -> Iterator[FileRows]:
    """As `read_rows`, many rows at a time, so that the file need not fit in memory.

    Of JSON Lines the first rows say which columns the file has. `may_be_missing` are columns of
    ours that a row may lack, although `names` names what they are made from.
    """
    wanted = [
        replace(column, is_required=column.is_required and column.name not in may_be_missing)
        for column in _wanted(columns, optional or {}, names or {})
    ]
    seen, lines = stream_lines(file, source, delimiter)
    rows = list(itertools.islice(lines, rows_at_once))
    if seen is None:
        seen = keys_of(rows) or None
    if seen is not None:
        _check_columns(file, seen, wanted, advice)
    yield _parse(file, rows, wanted)
    while rows := list(itertools.islice(lines, rows_at_once)):
        yield _parse(file, rows, wanted)


def _wanted(
    columns: Mapping[str, Parser],
    optional: Mapping[str, Parser],
    names: Mapping[str, tuple[str, ...]],
) -> list[_Column]:
    return [
        _Column(name, parse, names.get(name, (name,)), name in columns or name in names)
        for name, parse in {**columns, **optional}.items()
    ]


def _parse(file: str, rows: Sequence[Line], wanted: Sequence[_Column]) -> FileRows:
    cells: dict[str, list[str | None]] = {column.name: [] for column in wanted}
    numbers: list[int] = []
    findings: list[Finding] = []
    for line in rows:
        values, problem = _parse_cells(line, wanted)
        if problem:
            findings.append(Finding(file, line.number, problem, line.text))
            continue
        numbers.append(line.number)
        for name, value in values.items():
            cells[name].append(value)
    table = pa.table(
        {
            **{name: pa.array(column, pa.string()) for name, column in cells.items()},
            "file": pa.array([file] * len(numbers), pa.string()),
            "line": pa.array(numbers, pa.int64()),
        }
    )
    return FileRows(file, table, tuple(findings), num_rows=len(rows))


def reject_duplicates(rows: FileRows, keys: list[str]) -> FileRows:
    """The rows whose `keys` are new; each later row with the same keys becomes a finding."""
    duplicated = rows.table.select(keys).to_pandas().duplicated().to_numpy(dtype=bool)
    found = findings_of(
        rows.table.filter(pa.array(duplicated)), f"duplicate of an earlier {', '.join(keys)}"
    )
    return replace(
        rows, table=rows.table.filter(pa.array(~duplicated)), findings=rows.findings + found
    )


def findings_of(rows: pa.Table, reason: str) -> tuple[Finding, ...]:
    """One finding for each row of a table with the columns `file` and `line`.

    The text of a finding is the other values of its row.
    """
    values = rows.drop_columns(["file", "line"]).to_pylist()
    places = zip(rows["file"].to_pylist(), rows["line"].to_pylist(), values, strict=True)
    return tuple(
        Finding(file, line, reason, json.dumps(row, ensure_ascii=False))
        for file, line, row in places
    )


def _check_columns(file: str, seen: list[str], wanted: Sequence[_Column], advice: str) -> None:
    required = [column for column in wanted if column.is_required]
    missing = [name for column in required for name in column.sources if name not in seen]
    if missing:
        raise DataError(
            f"{file}: missing column(s) {', '.join(missing)}; "
            f"expected {', '.join(column.label for column in required)}, "
            f"saw {', '.join(map(repr, seen)) or 'none'}; {advice}"
        )


def _parse_cells(line: Line, wanted: Sequence[_Column]) -> tuple[dict[str, str | None], str]:
    """The parsed values by our column names; or nothing, and the reason."""
    if line.values is None:
        return {}, line.problem
    parsed: dict[str, str | None] = {}
    for column in wanted:
        there = [name for name in column.sources if name in line.values]
        if not there and column.sources:
            if column.is_required:
                return {}, f"no value for {column.label}"
            parsed[column.name] = None
            continue
        try:
            parsed[column.name] = column.parse(_cell(line.values, there, column.sources))
        except ValueError as error:
            return {}, f"{column.label} {error}"
    return parsed, ""


def _cell(values: Mapping[str, Any], there: list[str], sources: tuple[str, ...]) -> Any:
    """The value of the only source, or None without a source.

    The values of several sources are joined, as in "city: Leeds; colors: red, blue".
    """
    if not sources:
        return None
    if len(sources) == 1:
        return values[there[0]]
    written = {name: _written(values[name]) for name in there}
    return "; ".join(f"{name}: {text}" for name, text in written.items() if text)


def _written(value: Any) -> str:
    """A value as it stands among others; what is no text, number or list of these, as it is."""
    try:
        return parse_description(value)
    except ValueError:
        return str(value)
