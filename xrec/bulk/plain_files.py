"""Rows as files of Parquet, JSON lines or CSV, a bounded number of them in memory at a time."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as pads

from xrec.config.export import ExportConfig
from xrec.errors import ConfigError, DataError
from xrec.progress import progress
from xrec.storage import Location, parquet_bytes, storage_errors

WINDOW_BYTES = 64 * 2**20
"""Rows of about so many bytes in memory become one file, or one in each folder."""
MOST_FOLDERS = 10_000
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark, Polars and DuckDB read as null
_ROWS_AT_ONCE = 4096


def check_columns(schema: pa.Schema, settings: ExportConfig) -> None:
    """Raise ConfigError if the columns of an export are not such of the table."""
    names = [name for name in schema.names if name != "status"]
    for key, wanted in (
        ("partition_by", settings.partition_by),
        ("columns", settings.columns or ()),
    ):
        for name in wanted:
            if name == "status":
                raise ConfigError(
                    f"export.{key}: 'status' is in no file; with with_failed the files are in "
                    "folders of it"
                )
            if name not in names:
                raise ConfigError(
                    f"export.{key}: {name!r} is no column of the table; it has {names}"
                )
        if len(set(wanted)) < len(wanted):
            raise ConfigError(f"export.{key}: expected each column once, saw {list(wanted)}")
    if not file_columns(schema, settings):
        raise ConfigError(
            "export: no column is left for the files: all are in partition_by; leave one out"
        )
    for name in settings.partition_by:
        type_ = schema.field(name).type
        if not (type_ == pa.string() or pa.types.is_integer(type_) or pa.types.is_boolean(type_)):
            raise ConfigError(
                f"export.partition_by: {name!r} is {type_}; expected a string, an integer or a "
                "boolean, which can be a folder's name"
            )
    for name in file_columns(schema, settings):
        if not _can_hold(settings.format, schema.field(name).type):
            raise ConfigError(
                f"export.format: {settings.format} cannot hold column {name!r}, which is "
                f"{schema.field(name).type}; choose parquet, or name other columns"
            )


def file_columns(schema: pa.Schema, settings: ExportConfig) -> list[str]:
    """The columns that an export's files have."""
    names = settings.columns or schema.names
    return [name for name in names if name not in ("status", *settings.partition_by)]


def write_plain_files(
    rows: pads.Dataset,
    target: Location,
    settings: ExportConfig,
    columns: Sequence[str],
    within: str,
    ending: str,
) -> Iterator[tuple[str, int, int]]:
    """Write the rows to the folder `within` of `target`; yields (name, bytes, rows) of each file.

    Those with one value of `partition_by` become one file, in a folder of that value.

    columns: of the written files. ending: the end of their names, before that of the format.
    Raises DataError if a value cannot be a folder's name or cannot be written.
    """
    with storage_errors(target.uri):
        num_rows = rows.count_rows()
        batches = rows.to_batches(columns=[*settings.partition_by, *columns])
        folders: set[str] = set()
        num_windows = -(-num_rows // _ROWS_AT_ONCE)
        shown = progress(_windows(batches), f"export to {target}", num_windows)
        for number, window in enumerate(shown):
            for folder, part in _by_folder(window, settings.partition_by):
                folders.add(folder)
                if len(folders) > MOST_FOLDERS:
                    raise DataError(
                        f"{target}: partition_by {list(settings.partition_by)} would make more "
                        f"than {MOST_FOLDERS} folders; choose columns with fewer values"
                    )
                name = f"{within}{folder}part-{number:05d}-{ending}.{settings.format}"
                data = _encoded(part.select(columns), settings.format, target / name)
                (target / name).write_bytes(data)
                yield name, len(data), part.num_rows


def _windows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows in order, in tables of about `WINDOW_BYTES`."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows:
            held.append(batch)
        if sum(each.nbytes for each in held) >= WINDOW_BYTES:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _by_folder(rows: pa.Table, partition_by: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each folder, in the folders' order; the rows keep theirs."""
    if not partition_by:
        yield "", rows
        return
    parts: list[tuple[str, pa.Table]] = [("", rows)]
    for name in partition_by:
        parts = [
            (
                f"{folder}{name}={_folder_value(name, value)}/",
                part.filter(_equals(part[name], value)),
            )
            for folder, part in parts
            for value in pc.unique(part[name]).to_pylist()
        ]
    yield from sorted(parts, key=lambda part: part[0])


def _equals(column: pa.ChunkedArray, value: object) -> pa.ChunkedArray:
    return pc.is_null(column) if value is None else pc.equal(column, value)


def _folder_value(column: str, value: object) -> str:
    if value == "":
        raise DataError(
            f"partition_by: column {column!r} has an empty text, which cannot be a folder's name; "
            "choose another column"
        )
    if value is None:
        return _NULL_FOLDER
    return quote(str(value).lower() if isinstance(value, bool) else str(value), safe="")


def _can_hold(format: str, type_: pa.DataType) -> bool:
    if format == "parquet":
        return True
    if pa.types.is_list(type_):
        return _can_hold(format, type_.value_type)
    if pa.types.is_struct(type_):
        return all(_can_hold(format, field.type) for field in type_)
    return bool(
        type_ == pa.string()
        or pa.types.is_boolean(type_)
        or pa.types.is_integer(type_)
        or pa.types.is_floating(type_)
    )


def _with_json_cells(rows: pa.Table) -> pa.Table:
    """The rows with JSON in place of lists and structs, which CSV has no form for."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            cells = [
                None if cell is None else json.dumps(cell, ensure_ascii=False)
                for cell in rows[field.name].to_pylist()
            ]
            rows = rows.set_column(place, field.name, pa.array(cells, pa.string()))
    return rows


def _encoded(rows: pa.Table, format: str, file: Location) -> bytes:
    if format == "parquet":
        return parquet_bytes(rows, rows.schema)
    sink = io.BytesIO()
    if format == "csv":
        pyarrow.csv.write_csv(_with_json_cells(rows), sink)
        return sink.getvalue()
    for batch in rows.to_batches(_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            try:
                text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            except ValueError as error:
                raise DataError(
                    f"{file}: JSON has no NaN and no infinity, which row {row} has; choose parquet "
                    "or csv, or leave the column out"
                ) from error
            sink.write(f"{text}\n".encode())
    return sink.getvalue()
