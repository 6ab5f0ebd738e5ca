"""Read a published version: as a dataset, by key, or as plain files for other programs.

An export folder contains the data files and `_SUCCESS`, which is written last and lists them with
their sizes. File names are unique to each export, so an export that was suspended does not
overwrite another's files, and detects that another one has written to the folder.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter

from xrec.bulk.log import DeltaLog, missing_files, the_log
from xrec.bulk.rows import OK, bucket_of
from xrec.bulk.table import FEW_AT_ONCE, file_errors, files_of
from xrec.config import StorageConfig
from xrec.errors import ArtifactMismatchError, ConfigError, TableError
from xrec.storage import (
    LocalLocation,
    Location,
    Manifest,
    open_location,
    row_groups,
    storage_errors,
)

SUCCESS = "_SUCCESS"
ROWS_PER_FILE = 2**20
_ROWS_PER_GROUP = 2**16
_WRITERS: Mapping[str, type[Any]] = {"parquet": pq.ParquetWriter, "csv": CSVWriter}


@dataclass(frozen=True)
class Published:
    """A published version of a table; later versions do not change it."""

    log: DeltaLog
    manifest: Manifest

    @property
    def version(self) -> int:
        return self.log.version

    @property
    def num_buckets(self) -> int:
        """The number C of equal hash ranges; `bucket` is the one that a row's first key is in."""
        return int(self.manifest.metrics["num_buckets"])

    def dataset(self, schema: pa.Schema | None = None, status: str | None = OK) -> pads.Dataset:
        """Return the rows with this status and the columns of `schema`; None selects all.

        The columns `status` and `bucket` are always included. A nullable column that is missing
        from the table is filled with nulls.
        """
        whole = self.log.schema(self.version)
        if schema is not None:
            needed = {field.name for field in schema if not field.nullable}
            if missing := sorted(needed - set(whole.names)):
                raise ArtifactMismatchError(
                    f"{self.log.location}: the table has no columns {', '.join(missing)}; check "
                    "the URI",
                    code="missing_column",
                    key=missing[0],
                    saw=whole.names,
                )
            own = [whole.field(name) for name in ("status", "bucket") if name not in schema.names]
            whole = pa.schema([*own, *schema])
        rows = files_of(self.log.location, self.log.files(self.version), whole)
        return rows if status is None else rows.filter(pc.field("status") == status)

    def batches(self, columns: Sequence[str], status: str = OK) -> Iterator[pa.Table]:
        """Yield the rows with this status in batches, after an empty table with their schema."""
        dataset = self.dataset(status=status)
        schema = pa.schema([dataset.schema.field(name) for name in columns]).remove_metadata()
        yield schema.empty_table()
        with file_errors(self.log.location):
            for batch in dataset.to_batches(columns=list(columns), **FEW_AT_ONCE):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch]).cast(schema)

    def find(self, dataset: pads.Dataset, first: str, keys: Sequence[str]) -> pa.Table:
        """Return the rows of `dataset` whose first key (the column `first`) is one of `keys`.

        A key's bucket narrows the search to one or two files and a few of their row groups. Raise
        DataError if a file is damaged, StorageError if the store fails.
        """
        buckets = {bucket_of(key, self.num_buckets) for key in keys}
        bucket, column = pc.field("bucket"), pc.field(first)
        near = bucket.isin(sorted(buckets)) if len(buckets) > 1 else bucket == min(buckets)
        wanted = column.isin(list(keys)) if len(keys) > 1 else column == keys[0]
        with file_errors(self.log.location):
            return dataset.to_table(filter=near & wanted)


def published(
    uri: str, *, version: int | None = None, storage: StorageConfig | None = None
) -> Published:
    """Open the newest version of the table at `uri`, or the given `version`.

    Raise ArtifactNotFoundError if nothing is published, TableError if the version does not exist,
    is not sound, or lost files to a vacuum.
    """
    log = the_log(open_location(uri, storage), version)
    table = Published(log, log.manifest())
    if version is not None and (gone := missing_files(log.location, log.files(version))):
        raise TableError(
            f"{uri}: version {version} cannot be read because its file {gone[0]} is missing, "
            "probably deleted by a vacuum; choose another version",
            code="version_lacks_files",
            key=gone[0],
            saw=version,
        )
    return table


@dataclass(frozen=True)
class Exported:
    """A complete export."""

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
    """Export the successful rows of a version to the empty folder `to`.

    columns: the columns to write, by default all. version: by default the newest. Raise the errors
    of `published`; ConfigError if the folder overlaps the table's or the columns are invalid;
    ArtifactMismatchError if the folder is not empty or changes during the export; DataError if a
    file of the table cannot be read; StorageError.
    """
    table, target = published(uri, version=version, storage=storage), open_location(to, storage)
    _refuse_overlap(table.log.location, target)
    names = _columns(table, columns)
    if existing := target.files():
        raise ArtifactMismatchError(
            f"{target}: the folder is not empty: it contains {existing[0]}; choose an empty "
            "folder, or delete the files that an interrupted export left there",
            code="not_empty",
            key=existing[0],
        )
    files, num_rows = _write(table, target, format, names)
    _check(target, files)
    success = {"version": table.version, "num_rows": num_rows, "files": files}
    (target / SUCCESS).write_bytes(f"{json.dumps(success, indent=2)}\n".encode())
    _check(target, files)
    return Exported(target, table.version, num_rows, len(files))


def _refuse_overlap(table: Location, target: Location) -> None:
    inner, outer = (f"{folder.uri.rstrip('/')}/" for folder in (table, target))
    if inner.startswith(outer) or outer.startswith(inner):
        raise ConfigError(
            f"export to {target}: the folder must neither be inside the table's folder {table} "
            "nor contain it; choose a separate folder",
            code="around_table",
            key="to",
            saw=str(target),
        )


def _columns(table: Published, given: Sequence[str] | None) -> list[str]:
    """Return the columns to export; raise ConfigError if one is unknown or repeated."""
    names = [name for name in table.dataset().schema.names if name != "status"]  # always `ok`
    columns = list(names if given is None else given)
    if unknown := sorted(set(columns) - set(names)):
        raise ConfigError(
            f"export: unknown columns {unknown}; expected some of {names}",
            code="unknown_column",
            key="columns",
            saw=unknown,
        )
    if not columns or len(set(columns)) < len(columns):
        raise ConfigError(
            f"export: expected at least one column and no duplicates, saw {columns}",
            code="no_or_same_columns",
            key="columns",
            saw=columns,
        )
    return columns


def _write(
    table: Published, target: Location, format: str, columns: list[str]
) -> tuple[dict[str, int], int]:
    """Write the rows; return the files with their sizes, and the number of rows.

    Only one row group is in memory at a time: Arrow's `write_dataset` buffered 8 million rows when
    the disk was slower than the table.
    """
    batches = table.batches(columns)
    tables = map(_with_json_cells, batches) if format == "csv" else batches
    schema = next(tables).schema  # the first table is empty
    filesystem = target.arrow_filesystem()
    if isinstance(target, LocalLocation):
        filesystem.create_dir(target.path, recursive=True)
    num_rows, group = 0, min(ROWS_PER_FILE, _ROWS_PER_GROUP)
    files: dict[str, int] = {}
    groups = enumerate(row_groups(tables, group))
    with storage_errors(target.uri):
        for number, some in groupby(groups, lambda pair: pair[0] // (ROWS_PER_FILE // group)):
            name = f"part-{number}-{uuid.uuid4().hex}.{format}"
            with filesystem.open_output_stream((target / name).path) as stream:
                with _WRITERS[format](stream, schema) as writer:
                    for _, rows in some:
                        num_rows += rows.num_rows
                        writer.write_table(rows)
                files[name] = stream.tell()
    return files, num_rows


def _with_json_cells(rows: pa.Table) -> pa.Table:
    """Replace lists and structs, which CSV cannot represent, with JSON text."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            cells = [
                None if cell is None else json.dumps(cell, ensure_ascii=False)
                for cell in rows[field.name].to_pylist()
            ]
            rows = rows.set_column(index, field.name, pa.array(cells, pa.string()))
    return rows


def _check(target: Location, files: Mapping[str, int]) -> None:
    """Delete `_SUCCESS` and raise ArtifactMismatchError unless the folder has just these files.

    Sizes must match too. Hidden files, such as unfinished ones, are ignored.
    """
    root = f"{target.path.rstrip('/')}/"
    sizes = {path.removeprefix(root): int(i["size"]) for path, i in target.details().items()}
    others = {name for name in sizes if name.rpartition("/")[2].startswith((".", SUCCESS))}
    if {name: sizes[name] for name in sizes.keys() - others} != files:
        (target / SUCCESS).delete()
        raise ArtifactMismatchError(
            f"{target}: the folder changed during the export; export again to an empty folder that "
            "nothing else writes to",
            code="changed_meanwhile",
            key=str(target),
        )
