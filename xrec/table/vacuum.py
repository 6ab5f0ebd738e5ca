"""Which files of a table, and which entries of its log, nobody needs any more; their deletion.

Why no commit can add a file that this deletes: a file goes only if it was older than `YOUNG` when
the vacuum's own commit landed, and neither that version nor a kept one has it. A commit that lands
later began its checks later, and it refuses files older than `OLDEST_ADD`, which is less than
`YOUNG`. This holds even if the process that vacuums sleeps for days and goes on.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from xrec.errors import StorageNotFoundError, TableError
from xrec.storage import Location, request_each
from xrec.table.data_file import OLDEST_ADD
from xrec.table.format import TableFormat
from xrec.table.log import Log

YOUNG = timedelta(hours=24)
"""Younger files are never deleted: an attempt in flight may have written them."""

assert OLDEST_ADD < YOUNG, "the difference allows for the time that a commit takes, and for clocks"


@dataclass(frozen=True)
class Vacuumed:
    """How many files, and how many versions of the log, were deleted."""

    num_files: int
    num_versions: int


def delete_unneeded(
    log: Log,
    format: TableFormat,
    fence: int,
    live: set[str],
    pinned: Mapping[int, set[str]],
    retention: timedelta,
    log_retention: timedelta,
) -> Vacuumed:
    """Delete what nobody needs: see `Writer.vacuum`.

    fence: the version of the vacuum's own commit, `live` the paths of its files.
    pinned: the paths of the files of each pinned version.
    """
    now = log.entry(fence).modified_at()  # by the store's clock, as are the files' times
    oldest_kept = _version_at(log, fence, now - retention)
    keep = live.union(*pinned.values(), _removed_after(log, oldest_kept, fence))
    num_files = _delete_files(log.table, format, keep, now - YOUNG)
    first_in_log = min([_version_at(log, fence, now - log_retention), *pinned])
    checkpoints = [version for version in log.checkpoints() if version <= first_in_log]
    num_versions = log.delete_before(checkpoints[-1]) if checkpoints else 0
    return Vacuumed(num_files, num_versions)


def _version_at(log: Log, newest: int, moment: datetime) -> int:
    """The version that was the newest at `moment`, or the oldest in the log if it is younger."""
    versions = [version for version in log.versions() if version <= newest]
    low, high = 0, len(versions) - 1  # the answer's place is in [low, high]
    while low < high:
        middle = (low + high + 1) // 2
        if log.entry(versions[middle]).modified_at() <= moment:
            low = middle
        else:
            high = middle - 1
    return versions[low]


def _removed_after(log: Log, version: int, newest: int) -> set[str]:
    """The paths that the commits after `version` removed, up to `newest`."""
    removed: set[str] = set()
    try:
        for _, actions in request_each(log.read, range(version + 1, newest + 1)):
            removed.update(action["remove"]["path"] for action in actions if "remove" in action)
    except StorageNotFoundError as error:
        raise TableError(
            f"{log.table}: the log has gaps between versions {version} and {newest}, so vacuum "
            f"cannot tell which files are needed and deletes none: {error}"
        ) from error
    return removed


def _delete_files(table: Location, format: TableFormat, keep: set[str], before: datetime) -> int:
    """Delete data files that are not in `keep` and were written before; returns how many."""
    ours = data_file_pattern(format)
    unneeded = [name for name in table.files() if ours.fullmatch(name) and name not in keep]
    return sum(request_each(lambda name: _delete_if_older(table / name, before), unneeded))


def _delete_if_older(file: Location, moment: datetime) -> bool:
    try:
        if file.modified_at() >= moment:
            return False
    except StorageNotFoundError:
        return False
    file.delete()
    return True


def data_file_pattern(format: TableFormat) -> re.Pattern[str]:
    """The paths of data files, and of the unfinished ones that a killed writer leaves on a disk."""
    folder = "".join(f"{re.escape(name)}=[^/]+/" for name in format.partition_by)
    finished = r"[^/._][^/]*\.parquet"
    unfinished = r"\.[^/._][^/]*\.parquet\.[^/.]+"
    return re.compile(f"{folder}({finished}|{unfinished})")
