"""Rows of one input file, CSV, JSON Lines or Parquet, with their line numbers; broken lines become findings.

A CSV header is line 1. In JSON Lines the first object is line 1. In Parquet a line is a row's number, from 1.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.data.columns import Parser
from xrec.data.findings import Finding
from xrec.errors import DataError


@dataclass(frozen=True)
class FileRows:
    """The well-formed rows of `file` (its columns as strings, and `file`, `line`), and what was left out of its `num_rows` rows."""

    file: str
    table: pa.Table
    findings: tuple[Finding, ...]
    num_rows: int


@dataclass(frozen=True)
class _Line:
    """A row as read: `values` by column name, or `problem` if it cannot be read."""

    number: int
    text: str
    values: Mapping[str, Any] | None = None
    problem: str = ""


def read_rows(
    file: str,
    data: bytes,
    columns: Mapping[str, Parser],
    optional: Mapping[str, Parser] | None = None,
) -> FileRows:
    """Parse the content `data` of `file`, whose name tells the format.

    `columns` must be there, else DataError names the columns seen and expected; `optional` ones may be missing (null).
    Other columns are ignored. A row that cannot be read, lacks a value's key or fails a column's parser is a finding.
    """
    parsers = {**columns, **(optional or {})}
    lines = _read_lines(file, data, required=list(columns))
    cells: dict[str, list[str | None]] = {name: [] for name in parsers}
    numbers: list[int] = []
    findings: list[Finding] = []
    for line in lines:
        values, problem = _parse_cells(line, parsers, required=columns)
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
    return FileRows(file, table, tuple(findings), num_rows=len(lines))


def reject_duplicates(rows: FileRows, keys: list[str]) -> FileRows:
    """The rows whose `keys` are new; each later one becomes a finding."""
    duplicated = rows.table.select(keys).to_pandas().duplicated().to_numpy()
    found = findings_of(
        rows.table.filter(pa.array(duplicated)), f"duplicate of an earlier {', '.join(keys)}"
    )
    return replace(
        rows, table=rows.table.filter(pa.array(~duplicated)), findings=rows.findings + found
    )


def findings_of(rows: pa.Table, reason: str) -> tuple[Finding, ...]:
    """One finding for each row of a table with the columns `file` and `line`; its text is the row's other values."""
    values = rows.drop_columns(["file", "line"]).to_pylist()
    places = zip(rows["file"].to_pylist(), rows["line"].to_pylist(), values, strict=True)
    return tuple(
        Finding(file, line, reason, json.dumps(row, ensure_ascii=False))
        for file, line, row in places
    )


def _parse_cells(
    line: _Line, parsers: Mapping[str, Parser], required: Mapping[str, Parser]
) -> tuple[dict[str, str | None], str]:
    """The parsed values by column; or nothing, and the reason."""
    if line.values is None:
        return {}, line.problem
    parsed: dict[str, str | None] = {}
    for name, parser in parsers.items():
        if name not in line.values and name in required:
            return {}, f"no value for {name}"
        try:
            parsed[name] = parser(line.values[name]) if name in line.values else None
        except ValueError as error:
            return {}, f"{name} {error}"
    return parsed, ""


def _read_lines(file: str, data: bytes, required: list[str]) -> list[_Line]:
    suffix = file.rpartition(".")[2]
    if suffix == "parquet":
        return _read_parquet(file, data, required)
    # Bytes that are not UTF-8 survive as lone surrogates, which the columns' parsers then refuse row by row.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    return (
        _read_csv(file, text, required)
        if suffix == "csv"
        else _read_json_lines(file, text, required)
    )


def _read_csv(file: str, text: str, required: list[str]) -> list[_Line]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    _check_columns(file, header, required)
    return [_csv_line(header, number, cells) for number, cells in _csv_records(reader) if cells]


def _csv_records(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """Each record with its first line's number; a record that the csv module cannot read is its error text."""
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, str(error)
        else:
            yield number, cells


def _csv_line(header: list[str], number: int, cells: list[str] | str) -> _Line:
    if isinstance(cells, str):
        return _Line(number, "", problem=f"not readable as CSV: {cells}")
    if len(cells) != len(header):
        return _Line(
            number, ",".join(cells), problem=f"expected {len(header)} columns, saw {len(cells)}"
        )
    return _Line(number, ",".join(cells), dict(zip(header, cells, strict=True)))


def _read_json_lines(file: str, text: str, required: list[str]) -> list[_Line]:
    numbered = enumerate(text.split("\n"), start=1)
    lines = [_json_line(number, line.strip()) for number, line in numbered if line.strip()]
    objects = [line.values for line in lines if line.values is not None]
    if objects:
        _check_columns(
            file, list(dict.fromkeys(key for values in objects for key in values)), required
        )
    return lines


def _json_line(number: int, text: str) -> _Line:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return _Line(number, text, problem="not valid JSON")
    if not isinstance(values, dict):
        return _Line(number, text, problem="not a JSON object")
    return _Line(number, text, values)


def _read_parquet(file: str, data: bytes, required: list[str]) -> list[_Line]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error
    _check_columns(file, table.column_names, required)
    return [
        _Line(number, str(list(row.values())), row)
        for number, row in enumerate(table.to_pylist(), start=1)
    ]


def _check_columns(file: str, seen: list[str], required: list[str]) -> None:
    missing = [name for name in required if name not in seen]
    if missing:
        raise DataError(
            f"{file}: missing column(s) {', '.join(missing)}; expected {', '.join(required)}, "
            f"saw {', '.join(map(repr, seen)) or 'none'}; rename or add them"
        )
