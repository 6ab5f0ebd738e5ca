"""A published version's rows as plain files, for programs that do not read Delta tables.

The folder of an export holds the files and `_SUCCESS`, which is written last and lists them with
their sizes. Each export gives its files names of their own. So one that slept meanwhile overwrites
none of another's, and finds out that it is not alone.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter

from xrec.bulk.table import Published, published
from xrec.config import StorageConfig
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.storage import LocalLocation, Location, open_location, row_groups, storage_errors

SUCCESS = "_SUCCESS"
ROWS_PER_FILE = 2**20
_ROWS_PER_GROUP = 2**16
_WRITERS: Mapping[str, type[Any]] = {"parquet": pq.ParquetWriter, "csv": CSVWriter}


@dataclass(frozen=True)
class Exported:
    """An export that is whole."""

    location: Location
    version: int
    num_rows: int
    num_files: int


def export_run(
    uri: str,
    to: str,
    *,
    format: Literal["parquet", "csv"] = "parquet",
    columns: Sequence[str] | None = None,
    version: int | None = None,
    storage: StorageConfig | None = None,
) -> Exported:
    """Write the explanations, or other rows that succeeded, of a version into the folder `to`.

    columns: of the files; all if None. version: the newest if None. Raises what `published` raises;
    ConfigError if the folder or the columns do not fit the table; ArtifactMismatchError if the
    folder is not empty, or was changed meanwhile; DataError if a file of the table cannot be read;
    StorageError.
    """
    storage = storage or StorageConfig()
    table, target = published(uri, version=version, storage=storage), open_location(to, storage)
    _refuse_overlap(table.log.location, target)
    names = _columns(table, columns)
    if there := target.files():
        raise ArtifactMismatchError(
            f"{target}: holds files, such as {there[0]}; give an empty folder, or delete what an "
            "interrupted export has left there",
            code="not_empty",
            key=there[0],
        )
    files, num_rows = _write(table, target, format, names)
    _check(target, files)
    success = {"version": table.version, "num_rows": num_rows, "files": files}
    (target / SUCCESS).write_bytes(f"{json.dumps(success, indent=2)}\n".encode())
    _check(target, files)
    return Exported(target, table.version, num_rows, len(files))


def _refuse_overlap(table: Location, target: Location) -> None:
    there, here = (f"{each.shared_uri.rstrip('/')}/" for each in (table, target))
    if there.startswith(here) or here.startswith(there):
        raise ConfigError(
            f"export to {target}: expected a folder outside the table's, {table}, and not around "
            "it; give the export a folder of its own",
            code="around_table",
            key="to",
            saw=str(target),
        )


def _columns(table: Published, given: Sequence[str] | None) -> list[str]:
    """The columns of the files; raises ConfigError if the table has no such ones."""
    names = [name for name in table.dataset().schema.names if name != "status"]  # ok in all rows
    columns = list(names if given is None else given)
    if unknown := set(columns) - set(names):
        raise ConfigError(
            f"export: {sorted(unknown)} are no columns; these are: {names}",
            code="unknown_column",
            key="columns",
            saw=sorted(unknown),
        )
    if not columns or len(set(columns)) < len(columns):
        raise ConfigError(
            f"export: expected at least one column, and each once, saw {columns}",
            code="no_or_same_columns",
            key="columns",
            saw=columns,
        )
    return columns


def _write(
    table: Published, target: Location, format: str, columns: list[str]
) -> tuple[dict[str, int], int]:
    """Write the rows; returns the files with their sizes, and the number of rows.

    One row group is held at a time. Arrow's `write_dataset` would hold 8 million rows where the
    disk is slower than the table.
    """
    read = table.batches(columns)
    tables = map(_with_json_cells, read) if format == "csv" else read
    schema = next(tables).schema  # the first table is empty
    filesystem = target.arrow_filesystem()
    if isinstance(target, LocalLocation):
        filesystem.create_dir(target.path, recursive=True)
    num_rows, group = 0, min(ROWS_PER_FILE, _ROWS_PER_GROUP)
    files: dict[str, int] = {}
    groups = enumerate(row_groups(tables, group))
    with storage_errors(target.uri):
        for number, some in groupby(groups, lambda each: each[0] // (ROWS_PER_FILE // group)):
            name = f"part-{number}-{uuid.uuid4().hex}.{format}"
            with filesystem.open_output_stream((target / name).path) as stream:
                with _WRITERS[format](stream, schema) as writer:
                    for _, rows in some:
                        num_rows += rows.num_rows
                        writer.write_table(rows)
                files[name] = stream.tell()
    return files, num_rows


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


def _check(target: Location, files: Mapping[str, int]) -> None:
    """Raise ArtifactMismatchError unless the folder holds these files alone; it is not whole then.

    Files that are hidden, such as those of who writes meanwhile, do not count.
    """
    root = f"{target.path.rstrip('/')}/"
    sizes = {path.removeprefix(root): int(i["size"]) for path, i in target.details().items()}
    others = {name for name in sizes if name.rpartition("/")[2].startswith((".", SUCCESS))}
    if {name: sizes[name] for name in sizes.keys() - others} != files:
        (target / SUCCESS).delete()
        raise ArtifactMismatchError(
            f"{target}: was changed meanwhile; make the export again into an empty folder, and let "
            "nothing else write there",
            code="changed_meanwhile",
            key=str(target),
        )
