"""The driver's side of a table: commits, each of which only the table's holder can make."""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from xrec.config.shared import StorageConfig
from xrec.errors import (
    LostTableError,
    StaleRemovalError,
    StorageAccessError,
    StorageError,
    StorageNotFoundError,
    TableError,
    XRecError,
)
from xrec.storage import Location, request_each
from xrec.table.compaction import plan_pieces, write_piece
from xrec.table.data_file import CheckedFile, DataFile, check_file
from xrec.table.log import Action, Commit, Kind, Log
from xrec.table.pins import pinned_versions
from xrec.table.snapshot import Snapshot, delta_errors, load_snapshot, open_delta
from xrec.table.vacuum import Vacuumed, delete_unneeded

logger = logging.getLogger("xrec")

CHECKPOINT_INTERVAL = 100
"""At least so many versions are between two checkpoints."""
FILES_PER_COMMIT = 1000
"""A checkpoint takes time for each file, so there is one version more between two checkpoints for
so many files of the table: the time that it adds to a commit, on average, is bounded."""
_WAITS_SECONDS = (0.2, 1.0, 4.0)  # between attempts to create an entry; the S3 client retries too


class Writer:
    """What the holder of a table can do; `Table.take_over` makes one. Threads may share it.

    Once a commit ends in LostTableError, in a StorageError, or because another program committed,
    the writer is closed, and every later commit raises that error again. The commit then may or may
    not be in the table, and may even get there later; taking the table over tells.
    """

    def __init__(self, location: Location, storage: StorageConfig, snapshot: Snapshot):
        self.location = location
        self.format = snapshot.format
        self.version = snapshot.version
        self.epoch = snapshot.commit.epoch
        self.holder = snapshot.commit.holder
        self._storage = storage
        self._log = Log(location)
        self._rows_of = dict(
            zip(
                snapshot.files()["path"].to_pylist(),
                snapshot.files()["num_rows"].to_pylist(),
                strict=True,
            )
        )
        self._num_rows = sum(self._rows_of.values())
        self._checkpoint_version = self._log.newest_checkpoint()
        self._closed_by: XRecError | None = None
        self._lock = threading.RLock()

    @property
    def num_files(self) -> int:
        """The number of files at the writer's version."""
        return len(self._rows_of)

    @property
    def num_rows(self) -> int:
        """The number of rows at the writer's version."""
        return self._num_rows

    def snapshot(self) -> Snapshot:
        """The table at the writer's version."""
        return load_snapshot(self.location, self._storage, self.version)

    def commit(
        self,
        adds: Sequence[DataFile] = (),
        removes: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Add files and remove others in one commit; returns the new version.

        removes: paths of files that are in the table.
        metadata: JSON values; `Snapshot.metadata` and `Table.history` give them back.

        Raises StaleRemovalError if a path to be removed is not in the table, TableError if a file
        to be added is not there as stated, or is in the table already; the writer can go on after
        these. Raises LostTableError if another driver took the table over, TableError if another
        program committed to it, StorageError if the store fails for longer than a few seconds;
        these close the writer. Raises ValueError for metadata that JSON cannot express, such as
        NaN, and for a partition that the table has not.
        """
        return self._commit("write", adds, removes, metadata or {})

    def compact(
        self,
        *,
        group_by: str,
        sort_by: Sequence[str] = (),
        target_bytes: int = 128 * 2**20,
        metadata: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Rewrite small files as sorted larger ones, in one commit; returns its version.

        Rows are sorted by `group_by`, an integer column with statistics, and then by `sort_by`.
        Each value of `group_by` is one row group of one file of its partition, so that a reader who
        looks for it reads little. Files have about `target_bytes`, which also bounds the memory.
        Returns None, and commits nothing, if all files are so already.

        metadata: as in `commit`. Raises as `commit` does.
        """
        snapshot = self.snapshot()
        pieces = plan_pieces(snapshot, group_by, target_bytes)
        if not pieces:
            return None
        adds = [
            add
            for piece in pieces
            if (add := write_piece(self.location, snapshot, piece, group_by, sort_by)) is not None
        ]
        removes = list(dict.fromkeys(path for piece in pieces for path in piece.paths))
        return self._commit("compact", adds, removes, metadata or {})

    def vacuum(
        self,
        *,
        retention: timedelta = timedelta(days=7),
        log_retention: timedelta = timedelta(days=30),
        metadata: Mapping[str, Any] | None = None,
    ) -> Vacuumed:
        """Delete files and log entries that nobody needs any more.

        Kept are: the files of every version that was the newest within `retention`; the files of
        pinned versions; files younger than a day, which an attempt in flight may have written; all
        that is not named like a data file of this table, above all what lies below `_xrec/`. Of
        the log those entries are kept that versions within `log_retention` and pinned versions
        need. Older versions can no longer be opened.

        It begins with a commit of no files, which proves that this writer holds the table, and
        which has `metadata`: the entries that had it before may be deleted. Raises as `commit`
        does, and ValueError if a retention is shorter than an hour or the log's is shorter
        than the files'.
        """
        if not timedelta(hours=1) <= retention <= log_retention:
            raise ValueError(
                f"retention {retention}, log_retention {log_retention}: expected at least an hour, "
                "and the log's at least as long as that of files, whose removals it tells"
            )
        with self._lock:
            fence = self._commit("vacuum", (), (), metadata or {})
            live = set(self._rows_of)
        return delete_unneeded(
            self._log, self.format, fence, live, self._pinned_files(), retention, log_retention
        )

    def _pinned_files(self) -> dict[int, set[str]]:
        """The paths of the files of each pinned version."""
        return {
            version: set(
                load_snapshot(self.location, self._storage, version).files()["path"].to_pylist()
            )
            for version in pinned_versions(self.location)
        }

    def _commit(
        self,
        kind: Kind,
        adds: Sequence[DataFile],
        removes: Iterable[str],
        metadata: Mapping[str, Any],
    ) -> int:
        with self._lock:
            if self._closed_by is not None:
                raise self._closed_by
            gone = list(removes)
            self._check_removes(gone)
            new = self._check_adds(adds)
            data_change = kind != "compact"
            if not data_change:
                self._check_same_rows(new, gone)
            commit = Commit.new(self.epoch, self.holder, kind, metadata)
            actions = [
                *(_remove_action(path, commit.at_ms, data_change) for path in gone),
                *(file.to_action(data_change) for file in new),
            ]
            try:
                if not create_surely(self._log, self.version + 1, commit, actions):
                    raise self._why_lost()
            except (TableError, StorageError) as error:
                self._closed_by = error
                raise
            self.version += 1
            for path in gone:
                self._num_rows -= self._rows_of.pop(path)
            self._rows_of.update((file.file.path, file.num_rows) for file in new)
            self._num_rows += sum(file.num_rows for file in new)
            interval = max(CHECKPOINT_INTERVAL, self.num_files // FILES_PER_COMMIT)
            if self.version - self._checkpoint_version >= interval:
                self._checkpoint()
            return self.version

    def _check_adds(self, adds: Sequence[DataFile]) -> list[CheckedFile]:
        """See that all files are in the store as stated, each once, and none is in the table."""
        seen: set[str] = set()
        for file in adds:
            if file.path in self._rows_of or file.path in seen:
                raise TableError(f"{self.location}: file {file.path} would be in the table twice")
            seen.add(file.path)
        return list(request_each(lambda file: check_file(self.location, self.format, file), adds))

    def _check_removes(self, removes: Sequence[str]) -> None:
        stale = [path for path in removes if path not in self._rows_of]
        if stale or len(set(removes)) < len(removes):
            raise StaleRemovalError(
                f"{self.location}: a commit was to remove {len(removes)} files, of which "
                f"{len(stale)} are not in the table at version {self.version}"
                + (f", such as {stale[0]}" if stale else " but some are named twice")
                + ": an earlier commit or a compaction replaced them; look the rows up again"
            )

    def _check_same_rows(self, new: Sequence[CheckedFile], gone: Sequence[str]) -> None:
        """Refuse a compaction that would change the number of rows."""
        before, after = sum(self._rows_of[path] for path in gone), sum(f.num_rows for f in new)
        if before != after:
            raise TableError(
                f"{self.location}: a compaction read {before} rows and wrote {after}; nothing is "
                "committed"
            )

    def _why_lost(self) -> LostTableError:
        """Say who committed in our place; raises TableError if that was another program."""
        version = self._log.newest(self.version)
        if version is None:
            return LostTableError(f"{self.location}: the table was deleted")
        newest = self._log.commit(version)
        who = "another process with this very writer" if newest.epoch == self.epoch else "a driver"
        return LostTableError(
            f"{self.location}: {who}, {newest.holder}, committed version {version} at "
            f"{newest.committed_at:%Y-%m-%d %H:%M:%S} UTC; {self.holder} (take-over {self.epoch}, "
            f"version {self.version}) no longer holds the table (take-over {newest.epoch} does) "
            "and must stop"
        )

    def _checkpoint(self) -> None:
        """Write the state as one file, so that opening the table reads few entries."""
        self._checkpoint_version = self.version
        try:
            delta = open_delta(self.location, self._storage, self.version)
            with delta_errors(self.location):
                delta.create_checkpoint()
        except (TableError, StorageError) as error:
            # The commit is done. The next checkpoint makes up for this one.
            logger.warning("no checkpoint was written at version %d: %s", self.version, error)


def create_surely(log: Log, version: int, commit: Commit, actions: Sequence[Action]) -> bool:
    """Create the entry of `version`; returns True if the table has our commit there.

    An attempt whose answer is lost, or which fails, is made again: an entry is created once, and
    its id tells whether it is ours. Raises StorageError if the store fails for longer.
    """
    if not _create_with_retries(log, version, commit, actions):
        try:
            if log.commit(version).id != commit.id:
                return False
        except StorageNotFoundError:
            return False  # the entry was there and has been deleted since
    if version > 0 and not log.has(version - 1):
        # This process slept so long that the log was cut. If there is no next entry either, the
        # log was cut beyond `version`, and what was created here is no part of it any more.
        if not log.has(version + 1):
            log.entry(version).delete()
        return False
    return True


def _create_with_retries(log: Log, version: int, commit: Commit, actions: Sequence[Action]) -> bool:
    for wait_seconds in _WAITS_SECONDS:
        try:
            return log.create(version, commit, actions)
        except (StorageAccessError, StorageNotFoundError):
            raise
        except StorageError as error:
            logger.warning("version %d is tried again: %s", version, error)
            time.sleep(wait_seconds)
    return log.create(version, commit, actions)


def _remove_action(path: str, at_ms: int, data_change: bool) -> Action:
    return {"remove": {"path": path, "deletionTimestamp": at_ms, "dataChange": data_change}}
