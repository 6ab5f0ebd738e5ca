"""A finished version's rows as plain files, for programs that do not read Delta tables.

The folder of an export holds the files, `_export.json`, which says what it is an export of and is
written first, and `_SUCCESS`, which is written last. What a reader can rest on:

1. While `_SUCCESS` is there, all files of the export that it names are there, and no others.
2. Which rows a file holds depends on its name, and the names on the table's version and the
   settings alone. So whoever makes an export again that was interrupted, or makes it at the same
   time, writes the same rows into the same files.
3. An export takes another's place in this order: the new `_export.json` is written; `_SUCCESS` is
   deleted, and then the old files; the new files are written. So files of both are never there
   together.
4. If two different exports are made in one folder at the same time, the one that began first gives
   up, deletes what it wrote, and says so. Until then rule 1 may be broken.

Who reads while an export may be replaced reads `_SUCCESS` before and after: if it was there and is
the same, the export was whole all the time.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.export_folder import ExportFolder, ExportRecord, Success
from xrec.bulk.plain_files import WINDOW_BYTES, check_columns, file_columns, write_plain_files
from xrec.bulk.row_format import OK
from xrec.bulk.state import read_state
from xrec.config.export import ExportConfig
from xrec.config.shared import StorageConfig
from xrec.errors import ConfigError, DataError, StorageAccessError, StorageNotFoundError, TableError
from xrec.progress import progress
from xrec.storage import MANIFEST, Location, open_location, request_each
from xrec.table import Snapshot, Table

logger = logging.getLogger("xrec")

_COPIES_AT_ONCE = 256


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
    """Write the rows of a finished version of the bulk run at `uri` into a folder of plain files.

    The folder has no `_SUCCESS` until it is whole. Calling this again goes on with an export that
    was interrupted, and does nothing if it is whole. Files of the table are copied by the store
    where they can stay as they are: as Parquet, unpartitioned, with all columns. The version is
    pinned meanwhile, so that no vacuum takes its files.

    version: if None, the one that `manifest.json` names; without a manifest, the newest.

    Raises TableError if there is no table, if the version is not there, or if the run was not
    finished then; ConfigError if the settings do not fit the table; ArtifactMismatchError if the
    folder holds something else, or is changed meanwhile; DataError if a value cannot be written, or
    if a file of the table is not as it was; StorageError if a store cannot be used, or is full.
    """
    storage = storage or StorageConfig()
    table = Table.open(uri, storage=storage)
    target = open_location(settings.uri, storage)
    _refuse_overlap(table.location, target)
    snapshot = _finished_snapshot(table, version)
    check_columns(snapshot.format, settings)
    folder = ExportFolder(target, _record(table, snapshot.version, settings))
    success = folder.begin(settings.overwrite)
    is_new = success is None
    if success is None:
        with _pinned(table, snapshot.version, f"export-{folder.record.fingerprint}"):
            success = _write(table.location, snapshot, folder, settings)
    logger.info("%s: %s", target, "written" if is_new else "already there")
    return Exported(target, success.version, success.num_rows, success.num_files, is_new)


def is_exported(
    uri: str, settings: ExportConfig, version: int, storage: StorageConfig | None = None
) -> bool:
    """True if `export_run` with these arguments would find the export whole, and do nothing.

    It takes a few small requests and a listing of the folder.
    """
    storage = storage or StorageConfig()
    record = _record(Table.open(uri, storage=storage), version, settings)
    return ExportFolder(open_location(settings.uri, storage), record).success() is not None


def _record(table: Table, version: int, settings: ExportConfig) -> ExportRecord:
    return ExportRecord(
        source=table.location.shared_uri,
        run=table.run,
        version=version,
        commit=table.commit(version).id,
        **settings.model_dump(exclude={"uri", "overwrite"}),
    )


def _refuse_overlap(table: Location, target: Location) -> None:
    there, here = (f"{each.shared_uri.rstrip('/')}/" for each in (table, target))
    if there.startswith(here) or here.startswith(there):
        raise ConfigError(
            f"export to {target}: expected a folder outside the table's, {table}, and not around "
            "it; give the export a folder of its own"
        )


def _finished_snapshot(table: Table, version: int | None) -> Snapshot:
    """The table at the version; raises TableError unless the run was finished then."""
    snapshot = table.snapshot(_manifest_version(table.location) if version is None else version)
    _, state = read_state(table, snapshot.version)
    if state is None or state.state != "finished":
        raise TableError(
            f"{table.location}: the run was not finished at version {snapshot.version}, with "
            f"{snapshot.rows} rows done or done again; run it to its end, or name a version at "
            "which it was finished"
        )
    return snapshot


def _manifest_version(table: Location) -> int | None:
    """The version that the artifact's manifest names."""
    try:
        version = json.loads((table / MANIFEST).read_bytes()).get("version")
    except StorageNotFoundError:
        return None
    return version if isinstance(version, int) else None


def _files(snapshot: Snapshot, settings: ExportConfig) -> pa.Table:
    return snapshot.files([] if settings.with_failed else [("status", "=", OK)]).sort_by("path")


def _write(
    table: Location, snapshot: Snapshot, folder: ExportFolder, settings: ExportConfig
) -> Success:
    files = _files(snapshot, settings)
    can_stay = settings.format == "parquet" and not settings.partition_by
    if can_stay and settings.columns is None:
        copied = _copy_files(table, files, folder, settings)
        written = progress(copied, f"export to {folder.location}", files.num_rows)
    else:
        written = _write_files(table, snapshot, files, folder, settings)
    sizes: dict[str, int] = {}
    num_rows = 0
    for name, num_bytes, rows in written:
        sizes[name] = num_bytes
        num_rows += rows
    there: int = pc.sum(files["num_rows"]).as_py() or 0
    if num_rows != there:
        raise DataError(
            f"{table}: its files hold {num_rows} rows, the log says {there}; a file was changed "
            "after its commit"
        )
    return folder.finish(sizes, num_rows)


def _copy_files(
    table: Location, files: pa.Table, folder: ExportFolder, settings: ExportConfig
) -> Iterator[tuple[str, int, int]]:
    """Let the store copy the files that are not there yet; yields (name, bytes, rows)."""
    there = folder.sizes()

    def copied(file: dict[str, Any]) -> tuple[str, int, int]:
        path, num_bytes = file["path"], file["num_bytes"]
        place = path if settings.with_failed else path.rpartition("/")[2]
        name = f"{place.removesuffix('.parquet')}-{folder.record.fingerprint}.parquet"
        if there.get(name) != num_bytes:
            (table / path).copy_to(folder.location / name)
        return name, num_bytes, file["num_rows"]

    for batch in files.to_batches(_COPIES_AT_ONCE):
        yield from request_each(copied, batch.to_pylist())
        folder.check_ours()


def _write_files(
    table: Location,
    snapshot: Snapshot,
    files: pa.Table,
    folder: ExportFolder,
    settings: ExportConfig,
) -> Iterator[tuple[str, int, int]]:
    """Write the rows anew, those of each status by themselves; yields (name, bytes, rows)."""
    for status in pc.unique(files["partition.status"]).to_pylist():
        of_status = files.filter(pc.equal(files["partition.status"], status))
        num_rows, num_bytes = (
            pc.sum(of_status[name]).as_py() for name in ("num_rows", "num_bytes")
        )
        within = f"status={status}/" if settings.with_failed else ""
        for name, size, rows in write_plain_files(
            [table / path for path in of_status["path"].to_pylist()],
            folder.location / within if within else folder.location,
            settings,
            file_columns(snapshot.format, settings),
            max(1, WINDOW_BYTES * num_rows // num_bytes),
            folder.record.fingerprint,
        ):
            folder.check_ours()
            yield f"{within}{name}", size, rows


@contextmanager
def _pinned(table: Table, version: int, name: str) -> Iterator[None]:
    """Keep the version from vacuum; of a table that can only be read, this is left to its owner."""
    try:
        table.pin(name, version)
    except StorageAccessError:
        logger.warning(
            "%s: version %d could not be pinned, since the table may not be written to; a vacuum "
            "may delete its files meanwhile",
            table.location,
            version,
        )
        yield
        return
    try:
        yield
    finally:
        table.unpin(name)
