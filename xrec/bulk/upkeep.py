"""Table maintenance: roll back, empty, take down and lift, delete unused files."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from deltalake.exceptions import CommitFailedError

from xrec.bulk.log import delta_errors, missing_files, open_log, the_log
from xrec.bulk.progress import refuse_live_driver
from xrec.bulk.request import PROBES, check_conditional_writes, refuse_other_files
from xrec.bulk.run import RUNS, records
from xrec.bulk.table import (
    CHANCES,
    can_be_shown,
    changes_too_often,
    open_whole,
    refuse_other_table,
    restore,
)
from xrec.bulk.takedown import Entry, forget_on_list, put_on_list, read_takedowns, restart_list
from xrec.config import StorageConfig
from xrec.errors import LeaseError, TableError
from xrec.storage import Forgotten, Location, open_location

logger = logging.getLogger("xrec")


def rollback(uri: str, version: int, storage: StorageConfig | None = None) -> int:
    """Publish an earlier version again as the next version, and return that version's number.

    Rows that were taken down since are left out. Nothing happens if `version` is the newest.

    Raise ArtifactNotFoundError if there is no table, TableError if the version does not exist, is
    not sound, or lost files to a vacuum.
    """

    location = open_location(uri, storage)
    for _ in range(CHANCES):
        log = open_whole(location) or the_log(location)
        open_log(location, version)  # raises if there is no such version
        if version == log.version:
            return version
        taken = read_takedowns(location)
        if not can_be_shown(log, version, taken):
            missing = missing_files(location, log.files(version))
            what = f"{missing[0]} is missing" if missing else "it is not sound"
            if log.is_whole(version):
                what = "takedowns that it does not honor are missing from the list"
            raise TableError(
                f"{uri}: version {version} cannot be restored: {what}; choose another version",
                code="cannot_be_restored",
                key=uri,
                saw=version,
            )
        if restore(log, version, "rollback", taken):
            return log.version + 1
    raise changes_too_often(location)


def empty(uri: str, storage: StorageConfig | None = None) -> int:
    """Publish a version without rows and return its number.

    Earlier versions remain until a vacuum. Raise ArtifactNotFoundError if there is no table.
    """
    location = open_location(uri, storage)
    for _ in range(CHANCES):
        log = open_whole(location) or the_log(location)
        if restore(log, -1, "empty", read_takedowns(location)):
            return log.version + 1
    raise changes_too_often(location)


class TakenDown(NamedTuple):
    """A takedown's number on the list, the newest version, and the number of removed rows."""

    number: int
    version: int
    num_rows: int


def take_down(
    uri: str,
    *,
    rows: Sequence[Mapping[str, str]] = (),
    phrase: str = "",
    forgotten: Forgotten = Forgotten(),  # noqa: B008  it is frozen
    reason: str,
    storage: StorageConfig | None = None,
) -> TakenDown:
    """Remove rows from the table, and keep them out of later versions until this is lifted.

    Give exactly one of: rows, column values of the rows to remove; phrase, which their explanations
    contain (see xrec.bulk.takedown); forgotten, users whose rows are removed for good and who are
    no longer named in any takedown. Repeat an interrupted call to continue it. Earlier versions
    keep the rows until a vacuum.

    Raise ValueError if none or several are given, or if the reason is empty; TableError if the URI
    contains other files, takedowns are missing, or other programs keep committing; StorageError.
    """
    given = (bool(rows), bool(phrase.strip()), bool(forgotten))
    if sum(given) != 1 or not all(rows) or not reason.strip():
        raise ValueError("expected rows (a user, an item or both) or a phrase, and a reason")
    location = open_location(uri, storage)
    refuse_other_files(location)
    check_conditional_writes(location)
    for _ in range(CHANCES):
        entry = Entry(rows=tuple(map(dict, rows)), phrase=phrase, reason=reason)
        number = (
            forget_on_list(location, forgotten, reason)
            if forgotten
            else put_on_list(location, entry)
        )
        log = open_whole(location)
        if number in read_takedowns(location).entries:
            break  # otherwise the output was deleted meanwhile
    else:
        raise changes_too_often(location)
    if log is None:
        raise TableError(
            f"{uri}: takedown {number} was lifted during this command, and there is no table",
            code="lifted_meanwhile",
            key=uri,
            saw=number,
        )
    commits = filter(None, map(log.commit, range(log.version + 1)))
    num_gone = next((commit.num_gone for commit in commits if commit.takedowns >= number), 0)
    return TakenDown(number, log.version, num_gone)


def lift(uri: str, number: int, reason: str, storage: StorageConfig | None = None) -> int:
    """Allow the rows of takedown `number` in later versions; return the new entry's number.

    The rows come back with the next run, or with a rollback to a version that has them. Raise
    TableError if there is no such takedown, ValueError if the reason is empty, StorageError.
    """
    return put_on_list(_with_reason(uri, reason, storage), Entry(lifts=number, reason=reason))


def restart_takedowns(uri: str, reason: str, storage: StorageConfig | None = None) -> int:
    """Continue without takedowns that someone deleted; return the new entry's number.

    The next run may bring their rows back, and older versions that do not honor them can no longer
    be restored. Raise TableError if none is missing, ValueError if the reason is empty,
    StorageError.
    """
    return restart_list(_with_reason(uri, reason, storage), reason)


def _with_reason(uri: str, reason: str, storage: StorageConfig | None) -> Location:
    if not reason.strip():
        raise ValueError("expected a reason")
    return open_location(uri, storage)


def delete_runs(uri: str, storage: StorageConfig | None = None) -> int:
    """Delete all runs with the rows they read, carried over and made; return the number of runs.

    Files left by killed writers are deleted too. Raise LeaseError if a driver is working on a run
    or starts meanwhile; call this again later to delete the rest.
    """
    location = open_location(uri, storage)
    runs, deleted = location / RUNS, set[str]()
    for _ in range(CHANCES):
        if not runs.files():  # some stores keep an empty folder
            break
        for record in records(location):
            refuse_live_driver(record.folder(location))
        deleted |= {*runs.folders()}
        runs.delete()  # look again: a driver may have started meanwhile
    else:
        raise LeaseError(
            f"{runs}: files keep appearing; stop whatever writes them, then delete the runs again",
            code="files_come_back",
            key=str(runs),
        )
    for name in _unfinished(location):
        (location / name).delete()
    return len(deleted)


def vacuum(uri: str, retention: timedelta, storage: StorageConfig | None = None) -> int:
    """Delete files that no version within `retention` uses, and runs that are no longer needed.

    Return the number of deleted table files. Files of running jobs are spared unless `retention`,
    rounded up to hours, is 0; what such a job publishes is then undone. Raise TableError if the
    table belongs to another program.
    """
    location = open_location(uri, storage)
    hours, deleted = math.ceil(retention.total_seconds() / 3600), list[str]()
    for _ in range(CHANCES):
        if (log := open_log(location)) is None:
            break
        refuse_other_table(log)
        with delta_errors(location), suppress(CommitFailedError):  # the table changed: look again
            deleted = log.delta.vacuum(
                hours, dry_run=False, enforce_retention_duration=False, full=True
            )
            open_whole(location)  # a concurrent rollback may need what was just deleted
            break
    else:
        raise changes_too_often(location)
    delete_superseded(location, retention)
    return len(deleted)


def delete_superseded(output: Location, retention: timedelta) -> None:
    """Delete superseded runs, plans and results that no record names, and what was left unfinished.

    A run is superseded if it is neither the published one nor the most recently planned one.
    Killed processes leave files unfinished. What was written within `retention` is kept.
    """
    for name in (PROBES, *_unfinished(output)):
        _delete_old(output / name, retention)
    log = open_log(output)
    shown = None if log is None else log.shown(log.version)
    newest = {record.run: record for record in records(output)}  # most recently planned run first
    needed = {next(iter(newest), None), None if shown is None else shown.run}
    for run in (output / RUNS).folders():
        for folder in (output / RUNS / run).folders():
            is_named = run in newest and newest[run].nonce == folder
            if not (run in needed and is_named):
                _delete_old(output / RUNS / run / folder, retention)
        if run not in needed and not any("/" in file for file in (output / RUNS / run).files()):
            (output / RUNS / run).delete()


def _unfinished(output: Location) -> list[str]:
    """Return the names of table files that killed processes left, which Delta's vacuum spares."""
    return [name for name in output.sizes() if name.startswith(".")]


def _delete_old(folder: Location, retention: timedelta) -> None:
    times = [time_of(info) for info in folder.details().values() if info["type"] == "file"]
    if times and max(times) < datetime.now(UTC) - retention:
        logger.info("%s: deleting it, because no run needs it", folder)
        folder.delete()


def time_of(info: Mapping[str, Any]) -> datetime:
    """Return when a file was written, from what its store reports (`Location.details`)."""
    written = info.get("LastModified") or info["mtime"]
    return written if isinstance(written, datetime) else datetime.fromtimestamp(written, UTC)
