"""What is done to a table besides publishing: going back, emptying, taking rows down, and deleting
what is not used.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from deltalake.exceptions import CommitFailedError

from xrec.bulk.request import check_conditional_writes, refuse_other_files
from xrec.bulk.runs.progress import refuse_live_driver
from xrec.bulk.runs.run import RUNS, records
from xrec.bulk.table import (
    CHANCES,
    can_be_shown,
    changes_too_often,
    make_empty,
    open_whole,
    refuse_other_table,
    restore,
)
from xrec.bulk.takedown import forget_on_list, put_on_list, read_takedowns, restart_list
from xrec.config import StorageConfig
from xrec.errors import LeaseError, TableError
from xrec.storage import Forgotten, Location, open_location
from xrec.storage.delta import DeltaLog, delta_errors, open_log, the_log

logger = logging.getLogger("xrec")


def rollback(uri: str, version: int, storage: StorageConfig | None = None) -> int:
    """Publish an earlier version again, as the next one; returns its number.

    Rows that were taken down since are left out. Nothing happens if it is the newest one.

    Raises ArtifactNotFoundError if there is no table, TableError if there is no such version, it is
    not sound, or its files were deleted by a vacuum.
    """

    def go_back(log: DeltaLog) -> None:
        open_log(log.location, version)  # raises if it is not there
        taken = read_takedowns(log.location)
        if not can_be_shown(log, version, taken):
            missing = log.missing_files(version)
            what = "it is not sound" if not missing else f"{missing[0]} is gone"
            if log.is_whole(version):
                what = "takedowns that it does not heed are gone from the list"
            raise TableError(
                f"{uri}: version {version} cannot be restored: {what}; name another",
                code="cannot_be_restored",
                key=uri,
                saw=version,
            )
        if version != log.version:
            restore(log, version, "rollback", taken)

    return _next_version(uri, storage, go_back, "rollback", version)


def empty(uri: str, storage: StorageConfig | None = None) -> int:
    """Let the table have no rows, as its next version; returns the number of that version.

    Earlier versions stay until a vacuum. Raises ArtifactNotFoundError if there is no table.
    """

    def commit(log: DeltaLog) -> None:
        make_empty(log, "empty", read_takedowns(log.location))

    return _next_version(uri, storage, commit, "empty", None)


class TakenDown(NamedTuple):
    """The number of a takedown on the list, the newest version, and the rows that went for it."""

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
    """Take rows out of the table, and keep them out of all later versions, until it is lifted.

    rows: each is taken down whose columns have these values. phrase: each is taken down whose
    explanation has it (xrec.bulk.takedown). forgotten: each is taken down whose `user_id` is one of
    theirs, for good, and no takedown names them any more. Calling this again goes on with what was
    interrupted. Earlier versions keep the rows until a vacuum.

    Raises ValueError if none or several are given, or no reason; TableError if other files are at
    the URI, takedowns are gone, or other programs commit all the time; StorageError.
    """
    given = (bool(rows), bool(phrase.strip()), bool(forgotten))
    if sum(given) != 1 or not all(rows) or not reason.strip():
        raise ValueError("expected rows (a user, an item or both), or a phrase; and a reason")
    location = open_location(uri, storage or StorageConfig())
    refuse_other_files(location)
    check_conditional_writes(location)
    for _ in range(CHANCES):
        number = (
            forget_on_list(location, forgotten, reason)
            if forgotten
            else put_on_list(location, rows=tuple(map(dict, rows)), phrase=phrase, reason=reason)
        )
        log = open_whole(location)
        if number in read_takedowns(location).entries:
            break  # else the output was deleted meanwhile
    else:
        raise changes_too_often(location)
    if log is None:
        raise TableError(
            f"{uri}: takedown {number} was lifted meanwhile, and nothing is there",
            code="lifted_meanwhile",
            key=uri,
            saw=number,
        )
    commits = map(log.commit, range(log.version + 1))
    heeding = next((each for each in commits if each and each.takedowns >= number), None)
    return TakenDown(number, log.version, heeding.num_gone if heeding else 0)


def delete_runs(uri: str, storage: StorageConfig | None = None) -> int:
    """Delete all runs, with the rows that they read, carried and made; returns their number.

    What killed writers left goes too, which a vacuum spares. Raises LeaseError if a driver is at
    work on one, or starts one meanwhile; the same call then deletes the rest.
    """
    location = open_location(uri, storage or StorageConfig())
    runs, deleted = location / RUNS, set[str]()
    for _ in range(CHANCES):
        if not runs.files():  # some stores keep a folder that is empty
            break
        for record in records(location):
            refuse_live_driver(record.folder(location))
        deleted |= {*runs.folders()}
        runs.delete()  # a driver may begin meanwhile, so there is another look
    else:
        raise LeaseError(
            f"{runs}: files come back; stop what writes them, then delete again",
            code="files_come_back",
            key=str(runs),
        )
    for name in (each for each in location.sizes() if each.startswith(".")):
        (location / name).delete()
    return len(deleted)


def restart_takedowns(uri: str, reason: str, storage: StorageConfig | None = None) -> int:
    """Go on without takedowns that were deleted by hand; returns the number of the new entry.

    Nothing keeps out what they took down, once the next run has it. Older versions that do not
    heed them cannot be restored any more. Raises TableError if none is gone; ValueError without a
    reason; StorageError.
    """
    if not reason.strip():
        raise ValueError("expected a reason")
    location = open_location(uri, storage or StorageConfig())
    return restart_list(location, reason)


def lift(uri: str, number: int, reason: str, storage: StorageConfig | None = None) -> int:
    """Let later versions have what takedown `number` keeps out; returns the number of the entry.

    Nothing comes back by itself: a rollback to a version that has the rows brings them, and so does
    the next run. Raises TableError if there is no such takedown; ValueError without a reason;
    StorageError.
    """
    if not reason.strip():
        raise ValueError("expected a reason")
    location = open_location(uri, storage or StorageConfig())
    return put_on_list(location, lifts=number, reason=reason)


def _next_version(
    uri: str,
    storage: StorageConfig | None,
    commit: Callable[[DeltaLog], None],
    kind: str,
    target: int | None,
) -> int:
    """Commit to the table, opened anew each time, until the version after it is what was meant."""
    location = open_location(uri, storage or StorageConfig())
    for _ in range(CHANCES):
        log = open_whole(location) or the_log(location)
        commit(log)
        if log.version == target:
            return log.version
        after = open_log(location)
        if after is not None and after.version > log.version:
            made = after.commit(log.version + 1)
            if made and (made.kind, made.target, made.table) == (kind, target, log.id):
                return log.version + 1
    raise changes_too_often(location)


def vacuum(uri: str, retention: timedelta, storage: StorageConfig | None = None) -> int:
    """Delete files that no version of the last `retention` has, and runs nobody needs.

    Returns the number of deleted files of the table. What a job is writing is not touched, unless
    `retention`, in whole hours, is 0: what it publishes is then undone. Raises TableError if the
    table is another program's.
    """
    location = open_location(uri, storage or StorageConfig())
    hours, deleted = math.ceil(retention.total_seconds() / 3600), list[str]()
    for _ in range(CHANCES):
        if (log := open_log(location)) is None:
            break
        refuse_other_table(log)
        with delta_errors(location), suppress(CommitFailedError):  # the table changed: look again
            deleted = log.delta.vacuum(
                hours, dry_run=False, enforce_retention_duration=False, full=True
            )
            open_whole(location)  # a rollback may have come that needs what was just deleted
            break
    else:
        raise changes_too_often(location)
    clean(location, retention)
    return len(deleted)


def clean(output: Location, retention: timedelta) -> None:
    """Delete plans and results that no record names, and runs that were superseded.

    A run is superseded if another one was published later, or planned later and this one never
    published. Whatever was written within `retention` stays.
    """
    log = open_log(output)
    shown = None if log is None else log.decided_by(log.version)
    live = None if shown is None else shown.run
    newest = {record.run: record for record in records(output)}  # the last planned run first
    for run in (output / RUNS).folders():
        keeps = run in (live, next(iter(newest), None))
        for folder in (output / RUNS / run).folders():
            is_named = run in newest and newest[run].nonce == folder
            if not (keeps and is_named):
                _delete_old(output / RUNS / run / folder, retention)
        if not keeps and not any("/" in file for file in (output / RUNS / run).files()):
            (output / RUNS / run).delete()


def _delete_old(folder: Location, retention: timedelta) -> None:
    times = [_time_of(info) for info in folder.details().values() if info["type"] == "file"]
    if times and max(times) < datetime.now(UTC) - retention:
        logger.info("%s: deleted, no run needs it", folder)
        folder.delete()


def _time_of(info: Mapping[str, Any]) -> datetime:
    written = info.get("LastModified") or info["mtime"]
    return written if isinstance(written, datetime) else datetime.fromtimestamp(written, UTC)
