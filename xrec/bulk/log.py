"""The log of a published Delta table: what each version shows, and which commit decided it.

Every version is complete (xrec.bulk.publisher), and the newest is the published one. Each commit by
xrec records what it is (`Commit`), with a digest of the files that the version should have. If the
log lists other files, the table was deleted and made again while its publisher was suspended: the
version is not sound, readers refuse it, and the next command undoes it. Commits by other programs
are accepted as they are.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Literal

import deltalake
import deltalake.exceptions
import pyarrow as pa
from pydantic import ValidationError

from xrec.errors import (
    ArtifactNotFoundError,
    StorageError,
    StorageNotFoundError,
    TableError,
    first_line_of,
)
from xrec.storage import (
    Kind,
    Location,
    Manifest,
    Record,
    check_manifest,
    request_each,
)

logger = logging.getLogger("xrec")

FILES = pa.schema(
    [
        ("path", pa.string()),
        ("num_bytes", pa.int64()),
        ("num_rows", pa.int64()),
        ("min.bucket", pa.int32()),
        ("max.bucket", pa.int32()),
    ]
)
"""The columns that describe a version's files; files of other programs may have no bounds."""
LOG = "_delta_log"
_ENTRY = re.compile(r"\d{20}\.json")
_HINT = "_last_checkpoint"
READER_VERSION = 1
"""The Delta protocol's version for readers, without deletion vectors or column mapping."""
COMMIT_KEY = "xrec"
"""The key of the `Commit` (as JSON) in the metadata of a Delta commit."""
_NAMES = ("path", "size_bytes", "num_records", "min.bucket", "max.bucket")
"""deltalake's names for the columns of `FILES`."""


class Shown(Record):
    """The publish whose rows a version shows, without the rows taken down since.

    run, nonce, pass_number: the run, plan and pass whose rows were published.
    manifest: the manifest of what is left. counts: for each of its row counts that a takedown
        changes, the field of the run's summary behind it.
    takedowns: number of the last takedown that the publish honored. left_out: takedowns that kept
        rows out of its plan. num_gone: number of rows removed by the publish or since.
    """

    run: str
    nonce: str
    pass_number: int
    manifest: Manifest
    counts: dict[str, str]
    takedowns: int
    left_out: tuple[int, ...]
    num_gone: int


class Commit(Record):
    """What a commit by xrec records; another program's RESTORE counts as a rollback.

    table: ID of the table that it was made for; empty in the commit that creates the table.
    live: digest of the files that the version should have; empty for a RESTORE.
    target: version that an undo or a rollback restored; -1 if the table was empty.
    takedowns: number of the last takedown that the version honors.
    num_gone: number of rows that this commit removed for takedowns.
    shown: what the version shows; None if no rows are published.
    """

    kind: Literal["publish", "undo", "rollback", "empty", "takedown"]
    table: str
    live: str
    target: int | None = None
    takedowns: int = 0
    num_gone: int = 0
    shown: Shown | None = None


class DeltaLog:
    """The table at `location`, whose newest version was `version` when it was opened.

    id: identifies the table; a table that was deleted and made again has a different ID.
    """

    def __init__(self, location: Location, delta: deltalake.DeltaTable):
        self.location = location
        self.version: int = delta.version()
        self.id: str = str(delta.metadata().id)
        self.delta = delta
        self.info = lru_cache(None)(self._info)
        self.commit = lru_cache(None)(self._commit)
        self.files = lru_cache(None)(self._files)

    def _info(self, version: int) -> dict[str, Any]:
        """Return the `commitInfo` of a version, whichever program wrote it.

        Raises TableError if the log entry is missing or unreadable.
        """
        file = self._entry(version)
        try:
            actions = [json.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
            infos = (action["commitInfo"] for action in actions if "commitInfo" in action)
            return dict(next(infos, {}))
        except (StorageNotFoundError, ValueError, TypeError, RecursionError) as error:
            raise _broken(self.location, file.name, error) from error

    def _commit(self, version: int) -> Commit | None:
        """Return the commit of a version; None for another program's unless it is a RESTORE."""
        info = self.info(version)
        if (text := info.get(COMMIT_KEY)) is not None:
            try:
                return Commit.model_validate_json(str(text))
            except ValidationError as error:
                raise _broken(self.location, self._entry(version).name, error) from error
        if info.get("operation") != "RESTORE":
            return None
        live = digest_of(self.files(version))  # it names its target by number or by time
        earlier = range(version - 1, -1, -1)
        target = next((n for n in earlier if digest_of(self.files(n)) == live), None)
        if target is None:
            return None
        return Commit(kind="rollback", table="", live="", target=target)

    def _entry(self, version: int) -> Location:
        return self.location / LOG / f"{version:020d}.json"

    def _files(self, version: int) -> pa.Table:
        """Return the files of a version in the columns of `FILES`, sorted by bucket and path."""
        actions = pa.table(self._delta_at(version).get_add_actions(flatten=True))
        columns = [
            actions[name].cast(field.type)
            if name in actions.column_names
            else pa.nulls(actions.num_rows, field.type)
            for name, field in zip(_NAMES, FILES, strict=True)
        ]
        files = pa.table(columns, schema=FILES)
        return files.sort_by([("min.bucket", "ascending"), ("path", "ascending")])

    def schema(self, version: int) -> pa.Schema:
        """Return the columns of a version."""
        return pa.schema(self._delta_at(version).schema().to_arrow())

    def _delta_at(self, version: int) -> deltalake.DeltaTable:
        with delta_errors(self.location):
            return self.delta if version == self.version else _load(self.location, version)

    def manifest(self) -> Manifest:
        """Return the manifest of what the newest version shows, with the version's number.

        Raises ArtifactNotFoundError if it shows nothing, TableError if it is not sound.
        """
        if (shown := self.shown(self.version)) is None:
            _, commit = self._origin(self.version)
            why = "it was emptied" if commit and commit.kind == "empty" else "nothing is published"
            raise ArtifactNotFoundError(
                f"{self.location}: {why}; run its job first, or check the URI",
                code="nothing_published",
                saw=commit and commit.kind,
                key=str(self.location),
            )
        self.check_sound()
        return shown.manifest.model_copy(update={"version": self.version})

    def check_sound(self) -> None:
        """Raise TableError unless the newest version has the files that its writer recorded."""
        if not self.is_sound(self.version):
            raise TableError(
                f"{self.location}: version {self.version} has other files than its writer "
                "recorded, because the table was deleted while its job ran; run the job again, "
                "which restores the previous version",
                code="not_sound",
                key=str(self.location),
                saw=self.version,
            )

    def _origin(self, version: int) -> tuple[int, Commit | None]:
        """Return the number and the commit of the version by xrec that a version's rows are from.

        That is the version itself, or the last one before other programs changed it. A RESTORE
        leads to its target.
        """
        while version >= 0:
            commit = self.commit(version)
            if commit is not None and commit.live:
                return version, commit
            version = version - 1 if commit is None or commit.target is None else commit.target
        return -1, None

    def shown(self, version: int) -> Shown | None:
        """Return the publish whose rows a version shows, or None."""
        _, commit = self._origin(version)
        return None if commit is None else commit.shown

    def is_sound(self, version: int) -> bool:
        """Return whether the version has the files that the newest commit by xrec recorded."""
        number, commit = self._origin(version)
        if commit is None:
            return True
        is_of_table = commit.table == (self.id if number else "")
        return is_of_table and digest_of(self.files(number)) == commit.live

    def is_whole(self, version: int) -> bool:
        """Return whether the version is sound and all of its files exist."""
        return self.is_sound(version) and not missing_files(self.location, self.files(version))

    def takedowns(self, version: int) -> int:
        """Return the number of the last takedown that the version honors; 0 if there is none."""
        _, commit = self._origin(version)
        return 0 if commit is None else commit.takedowns

    @property
    def num_takedowns(self) -> int:
        """A lower bound on the number of takedowns that existed when the newest version was made.

        That version may honor fewer: another program's RESTORE does not know about takedowns.
        """
        for version in range(self.version, -1, -1):
            commit = self.commit(version)
            if commit is not None and commit.live and commit.table == (self.id if version else ""):
                return commit.takedowns
        return 0

    def deciding(self) -> Iterator[tuple[int, Commit]]:
        """Yield the publishes, rollbacks and emptyings that were not undone, newest first.

        Takedowns are skipped, because they only remove rows.
        """
        version = self.version
        while version >= 0:
            commit = self.commit(version)
            if commit is not None and commit.kind == "undo":
                # An undo that is not sound was made for another table, so it undid nothing.
                assert commit.target is not None
                version = commit.target if self.is_sound(version) else version - 1
                continue
            if commit is not None and commit.kind != "takedown":
                yield version, commit
            version -= 1

    def history(self) -> Iterator[Manifest]:
        """Yield the manifests of the published runs that were not taken back, newest first."""
        least = self.version
        for version, commit in self.deciding():
            if version <= least and commit.kind == "publish" and commit.shown is not None:
                yield commit.shown.manifest
            elif version <= least and commit.target is not None:
                least = commit.target


def open_log(location: Location, version: int | None = None) -> DeltaLog | None:
    """Open the log of the table at `location`; return None if there is no table.

    version: the version to treat as the newest. Raises TableError if the log cannot be read or has
    no such version, and StorageError if the store fails.
    """
    if not (location / LOG).exists():
        return None
    with delta_errors(location), suppress(deltalake.exceptions.TableNotFoundError):
        delta = _load(location, None)
        if (seen := delta.protocol().min_reader_version) != READER_VERSION:
            raise TableError(
                f"{location}: another program turned on a feature of Delta tables that this xrec "
                f"cannot read, such as deletion vectors: expected reader version {READER_VERSION}, "
                f"saw {seen}; read the table with another program, and give another output URI",
                code="unknown_feature",
                key="minReaderVersion",
                saw=seen,
            )
        if version is not None and not 0 <= version <= delta.version():
            raise TableError(
                f"{location}: no version {version}; the table has versions 0 to {delta.version()}",
                code="no_version",
                key=str(location),
                saw=version,
            )
        return DeltaLog(location, delta if version is None else _load(location, version))
    return None  # the log has a folder, but no entry yet


def newest_entry(location: Location) -> str:
    """Return what names the newest version: its log entry with size and ETag or time; "" if none.

    This takes one listing, and reads no entry.
    """
    entries = (location / LOG).stamps().items()
    return " ".join(max((entry for entry in entries if _ENTRY.fullmatch(entry[0])), default=()))


def the_log(location: Location, version: int | None = None) -> DeltaLog:
    """Open the log as `open_log` does; raise ArtifactNotFoundError if there is no table."""
    if (log := open_log(location, version)) is None:
        raise ArtifactNotFoundError(
            f"{location}: no table, so nothing was published; run its job first, or check the URI",
            code="no_table",
            key=str(location),
        )
    return log


def read_published(location: Location, kind: Kind) -> Manifest:
    """Return the manifest of a table's newest version.

    Raises the same errors as `DeltaLog.manifest`, and those of `check_manifest`.
    """
    return check_manifest(location, the_log(location).manifest(), kind)


def find_published(location: Location, kind: Kind) -> Manifest | None:
    """Return the manifest as `read_published` does, or None if nothing is published."""
    try:
        return read_published(location, kind)
    except ArtifactNotFoundError:
        return None


@contextmanager
def delta_errors(location: Location) -> Iterator[None]:
    """Turn deltalake's errors into errors of xrec.errors that name the URI."""
    try:
        yield
    except deltalake.exceptions.DeltaError as error:
        raise _broken(location, str(location), error) from error
    except OSError as error:
        raise StorageError(
            f"{location}: {first_line_of(error)}", code="store_failed", key=str(location)
        ) from error


def _broken(location: Location, key: str, why: Exception) -> TableError:
    return TableError(
        f"{location}: the Delta log cannot be used ({key}: {first_line_of(why)}); restore it "
        "from a copy, or give another output URI",
        code="broken_log",
        key=key,
    )


def _load(location: Location, version: int | None) -> deltalake.DeltaTable:
    uri, options = location.uri, location.delta_options()
    try:
        return deltalake.DeltaTable(uri, version=version, storage_options=options)
    except deltalake.exceptions.DeltaError as error:
        if _HINT not in str(error):
            raise
        # The hint names a checkpoint that does not exist. Without it, deltalake lists the log.
        hint = location / LOG / _HINT
        logger.warning("deleted %s, which names a checkpoint that does not exist", hint)
        with suppress(StorageNotFoundError):  # another command deleted it
            hint.delete()
        return deltalake.DeltaTable(uri, version=version, storage_options=options)


def missing_files(location: Location, files: pa.Table) -> list[str]:
    """Return the paths of files that do not exist or whose size is not `num_bytes`.

    A listing may be stale, as on NFS, so files that do not match it are looked up by name.
    """
    listed = location.sizes()
    unlisted = [
        file
        for file in files.select(["path", "num_bytes"]).to_pylist()
        if "/" not in file["path"] and listed.get(file["path"]) != file["num_bytes"]
    ]
    sizes = request_each(lambda file: (location / file["path"]).size(), unlisted)
    checked = zip(unlisted, sizes, strict=True)
    return [file["path"] for file, size in checked if size != file["num_bytes"]]


def digest_of(files: pa.Table) -> str:
    """Return 16 hex digits of a hash of the files' paths and sizes, regardless of their order."""
    lines = sorted(f"{row['path']} {row['num_bytes']}" for row in files.to_pylist())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
