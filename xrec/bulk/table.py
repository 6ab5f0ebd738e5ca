"""Commits to the published table: replace its rows, restore or undo a version, remove rows.

A commit either takes the next version number or has no effect, and records what it is
(`xrec.bulk.log.Commit`). Open the log afterwards to see whether it succeeded.
"""

import io
import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import quote

import deltalake
import deltalake.exceptions
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, create_table_with_add_actions

from xrec.bulk.files import FILES, add_action, digest_of, file_errors, files_of, missing_files
from xrec.bulk.log import COMMIT_KEY, LOG, Commit, DeltaLog, open_log, the_log
from xrec.bulk.results import Summary
from xrec.bulk.rows import FAILED, OK, bare, counts_of
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.errors import StorageError, TableError
from xrec.storage import Location, fingerprint_of, row_groups

logger = logging.getLogger("xrec")

CHANCES = 20
"""The number of attempts to commit to a table that keeps changing."""
ROWS_PER_GROUP = 4096
_LEAST_COLUMNS = pa.schema([("status", pa.string()), ("bucket", pa.int32())])
_NOTHING = digest_of(FILES.empty_table())
_DESCRIPTION = "published by xrec, layout 2"
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
            commit = Commit(kind="takedown", table="", live=_NOTHING, takedowns=taken.number)
            replace_content(output, None, [], _LEAST_COLUMNS, commit)
            continue
        refuse_other_table(log)
        if not can_be_shown(log, log.version, taken):
            _undo(log, taken)
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
    """Raise TableError if the table was not made by xrec or has another layout."""
    if (description := log.delta.metadata().description) != _DESCRIPTION:
        raise TableError(
            f"{log.location}: the Delta table was not made by this version of xrec: expected the "
            f"description {_DESCRIPTION!r}, saw {description!r}; choose another URI",
            code="another_table",
            key=str(log.location),
            saw=description,
        )


def write_file(
    output: Location, schema: pa.Schema, tables: Iterable[pa.Table]
) -> Mapping[str, Any] | None:
    """Write sorted rows to a file of the table; return the file's row of `FILES`.

    Return None if there are no rows.
    """
    path, sink = f"part-{uuid.uuid4().hex}.parquet", io.BytesIO()
    num_rows, bounds = 0, list[Mapping[str, int]]()
    schema = bare(schema.empty_table()).schema
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_index=True) as writer:
        for rows in row_groups((table for table in tables if table.num_rows), ROWS_PER_GROUP):
            writer.write_table(bare(rows))
            num_rows += rows.num_rows
            bounds.append(pc.min_max(rows["bucket"]).as_py())
    if not num_rows:
        return None
    (output / path).write_bytes(sink.getvalue())
    return {
        "path": path,
        "num_bytes": sink.getbuffer().nbytes,
        "num_rows": num_rows,
        "min.bucket": min(bound["min"] for bound in bounds),
        "max.bucket": max(bound["max"] for bound in bounds),
    }


def replace_content(
    output: Location,
    log: DeltaLog | None,
    actions: list[AddAction],
    schema: pa.Schema,
    commit: Commit,
) -> None:
    """Try to commit a next version with exactly these files, or create the table.

    Another program may commit first, or the answer may get lost: open the log to find out.
    """
    delta_schema = deltalake.Schema.from_arrow(schema)
    with _may_be_late(output):
        if log is not None:
            log.delta.create_write_transaction(
                list(actions),
                mode="overwrite",
                schema=delta_schema,
                commit_properties=commit.properties(),
            )
            return
        create_table_with_add_actions(
            output.uri,
            delta_schema,
            actions,
            mode="error",
            description=_DESCRIPTION,
            configuration=_CONFIGURATION,
            storage_options=output.delta_options(),
            commit_properties=commit.properties(),
        )


@contextmanager
def _may_be_late(output: Location) -> Iterator[None]:
    """Ignore the error of a commit whose version already exists; raise StorageError for others."""
    try:
        yield
    except (deltalake.exceptions.DeltaError, OSError) as error:
        is_late = isinstance(error, deltalake.exceptions.CommitFailedError)
        if not is_late and "already exists" not in str(error):
            raise StorageError(
                f"{output}: a commit failed: {error}", code="commit_failed", key=str(output)
            ) from error
        logger.info("%s: opening the table again, because a commit failed: %s", output, error)


def _undo(log: DeltaLog, taken: Takedowns) -> None:
    """Restore the newest version that can be shown, or empty the table."""
    for version in range(log.version - 1, -1, -1):
        if can_be_shown(log, version, taken):
            logger.warning(
                "%s: version %d does not have the files its writer recorded; restoring version %d",
                log.location,
                log.version,
                version,
            )
            restore(log, version, "undo", taken)
            return
    logger.warning("%s: emptying version %d: no version is whole", log.location, log.version)
    make_empty(log, "undo", taken, target=-1)


def make_empty(
    log: DeltaLog, kind: Literal["undo", "empty"], taken: Takedowns, target: int | None = None
) -> None:
    """Try to commit a next version without rows."""
    commit = Commit(kind=kind, table=log.id, live=_NOTHING, target=target, takedowns=taken.number)
    replace_content(log.location, log, [], pa.schema(log.delta.schema().to_arrow()), commit)


def restore(
    log: DeltaLog, version: int, kind: Literal["undo", "rollback", "takedown"], taken: Takedowns
) -> None:
    """Try to commit a next version with the rows of `version` that were not taken down since.

    If nothing was taken down, this uses deltalake's RESTORE.
    """
    files, gone = _left_of(log, version, taken)
    commit = Commit(
        kind=kind,
        table=log.id,
        live=digest_of(files),
        target=None if kind == "takedown" else version,
        takedowns=taken.number,
        num_gone=gone.num_rows,
    )
    if commit.num_gone or kind == "takedown":
        if not missing_files(log.location, files):
            _commit_files(log, version, files, _with_counts(commit, log, version, gone))
    else:
        with _may_be_late(log.location):
            log.delta.restore(version, commit_properties=commit.properties())


def _commit_files(log: DeltaLog, version: int, files: pa.Table, commit: Commit) -> None:
    """Create the next version with these files and the columns of `version`, unless it exists.

    The log entry is written here because deltalake replaces either all files or none, and lists
    even the files that stay as removed.
    """
    now = int(time.time() * 1000)
    before = {row["path"]: row for row in log.files(log.version).to_pylist()}
    after = {row["path"]: row for row in files.to_pylist()}
    info = {"timestamp": now, "operation": commit.kind.upper(), "operationParameters": {}}
    actions: list[dict[str, Any]] = [
        {"commitInfo": {**info, COMMIT_KEY: commit.model_dump_json()}},
        {"metaData": _metadata(log.location, version)},
    ]
    for path in sorted(before.keys() - after.keys()):
        old = {"deletionTimestamp": now, "dataChange": True, "size": before[path]["num_bytes"]}
        actions.append({"remove": {"path": quote(path), **old, "partitionValues": {}}})
    for path in sorted(after.keys() - before.keys()):
        new = add_action(after[path])
        made = {"size": new.size, "modificationTime": now, "dataChange": True, "stats": new.stats}
        actions.append({"add": {"path": quote(path), **made, "partitionValues": {}}})
    data = "".join(f"{json.dumps(action)}\n" for action in actions)
    (log.location / LOG / f"{log.version + 1:020d}.json").create_bytes(data.encode())


def _metadata(location: Location, version: int) -> dict[str, Any]:
    """Return the columns and settings of a version in the format of a log entry."""
    delta = the_log(location, version).delta
    metadata = delta.metadata()
    return {
        "id": str(metadata.id),
        "name": metadata.name,
        "description": metadata.description,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": delta.schema().to_json(),
        "partitionColumns": metadata.partition_columns,
        "createdTime": metadata.created_time,
        "configuration": metadata.configuration,
    }


def _left_of(log: DeltaLog, version: int, taken: Takedowns) -> tuple[pa.Table, Summary]:
    """Return a version's files without rows taken down since, and the counts of those rows.

    Files with such rows are rewritten and sorted, because another program may have reordered them.
    """
    new, files = taken.after(log.takedowns(version)), log.files(version)
    if not new.active or not files.num_rows:
        return files, Summary()
    schema = pa.schema(the_log(log.location, version).delta.schema().to_arrow())
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


def _with_counts(commit: Commit, log: DeltaLog, version: int, gone: Summary) -> Commit:
    """Add the manifest of what `version` shows, with the removed rows subtracted."""
    shown = log.decided_by(version)
    if not commit.num_gone or shown is None or shown.manifest is None:
        return commit
    manifest = shown.manifest
    counts = dict(manifest.row_counts)
    for name, field in shown.counts.items():
        counts[name] -= getattr(gone, field)
    fingerprint = fingerprint_of([manifest.fingerprint, commit.live])
    manifest = manifest.model_copy(update={"row_counts": counts, "fingerprint": fingerprint})
    same = {name: getattr(shown, name) for name in ("run", "nonce", "pass_number", "counts")}
    return commit.model_copy(update={**same, "manifest": manifest})
