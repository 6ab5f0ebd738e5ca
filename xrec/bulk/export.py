"""A published version's rows as plain files, for programs that do not read Delta tables.

The folder of an export holds the files, `_export.json`, which says what it is an export of and is
created first, and `_SUCCESS`, which is written last and lists the files with their sizes. What a
reader can rest on: while `_SUCCESS` is there, the files that it lists are there. Which rows a file
holds depends on its name, and the names on the version and the settings alone: whoever makes an
export again that was interrupted, or at the same time, writes the same rows into the same files.
Any other export of the folder is refused.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from xrec.bulk.plain_files import check_columns, file_columns, write_plain_files
from xrec.bulk.published import Published, published
from xrec.bulk.row_format import OK
from xrec.config.export import ExportConfig
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ConfigError, StorageNotFoundError
from xrec.storage import Location, differing_fields, fingerprint_of, open_location
from xrec.storage.delta import file_errors

logger = logging.getLogger("xrec")

RECORD, SUCCESS = "_export.json", "_SUCCESS"


class ExportRecord(BaseModel):
    """What an export is of; the same record means the same files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    table: str
    version: int
    format: str
    partition_by: tuple[str, ...]
    columns: tuple[str, ...] | None
    with_failed: bool

    @property
    def fingerprint(self) -> str:
        """A part of the names of its files."""
        return fingerprint_of(self.model_dump(mode="json"))


class Success(BaseModel):
    """What `_SUCCESS` holds. files: the bytes of each file, by its name in the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    num_rows: int
    files: dict[str, int]


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
    settings: ExportConfig,
    *,
    version: int | None = None,
    storage: StorageConfig | None = None,
) -> Exported:
    """Write the rows of a published version of the table at `uri` into a folder of plain files.

    Calling this again goes on with an export that was interrupted, and does nothing if it is whole.

    version: if None, the newest. Raises what `published` raises; ConfigError if the settings do not
    fit the table; ArtifactMismatchError if the folder is not empty, or files were changed;
    DataError if a value cannot be written; StorageError.
    """
    storage = storage or StorageConfig()
    table = published(uri, version=version, storage=storage)
    target = open_location(settings.uri, storage)
    _refuse_overlap(table.log.location, target)
    check_columns(_schema(table), settings)
    record = _record(table, settings)
    _begin(target, record)
    success = _success(target)
    if success is not None and not _wrong(target, success.files):
        return _exported(target, success, is_new=False)
    files, num_rows = _write(table, target, settings, record)
    _check(target, record, files)
    success = Success(version=table.version, num_rows=num_rows, files=files)
    (target / SUCCESS).write_bytes(_as_json(success))
    _check(target, record, files)
    logger.info("%s: written", target)
    return _exported(target, success, is_new=True)


def is_exported(
    uri: str, settings: ExportConfig, version: int, storage: StorageConfig | None = None
) -> bool:
    """True if `export_run` with these arguments would find the export whole, and do nothing."""
    storage = storage or StorageConfig()
    target = open_location(settings.uri, storage)
    record = _record(published(uri, version=version, storage=storage), settings)
    success = _success(target)
    return _read_record(target) == record and success is not None


def _schema(table: Published) -> pa.Schema:
    return table.dataset(status=None).schema


def _record(table: Published, settings: ExportConfig) -> ExportRecord:
    return ExportRecord(
        source=table.log.location.shared_uri,
        table=table.log.id,
        version=table.version,
        **settings.model_dump(exclude={"uri"}),
    )


def _refuse_overlap(table: Location, target: Location) -> None:
    there, here = (f"{each.shared_uri.rstrip('/')}/" for each in (table, target))
    if there.startswith(here) or here.startswith(there):
        raise ConfigError(
            f"export to {target}: expected a folder outside the table's, {table}, and not around "
            "it; give the export a folder of its own"
        )


def _begin(target: Location, record: ExportRecord) -> None:
    """Take an empty folder for this export; raises ArtifactMismatchError if it is another's."""
    names = target.files()
    if RECORD not in names and names:
        raise ArtifactMismatchError(
            f"{target}: holds files that are of no export, such as {names[0]}; nothing was "
            "changed; give an empty folder"
        )
    (target / RECORD).create_bytes(_as_json(record))
    there = _read_record(target)
    if there != record:
        fields = differing_fields(
            there.model_dump(mode="json") if there else {}, record.model_dump(mode="json")
        )
        raise ArtifactMismatchError(
            f"{target}: holds another export:\n"
            + "\n".join(f"  {line}" for line in fields)
            + "\ngive an empty folder"
        )


def _write(
    table: Published, target: Location, settings: ExportConfig, record: ExportRecord
) -> tuple[dict[str, int], int]:
    """Write the rows, those of each status by themselves; returns the files and the rows."""
    files: dict[str, int] = {}
    num_rows = 0
    columns = file_columns(_schema(table), settings)
    for status in (OK, "failed") if settings.with_failed else (OK,):
        folder = f"status={status}/" if settings.with_failed else ""
        written = write_plain_files(
            table.dataset(status=status), target, settings, columns, folder, record.fingerprint
        )
        with file_errors(table.log.location):
            for name, size, rows in written:
                files[name] = size
                num_rows += rows
    return files, num_rows


def _check(target: Location, record: ExportRecord, files: Mapping[str, int]) -> None:
    """Raise ArtifactMismatchError unless the folder holds these files and is this export's."""
    wrong = _wrong(target, files)
    if _read_record(target) == record and not wrong:
        return
    (target / SUCCESS).delete()
    raise ArtifactMismatchError(
        f"{target}: was changed meanwhile" + (f", such as {wrong[0]}" if wrong else "") + "; make "
        "the export again into an empty folder, and let nothing else write there"
    )


def _wrong(target: Location, files: Mapping[str, int]) -> list[str]:
    """Files that are missing, changed, or not of the export."""
    root = f"{target.path.rstrip('/')}/"
    found = target.fs.find(target.path, detail=True)
    there = {str(path).removeprefix(root): int(info["size"]) for path, info in found.items()}
    own = {name: size for name, size in there.items() if name not in (RECORD, SUCCESS)}
    hidden = {name for name in own if name.rpartition("/")[2].startswith(".")}
    return sorted({name for name, _ in files.items() ^ own.items() if name not in hidden})


def _read_record(target: Location) -> ExportRecord | None:
    try:
        return ExportRecord.model_validate_json((target / RECORD).read_bytes())
    except StorageNotFoundError:
        return None
    except ValidationError as error:
        raise ArtifactMismatchError(
            f"{target / RECORD}: not a record that this xrec reads: {error}; give another folder"
        ) from error


def _success(target: Location) -> Success | None:
    try:
        return Success.model_validate_json((target / SUCCESS).read_bytes())
    except (StorageNotFoundError, ValidationError):
        return None


def _exported(target: Location, success: Success, *, is_new: bool) -> Exported:
    return Exported(target, success.version, success.num_rows, len(success.files), is_new)


def _as_json(model: BaseModel) -> bytes:
    values: Any = model.model_dump(mode="json")
    return f"{json.dumps(values, indent=2)}\n".encode()
