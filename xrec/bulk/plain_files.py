"""Rows as files of Parquet, JSON lines or CSV, a bounded number of them in memory at a time."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from xrec.config.export import ExportConfig
from xrec.errors import ConfigError, DataError
from xrec.progress import progress
from xrec.storage import Location, parquet_bytes, storage_errors
from xrec.table import TableFormat

WINDOW_BYTES = 16 * 2**20
"""About so many bytes of the table's files become one file, or one in each folder."""
MOST_FOLDERS = 10_000
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark, Polars and DuckDB read as null
_ROWS_AT_ONCE = 4096


def check_columns(format: TableFormat, settings: ExportConfig) -> None:
    """Raise ConfigError if the columns of an export are not such of the table's files."""
    schema = format.file_schema
    for key, names in (
        ("partition_by", settings.partition_by),
        ("columns", settings.columns or ()),
    ):
        for name in names:
            if name in format.partition_by:
                raise ConfigError(
                    f"export.{key}: {name!r} is in no file; with with_failed the files are in "
                    f"folders of it"
                )
            if name not in schema.names:
                raise ConfigError(
                    f"export.{key}: {name!r} is no column of the table; it has {schema.names}"
                )
        if len(set(names)) < len(names):
            raise ConfigError(f"export.{key}: expected each column once, saw {list(names)}")
    if not file_columns(format, settings):
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
    for name in file_columns(format, settings):
        if not _can_hold(settings.format, schema.field(name).type):
            raise ConfigError(
                f"export.format: {settings.format} cannot hold column {name!r}, which is "
                f"{schema.field(name).type}; choose parquet, or name other columns"
            )


def file_columns(format: TableFormat, settings: ExportConfig) -> list[str]:
    """The columns that an export's files have."""
    names = settings.columns or format.file_schema.names
    return [name for name in names if name not in settings.partition_by]


def write_plain_files(
    files: Sequence[Location],
    target: Location,
    settings: ExportConfig,
    columns: Sequence[str],
    rows_per_window: int,
    ending: str,
) -> Iterator[tuple[str, int, int]]:
    """Write the rows of the Parquet `files` to `target`; yields (name, bytes, rows) of each file.

    The rows are taken in order, `rows_per_window` at a time. Those with one value of `partition_by`
    become one file, in a folder of that value.

    columns: of the written files. ending: the end of their names, before that of the format.
    Raises DataError if a value cannot be a folder's name or cannot be written.
    """
    names = [*settings.partition_by, *columns]
    batches = (
        batch
        for file in progress(files, f"export to {target}", len(files))
        for batch in _batches(file, names)
    )
    folders: set[str] = set()
    for number, rows in enumerate(_windows(batches, rows_per_window)):
        for folder, part in _by_folder(rows, settings.partition_by):
            folders.add(folder)
            if len(folders) > MOST_FOLDERS:
                raise DataError(
                    f"{target}: partition_by {list(settings.partition_by)} would make more than "
                    f"{MOST_FOLDERS} folders; choose columns with fewer values"
                )
            name = f"{folder}part-{number:05d}-{ending}.{settings.format}"
            data = _encoded(part.select(columns), settings.format, target / name)
            (target / name).write_bytes(data)
            yield name, len(data), part.num_rows


def _batches(file: Location, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with storage_errors(file.uri):
        try:
            with (
                file.arrow_filesystem().open_input_file(file.path) as source,
                pq.ParquetFile(source) as parquet,
            ):
                yield from parquet.iter_batches(_ROWS_AT_ONCE, columns=list(columns))
        except pa.ArrowInvalid as error:
            raise DataError(f"{file}: a file of the table was changed: {error}") from error


def _windows(batches: Iterable[pa.RecordBatch], num_rows: int) -> Iterator[pa.Table]:
    """The rows in order, `num_rows` at a time; the last ones may be fewer."""
    held: list[pa.RecordBatch] = []
    num_held = 0
    for batch in batches:
        while num_held + batch.num_rows >= num_rows:
            rest = num_rows - num_held
            yield pa.Table.from_batches([*held, batch.slice(0, rest)])
            held, num_held, batch = [], 0, batch.slice(rest)
        if batch.num_rows:
            held.append(batch)
            num_held += batch.num_rows
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
