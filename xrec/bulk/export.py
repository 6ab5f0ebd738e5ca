"""A published version's rows as plain files, for programs that do not read Delta tables.

The folder of an export holds the files, `_export.json`, which says what it is an export of and is
created first, and `_SUCCESS`, which is written last and lists the files with their sizes. Which
rows a file holds depends on its name, and the names on the version and the settings alone: whoever
makes an export again that was interrupted, or at the same time, writes the same rows into the same
files. Any other export of the folder is refused.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.dataset as pads

from xrec.bulk.table import Published, published
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ConfigError, StorageNotFoundError
from xrec.storage import Location, fingerprint_of, mismatch, open_location, storage_errors
from xrec.storage.delta import file_errors
from xrec.storage.local import LocalLocation

logger = logging.getLogger("xrec")

RECORD, SUCCESS = "_export.json", "_SUCCESS"
ROWS_PER_FILE = 2**20


@dataclass(frozen=True)
class Exported:
    """An export that is whole; `is_new` is false if it was so before."""

    location: Location
    version: int
    num_rows: int
    num_files: int
    is_new: bool


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

    Calling this again goes on with an export that was interrupted, and does nothing if it is whole.

    columns: of the files; all if None. version: the newest if None. Raises what `published` raises;
    ConfigError if the folder or the columns do not fit the table; ArtifactMismatchError if the
    folder is not empty, or files were changed; DataError if a file of the table cannot be read;
    StorageError.
    """
    storage = storage or StorageConfig()
    table, target = published(uri, version=version, storage=storage), open_location(to, storage)
    _refuse_overlap(table.log.location, target)
    names = _columns(table, columns)
    record = {
        "source": table.log.location.shared_uri,
        "table": table.log.id,
        "version": table.version,
        "format": format,
        "columns": columns and list(columns),
    }
    _begin(target, record)
    success = _read(target / SUCCESS)
    is_new = success is None or bool(_wrong(target, success["files"]))
    if success is None or is_new:
        files, num_rows = _write(table, target, format, names, fingerprint_of(record))
        _check(target, record, files)
        success = {"version": table.version, "num_rows": num_rows, "files": files}
        (target / SUCCESS).write_bytes(_as_json(success))
        _check(target, record, files)
        logger.info("%s: written", target)
    return Exported(target, table.version, success["num_rows"], len(success["files"]), is_new)


def _refuse_overlap(table: Location, target: Location) -> None:
    there, here = (f"{each.shared_uri.rstrip('/')}/" for each in (table, target))
    if there.startswith(here) or here.startswith(there):
        raise ConfigError(
            f"export to {target}: expected a folder outside the table's, {table}, and not around "
            "it; give the export a folder of its own"
        )


def _columns(table: Published, given: Sequence[str] | None) -> list[str]:
    """The columns of the files; raises ConfigError if the table has no such ones."""
    names = [name for name in table.dataset().schema.names if name != "status"]  # ok in all rows
    columns = list(names if given is None else given)
    if unknown := set(columns) - set(names):
        raise ConfigError(f"export: {sorted(unknown)} are no columns; these are: {names}")
    if not columns or len(set(columns)) < len(columns):
        raise ConfigError(f"export: expected at least one column, and each once, saw {columns}")
    return columns


def _begin(target: Location, record: Mapping[str, Any]) -> None:
    """Take an empty folder for this export; raises ArtifactMismatchError if it is another's."""
    names = target.files()
    if RECORD not in names and names:
        raise ArtifactMismatchError(
            f"{target}: holds files that are of no export, such as {names[0]}; nothing was "
            "changed; give an empty folder"
        )
    (target / RECORD).create_bytes(_as_json(record))
    if (there := _read(target / RECORD)) != record:
        what = f"{target}: holds another export:"
        raise mismatch(what, there or {}, record, "give an empty folder")


def _write(
    table: Published, target: Location, format: str, columns: list[str], fingerprint: str
) -> tuple[dict[str, int], int]:
    """Write the rows by pyarrow; returns the files with their sizes, and the number of rows."""
    dataset = table.dataset()
    schema = pa.schema([dataset.schema.field(name) for name in columns]).remove_metadata()
    is_csv = format == "csv"
    files: dict[str, int] = {}
    num_rows = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal num_rows
        with file_errors(table.log.location):
            for batch in dataset.to_batches(columns=columns):
                num_rows += batch.num_rows
                yield _with_json_cells(batch) if is_csv else batch

    if is_csv:
        schema = _with_json_cells(schema.empty_table()).schema
    root = f"{target.path.rstrip('/')}/"
    with storage_errors(target.uri):
        pads.write_dataset(
            batches(),
            target.path,
            schema=schema,
            format=format,
            filesystem=target.arrow_filesystem(),
            basename_template=f"part-{{i}}-{fingerprint}.{format}",
            existing_data_behavior="overwrite_or_ignore",
            use_threads=False,  # else the files would not hold the same rows each time
            max_rows_per_file=ROWS_PER_FILE,
            max_rows_per_group=min(ROWS_PER_FILE, 2**16),
            create_dir=isinstance(target, LocalLocation),
            file_visitor=lambda file: files.update({file.path.removeprefix(root): file.size}),
        )
    return files, num_rows


def _with_json_cells(rows: Any) -> Any:
    """The rows with JSON in place of lists and structs, which CSV has no form for."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            cells = [
                None if cell is None else json.dumps(cell, ensure_ascii=False)
                for cell in rows[field.name].to_pylist()
            ]
            rows = rows.set_column(place, field.name, pa.array(cells, pa.string()))
    return rows


def _check(target: Location, record: Mapping[str, Any], files: Mapping[str, int]) -> None:
    """Raise ArtifactMismatchError unless the folder holds these files and is this export's."""
    wrong = _wrong(target, files)
    if _read(target / RECORD) == record and not wrong:
        return
    (target / SUCCESS).delete()
    raise ArtifactMismatchError(
        f"{target}: was changed meanwhile" + (f", such as {wrong[0]}" if wrong else "") + "; make "
        "the export again into an empty folder, and let nothing else write there"
    )


def _wrong(target: Location, files: Mapping[str, int]) -> list[str]:
    """Files that are missing, changed, or not of the export."""
    root = f"{target.path.rstrip('/')}/"
    found = target.details().items()
    there = {path.removeprefix(root): int(info["size"]) for path, info in found}
    own = {name: size for name, size in there.items() if name not in (RECORD, SUCCESS)}
    hidden = {name for name in own if name.rpartition("/")[2].startswith(".")}
    return sorted({name for name, _ in files.items() ^ own.items() if name not in hidden})


def _read(file: Location) -> dict[str, Any] | None:
    """What a record says; None if there is none that can be read."""
    try:
        found = json.loads(file.read_bytes())
    except (StorageNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _as_json(values: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(values, indent=2)}\n".encode()
