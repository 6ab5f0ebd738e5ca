"""The published table: its files, and commits that replace, restore or remove its rows.

A commit either takes the next version number or has no effect, and records what it is
(`xrec.bulk.log.Commit`).
"""

import io
import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal
from urllib.parse import quote

import deltalake
import deltalake.exceptions
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler

from xrec.bulk.log import (
    COMMIT_KEY,
    FILES,
    LOG,
    READER_VERSION,
    Commit,
    DeltaLog,
    Shown,
    digest_of,
    missing_files,
    open_log,
)
from xrec.bulk.rows import FAILED, OK, Summary, bare, counts_of
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.errors import DataError, TableError
from xrec.storage import (
    Location,
    fingerprint_of,
    read_footer,
    request_each,
    row_groups,
    storage_errors,
)

logger = logging.getLogger("xrec")

CHANCES = 20
"""The number of attempts to commit to a table that keeps changing."""
FEW_AT_ONCE: Mapping[str, int] = {
    "batch_size": 2**14,
    "batch_readahead": 2,
    "fragment_readahead": 1,
}
"""Settings for streaming a dataset; by default Arrow reads 64 batches of 131,072 rows ahead."""
ROWS_PER_GROUP = 4096
_LEAST_COLUMNS = pa.schema([("status", pa.string()), ("bucket", pa.int32())])
_VERSIONS_PER_CHECKPOINT = 10
"""As in Spark; with deltalake's default of 100, readers would open up to 99 log entries."""
_DESCRIPTION = "published by xrec, layout 3"
_WRITER_VERSION = 2
"""The Delta protocol's version for writers, without change data feeds or later features."""
_CONFIGURATION: Mapping[str, str | None] = {
    "delta.dataSkippingStatsColumns": "bucket",  # keeps IDs out of the log, which outlives files
    "delta.enableExpiredLogCleanup": "false",  # the log records what each version is
    "delta.logRetentionDuration": "interval 36500 days",  # even if another program cleans it up
}


def open_whole(output: Location) -> DeltaLog | None:
    """Open the table after making sure its newest version is whole and honors all takedowns.

    If the newest version is not whole, a new version undoes it; if rows were taken down since, a
    new version removes them. Return None if there is no table and nothing is taken down. Raise
    TableError if the table is not one of xrec or keeps changing, or if takedowns are missing.
    """
    for _ in range(CHANCES):
        log = open_log(output)
        taken = read_takedowns(output)  # after opening the table, so that no entry is missed
        if log is None and not taken.active:
            return None
        if log is None:
            # Keep writers that read an older list from creating the first version.
            live = digest_of(nothing := FILES.empty_table())
            commit = Commit(kind="takedown", table="", live=live, takedowns=taken.number)
            commit_files(output, None, nothing, _LEAST_COLUMNS, commit)
            continue
        refuse_other_table(log)
        if not can_be_shown(log, log.version, taken):
            earlier = range(log.version - 1, -1, -1)
            version = next((n for n in earlier if can_be_shown(log, n, taken)), -1)
            logger.warning(
                "%s: version %d does not have the files its writer recorded; restoring version %d "
                "(-1 is an empty table)",
                output,
                log.version,
                version,
            )
            restore(log, version, "undo", taken)
        elif taken.after(log.takedowns(log.version)).active:
            logger.info("%s: version %d removes rows taken down since", output, log.version + 1)
            restore(log, log.version, "takedown", taken)
        else:
            return log
    raise changes_too_often(output)


def can_be_shown(log: DeltaLog, version: int, taken: Takedowns) -> bool:
    """Return whether a version is whole and all takedowns since then are known."""
    return log.is_whole(version) and taken.is_whole_after(log.takedowns(version))


def changes_too_often(output: Location) -> TableError:
    return TableError(
        f"{output}: the table changed {CHANCES} times during this command; run it again while "
        "nothing else commits to the table",
        code="table_changes",
        key=str(output),
        saw=CHANCES,
    )


def refuse_other_table(log: DeltaLog) -> None:
    """Raise TableError if the table is not one of xrec, or has another layout or protocol."""
    if (description := log.delta.metadata().description) != _DESCRIPTION:
        raise TableError(
            f"{log.location}: the Delta table was not made by this version of xrec: expected the "
            f"description {_DESCRIPTION!r}, saw {description!r}; choose another URI",
            code="another_table",
            key=str(log.location),
            saw=description,
        )
    if (seen := log.delta.protocol().min_writer_version) != _WRITER_VERSION:
        raise TableError(
            f"{log.location}: another program turned on a feature of Delta tables that this xrec "
            f"cannot write: expected writer version {_WRITER_VERSION}, saw {seen}; publish to "
            "another URI",
            code="another_protocol",
            key=str(log.location),
            saw=seen,
        )


def commit_files(
    output: Location, log: DeltaLog | None, files: pa.Table, schema: pa.Schema, commit: Commit
) -> bool:
    """Try to make the table's next version, with just these files; return whether it was made.

    Nothing happens if another command, or another program, made that version first. deltalake's own
    commit replaces either all files or none, and lists even the files that stay as removed.
    """
    number, now = 0 if log is None else log.version + 1, int(time.time() * 1000)
    before, after = (
        {row["path"]: row for row in table.to_pylist()}
        for table in (FILES.empty_table() if log is None else log.files(log.version), files)
    )
    info = {"timestamp": now, "operation": commit.kind.upper(), "operationParameters": {}}
    actions: list[dict[str, Any]] = [
        {"commitInfo": {**info, COMMIT_KEY: commit.model_dump_json()}},
        {
            "metaData": _metadata(log, now)
            | {"schemaString": deltalake.Schema.from_arrow(schema).to_json()}
        },
    ]
    if log is None:
        protocol = {"minReaderVersion": READER_VERSION, "minWriterVersion": _WRITER_VERSION}
        actions.append({"protocol": protocol})
    for path in sorted(before.keys() - after.keys()):
        old = {"deletionTimestamp": now, "dataChange": True, "size": before[path]["num_bytes"]}
        actions.append({"remove": {"path": quote(path), **old, "partitionValues": {}}})
    for path in sorted(after.keys() - before.keys()):
        new = {"size": after[path]["num_bytes"], "modificationTime": now, "dataChange": True}
        stats = json.dumps(_stats(after[path]))
        actions.append({"add": {"path": quote(path), **new, "stats": stats, "partitionValues": {}}})
    lines = (json.dumps(action, separators=(",", ":")) for action in actions)
    data = "".join(f"{line}\n" for line in lines).encode()
    entry = output / LOG / f"{number:020d}.json"
    if not entry.create_bytes(data) and entry.read_bytes() != data:  # else an answer was lost
        logger.info("%s: opening the table again, because version %d exists", output, number)
        return False
    if number and number % _VERSIONS_PER_CHECKPOINT == 0:
        with suppress(deltalake.exceptions.DeltaError, OSError):  # it only makes opening faster
            options = output.delta_options()
            deltalake.DeltaTable(output.uri, storage_options=options).create_checkpoint()
    return True


def _metadata(log: DeltaLog | None, now: int) -> dict[str, Any]:
    """Return the settings of the table, or of a new one, in the format of a log entry."""
    metadata = None if log is None else log.delta.metadata()
    return {
        "id": str(metadata.id if metadata else uuid.uuid4()),
        "name": metadata and metadata.name,
        "description": metadata.description if metadata else _DESCRIPTION,
        "format": {"provider": "parquet", "options": {}},
        "partitionColumns": metadata.partition_columns if metadata else [],
        "createdTime": metadata.created_time if metadata else now,
        "configuration": metadata.configuration if metadata else _CONFIGURATION,
    }


def _stats(file: Mapping[str, Any]) -> dict[str, Any]:
    """Return Delta's statistics of a file (a row of `FILES`)."""
    if file["min.bucket"] is None:
        return {"numRecords": file["num_rows"]}
    return {
        "numRecords": file["num_rows"],
        "minValues": {"bucket": file["min.bucket"]},
        "maxValues": {"bucket": file["max.bucket"]},
        "nullCount": {"bucket": 0},
    }


def restore(
    log: DeltaLog,
    version: int,
    kind: Literal["undo", "rollback", "empty", "takedown"],
    taken: Takedowns,
) -> bool:
    """Try to make a next version with the rows of `version` that were not taken down since.

    Return whether it was made. Files with such rows are rewritten. Version -1 has no rows.
    """
    files, gone = _left_of(log, version, taken)
    if missing_files(log.location, files):
        return False
    live, shown = digest_of(files), log.shown(version)
    commit = Commit(
        kind=kind,
        table=log.id,
        live=live,
        target=version if kind in ("undo", "rollback") else None,
        takedowns=taken.number,
        num_gone=gone.num_rows,
        shown=shown and _without(shown, gone, live),
    )
    schema = log.schema(log.version if version < 0 else version)
    return commit_files(log.location, log, files, schema, commit)


def _left_of(log: DeltaLog, version: int, taken: Takedowns) -> tuple[pa.Table, Summary]:
    """Return a version's files without rows taken down since, and the counts of those rows.

    Rewritten files are sorted, because another program may have reordered their rows.
    """
    files = FILES.empty_table() if version < 0 else log.files(version)
    new = taken.after(log.takedowns(version))
    if not new.active or not files.num_rows:
        return files, Summary()
    schema = log.schema(version)
    fragments = {part.path: part for part in files_of(log.location, files, schema).get_fragments()}
    # Only the keys, `status` and `bucket` are not nullable.
    keys = [f.name for f in schema if not f.nullable and f.name not in _LEAST_COLUMNS.names]
    order = ["bucket", *keys]
    left, gone = list[Mapping[str, Any]](), Summary()
    with file_errors(log.location):
        for file in files.to_pylist():
            fragment = fragments[file["path"]]
            deciding = fragment.to_table(schema=schema, columns=new.columns(schema))
            if new.without(deciding) is deciding:
                left.append(file)
                continue
            rows = fragment.to_table(schema=schema)
            kept = new.without(rows).sort_by([(name, "ascending") for name in order])
            left += filter(None, [write_file(log.location, schema, [kept])])
            ok, kept_ok = (counts_of(part["status"]).get(OK, 0) for part in (rows, kept))
            num_ok, num_gone = ok - kept_ok, rows.num_rows - kept.num_rows
            gone += Summary(num_ok=num_ok, failed={FAILED: num_gone - num_ok})
    return pa.Table.from_pylist(left, FILES), gone


def _without(shown: Shown, gone: Summary, live: str) -> Shown:
    """Return what is shown once the rows counted in `gone` were removed; `live`: see `Commit`."""
    if not gone.num_rows:
        return shown
    manifest = shown.manifest
    lost = {name: getattr(gone, field) for name, field in shown.counts.items()}
    counts = {name: count - lost.get(name, 0) for name, count in manifest.row_counts.items()}
    fingerprint = fingerprint_of([manifest.fingerprint, live])
    manifest = manifest.model_copy(update={"row_counts": counts, "fingerprint": fingerprint})
    num_gone = shown.num_gone + gone.num_rows
    return shown.model_copy(update={"manifest": manifest, "num_gone": num_gone})


def write_file(
    output: Location, schema: pa.Schema, tables: Iterable[pa.Table]
) -> Mapping[str, Any] | None:
    """Write sorted rows to a file of the table; return the file's row of `FILES`.

    Return None if there are no rows.
    """
    path, sink, buckets = f"part-{uuid.uuid4().hex}.parquet", io.BytesIO(), set[int]()
    num_rows, schema = 0, bare(schema.empty_table()).schema
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_index=True) as writer:
        for rows in row_groups((table for table in tables if table.num_rows), ROWS_PER_GROUP):
            writer.write_table(bare(rows))
            num_rows += rows.num_rows
            buckets |= {*pc.min_max(rows["bucket"]).as_py().values()}
    if not num_rows:
        return None
    (output / path).write_bytes(sink.getvalue())
    values = (path, sink.getbuffer().nbytes, num_rows, min(buckets), max(buckets))
    return dict(zip(FILES.names, values, strict=True))


def files_of(location: Location, files: pa.Table, schema: pa.Schema) -> pads.Dataset:
    """Return a dataset of files with the columns of `schema`; a filter by bucket skips files."""
    rows, bucket, bounds = files.to_pylist(), pc.field("bucket"), []
    sizes = {file["path"]: file["num_bytes"] for file in rows}
    for file in rows:
        least, greatest = file["min.bucket"], file["max.bucket"]
        is_known = least is not None and "bucket" in schema.names
        bounds.append((bucket >= least) & (bucket <= greatest) if is_known else pc.scalar(True))
    return pads.FileSystemDataset.from_paths(
        list(sizes),
        schema=schema,
        format=pads.ParquetFileFormat(),
        filesystem=_filesystem(location, sizes),
        partitions=bounds,
    )


def _filesystem(location: Location, sizes: dict[str, int]) -> pyarrow.fs.FileSystem:
    """Return a file system of the table's folder; deltalake's on S3, as fsspec reads far ahead."""
    options = location.delta_options()
    if options is None:
        return pyarrow.fs.SubTreeFileSystem(location.path, location.arrow_filesystem())
    return pyarrow.fs.PyFileSystem(DeltaStorageHandler(location.uri, options, sizes))


def wrong_bounds(location: Location, files: pa.Table) -> list[str]:
    """Return the paths of files that are unreadable or have buckets outside the log's bounds.

    Readers that look for such a bucket skip the file. This reads the footer of each file, which
    other programs also write correctly.
    """

    def is_wrong(file: Mapping[str, Any]) -> bool:
        least, greatest = file["min.bucket"], file["max.bucket"]
        try:
            footer = read_footer(location / file["path"])
        except (pa.ArrowException, OSError):
            return True
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        columns = (group.column(index) for group in groups for index in range(group.num_columns))
        buckets = [column.statistics for column in columns if column.path_in_schema == "bucket"]
        known = [bounds for bounds in buckets if bounds is not None and bounds.has_min_max]
        return least is not None and any(
            bounds.min < least or bounds.max > greatest for bounds in known
        )

    own = [file for file in files.to_pylist() if "/" not in file["path"]]
    checked = zip(own, request_each(is_wrong, own), strict=True)
    return [file["path"] for file, has_other_buckets in checked if has_other_buckets]


@contextmanager
def file_errors(location: Location) -> Iterator[None]:
    """Turn errors in reading the table's files into errors of xrec.errors that name the URI."""
    with storage_errors(location.uri):
        try:
            yield
        except pa.ArrowException as error:
            raise DataError(
                f"{location}: a file of the table cannot be read ({error}); restore the previous "
                "version (xrec table rollback), or run the job again",
                code="broken_file",
                key=str(location),
            ) from error
