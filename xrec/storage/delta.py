"""The log of a published Delta table: which version readers take, and from which commit its rows
are.

A table holds whole versions only (xrec.bulk.publish writes them), and its newest version is the
published one. Each commit of xrec says in the log what it is (`Commit`), with a digest of the files
that the table was to have. If the files that the log gives are others, a publisher had slept while
the table was deleted and made again: the version is not sound, readers refuse it, and the next
command undoes it. Commits of other programs are taken as they are.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

import deltalake
import deltalake.exceptions
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction
from pydantic import Field, ValidationError

from xrec.errors import (
    ArtifactNotFoundError,
    DataError,
    StorageError,
    StorageNotFoundError,
    TableError,
)
from xrec.storage.artifact import Manifest, Record
from xrec.storage.location import Location, request_each, storage_errors
from xrec.storage.parquet import read_footer

logger = logging.getLogger("xrec")

LOG = "_delta_log"
_HINT = "_last_checkpoint"
_FILE_COLUMNS: tuple[tuple[str, str, Any], ...] = (  # deltalake's name, ours, type
    ("path", "path", pa.string()),
    ("size_bytes", "num_bytes", pa.int64()),
    ("num_records", "num_rows", pa.int64()),
    ("min.bucket", "min.bucket", pa.int32()),
    ("max.bucket", "max.bucket", pa.int32()),
)
FILES = pa.schema([(name, type_) for _, name, type_ in _FILE_COLUMNS])
"""The columns of `DeltaLog.files`."""
FEW_AT_ONCE: Mapping[str, int] = {
    "batch_size": 2**14,
    "batch_readahead": 2,
    "fragment_readahead": 1,
}
"""How a dataset is streamed. By default Arrow reads 64 batches of 131,072 rows ahead."""
COMMIT_KEY = "xrec"
"""Where a commit's metadata has the `Commit`, as JSON."""


class Commit(Record):
    """What a commit of xrec says of itself; another program's RESTORE is taken for a rollback.

    table: the id of the table that it was made for; empty in the commit that makes the table.
    live: the digest (`digest_of`) of the files that the table has after it; empty of a RESTORE.
    run, nonce, pass_number: whose rows were published. target: the version that an undo or a
    rollback restored; -1 if the table was empty. manifest: of a publish, and of what is left of one
    after rows were taken down. takedowns: the last entry of the list of takedowns that it heeds.
    num_gone: rows that it lacks for that. left_out: the takedowns that kept rows out of the plan of
    what was published. counts: which field of a run's summary each of the
    manifest's row counts is, except for those that a takedown does not change.
    """

    kind: Literal["publish", "undo", "rollback", "empty", "takedown"]
    table: str
    live: str
    run: str = ""
    nonce: str = ""
    pass_number: int = 0
    target: int | None = None
    manifest: Manifest | None = None
    takedowns: int = 0
    num_gone: int = 0
    left_out: tuple[int, ...] = ()
    counts: dict[str, str] = Field(default_factory=dict)

    def properties(self) -> deltalake.CommitProperties:
        """What deltalake gets: this commit takes the next version or none."""
        return deltalake.CommitProperties(
            custom_metadata={COMMIT_KEY: self.model_dump_json()}, max_commit_retries=0
        )


class DeltaLog:
    """The table at `location`, whose newest version was `version` when it was opened.

    id: of the table: a table that was deleted and made again has another one.
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
        """What the log says of a commit (Delta's `commitInfo`), of whichever program.

        Raises TableError if someone deleted it.
        """
        file = self._entry(version)
        try:
            data = file.read_bytes()
        except StorageNotFoundError as error:
            raise TableError(
                f"{self.location}: the Delta log cannot be used: {file} is missing, so what the "
                "table is meant to have is not known",
                code="broken_log",
                key=file.name,
            ) from error
        try:
            actions = [json.loads(line) for line in data.splitlines() if line.strip()]
            found = (each["commitInfo"] for each in actions if "commitInfo" in each)
            return dict(next(found, {}))
        except (ValueError, TypeError, RecursionError) as error:
            raise self._broken(file, error) from error

    def _commit(self, version: int) -> Commit | None:
        """The commit of a version; None if another program wrote it, and it is no RESTORE."""
        info = self.info(version)
        if (said := info.get(COMMIT_KEY)) is not None:
            try:
                return Commit.model_validate_json(str(said))
            except ValidationError as error:
                raise self._broken(self._entry(version), error) from error
        if info.get("operation") != "RESTORE":
            return None
        target = self._restored(version, info.get("operationParameters") or {})
        if target is None:
            return None
        return Commit(kind="rollback", table="", live="", target=target)

    def _entry(self, version: int) -> Location:
        return self.location / LOG / f"{version:020d}.json"

    def _broken(self, file: Location, why: Exception) -> TableError:
        first = str(why).partition("\n")[0]
        return TableError(
            f"{self.location}: the Delta log cannot be used: {file} is not an entry that this xrec "
            f"reads ({first}); restore it from a copy, or give another output URI",
            code="broken_log",
            key=file.name,
        )

    def _restored(self, version: int, parameters: Mapping[str, Any]) -> int | None:
        """The version that a RESTORE brought back, which says its number, or a time."""
        if (said := str(parameters.get("version"))).isdigit():
            return int(said)
        live = digest_of(self.files(version))
        before = range(version - 1, -1, -1)
        return next((each for each in before if digest_of(self.files(each)) == live), None)

    def _files(self, version: int) -> pa.Table:
        """The files of a version: path, num_bytes, num_rows, min.bucket and max.bucket; sorted."""
        with delta_errors(self.location):
            delta = self.delta if version == self.version else _load(self.location, version)
        actions = pa.table(delta.get_add_actions(flatten=True))
        columns = {
            name: actions[there].cast(type_)
            if there in actions.column_names
            else pa.nulls(actions.num_rows, type_)  # the log says nothing
            for there, name, type_ in _FILE_COLUMNS
        }
        return pa.table(columns).sort_by([("min.bucket", "ascending"), ("path", "ascending")])

    def decided_by(self, version: int) -> Commit | None:
        """The publish or emptying whose rows the version shows; None if there is none.

        Where rows of it were taken down, it is the commit that says what is left.
        """
        decided = (commit for _, commit in self._shown_by(version))
        says = (each for each in decided if each.manifest or each.kind in ("publish", "empty"))
        return next(says, None)

    def published_by(self, version: int) -> Commit | None:
        """The publish that made the rows of the version; None if it shows none, or is emptied."""
        decided = (commit for _, commit in self._shown_by(version))
        made = next((each for each in decided if each.kind in ("publish", "empty")), None)
        return None if made is None or made.kind == "empty" else made

    def is_sound(self, version: int) -> bool:
        """Whether the version has the files that the newest commit of xrec meant it to have."""
        by, commit = self._meant_by(version)
        if commit is None:
            return True
        is_of_table = commit.table == (self.id if by else "")
        return is_of_table and digest_of(self.files(by)) == commit.live

    def is_whole(self, version: int) -> bool:
        """Whether the version is sound, and all of its files are there."""
        return self.is_sound(version) and not self.missing_files(version)

    def takedowns(self, version: int) -> int:
        """The last entry of the list of takedowns that the version heeds; 0 if it heeds none."""
        commit = self._meant_by(version)[1]
        return 0 if commit is None else commit.takedowns

    @property
    def num_takedowns(self) -> int:
        """How long the list of takedowns was, at least, when the newest version was made.

        The newest version itself may heed fewer: another program's RESTORE knows of no list.
        """
        for version in range(self.version, -1, -1):
            commit = self.commit(version)
            if commit is not None and commit.live and commit.table == (self.id if version else ""):
                return commit.takedowns
        return 0

    def _meant_by(self, version: int) -> tuple[int, Commit | None]:
        """The newest commit of xrec that said which files the version is to have."""
        said = ((number, commit) for number, commit in self._shown_by(version) if commit.live)
        return next(said, (-1, None))

    def _shown_by(self, version: int) -> Iterator[tuple[int, Commit]]:
        """The commits of xrec whose rows the version shows, the newest first.

        Before an undo or a rollback comes the version that it restored.
        """
        while version >= 0:
            commit = self.commit(version)
            if commit is not None:
                yield version, commit
            version = version - 1 if commit is None or commit.target is None else commit.target

    def deciding(self) -> Iterator[tuple[int, Commit]]:
        """Yield the publishes, rollbacks and emptyings that were not undone, the newest first.

        A takedown removes rows and decides nothing.
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

    def missing_files(self, version: int) -> list[str]:
        """Files of the version that are not there, or have another size."""
        files = self.files(version).select(["path", "num_bytes"]).to_pylist()
        return missing_files(self.location, files)

    def wrong_bounds(self, version: int) -> list[str]:
        """Files of the version that have buckets outside the bounds that the log gives.

        Readers skip such a file when they look for one of these buckets. It takes one request for
        each file, of its footer, which other programs write correctly. A file whose footer cannot
        be read is in the list too.
        """
        files = [each for each in self.files(version).to_pylist() if "/" not in each["path"]]
        return [path for path, is_wrong in request_each(self._is_wrong, files) if is_wrong]

    def _is_wrong(self, file: Mapping[str, Any]) -> tuple[str, bool]:
        path, least, greatest = (file[name] for name in ("path", "min.bucket", "max.bucket"))
        try:
            footer = read_footer(self.location / path)
        except (pa.ArrowException, OSError):
            return path, True
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        columns = (group.column(place) for group in groups for place in range(group.num_columns))
        found = [each.statistics for each in columns if each.path_in_schema == "bucket"]
        known = [each for each in found if each is not None and each.has_min_max]
        return path, least is not None and any(
            each.min < least or each.max > greatest for each in known
        )


def missing_files(location: Location, files: Iterable[Mapping[str, Any]]) -> list[str]:
    """Those of a table's files that are not there, or have another size than `num_bytes`.

    A listing may be stale, as on NFS, so the store is asked by name for each file that it lacks.
    """
    there = location.sizes()
    doubted = [
        each
        for each in files
        if "/" not in each["path"] and there.get(each["path"]) != each["num_bytes"]
    ]
    sizes = request_each(lambda each: (location / each["path"]).size(), doubted)
    found = zip(doubted, sizes, strict=True)
    return [each["path"] for each, size in found if size != each["num_bytes"]]


def open_log(location: Location, version: int | None = None) -> DeltaLog | None:
    """The log of the table at `location`; None if there is no table.

    version: looked at as if it were the newest one. Raises TableError if the log cannot be read, or
    has no such version; StorageError.
    """
    if not (location / LOG).exists():
        return None
    with delta_errors(location), suppress(deltalake.exceptions.TableNotFoundError):
        delta = _load(location, None)
        if delta.protocol().min_reader_version > 1:
            raise TableError(
                f"{location}: another program turned on a feature of Delta tables that this xrec "
                "does not read, such as deletion vectors: expected reader version 1, saw "
                f"{delta.protocol().min_reader_version}; read it by a program that knows them, and "
                "give another output URI",
                code="unknown_feature",
                key="minReaderVersion",
                saw=delta.protocol().min_reader_version,
            )
        if version is not None and not 0 <= version <= delta.version():
            raise TableError(
                f"{location}: version {version} is not there; the table has 0 to {delta.version()}",
                code="no_version",
                key=str(location),
                saw=version,
            )
        return DeltaLog(location, delta if version is None else _load(location, version))
    return None  # its folder is there, and no entry yet


def the_log(location: Location, version: int | None = None) -> DeltaLog:
    """As `open_log`; raises ArtifactNotFoundError if there is no table."""
    if (log := open_log(location, version)) is None:
        raise ArtifactNotFoundError(
            f"{location}: nothing was published there, as there is no table; run its job first, or "
            "check the URI",
            code="no_table",
            key=str(location),
        )
    return log


def manifest_of_log(log: DeltaLog) -> Manifest:
    """The manifest of what the version shows that was opened, whose number it has.

    Raises ArtifactNotFoundError if that is nothing, TableError if the version is not sound.
    """
    commit = log.decided_by(log.version)
    if commit is None or commit.manifest is None:
        why = "xrec published nothing there" if commit is None else "it was emptied"
        raise ArtifactNotFoundError(
            f"{log.location}: {why}; run its job first, or check the URI",
            code="nothing_published",
            saw=commit and commit.kind,
            key=str(log.location),
        )
    check_sound(log)
    return commit.manifest.model_copy(update={"version": log.version})


def check_sound(log: DeltaLog) -> None:
    """Raise TableError unless the newest version has the files that its writer meant."""
    if not log.is_sound(log.version):
        raise TableError(
            f"{log.location}: version {log.version} has other files than its writer meant it to "
            "have: the table was deleted while its job ran. Run the job again, which goes back to "
            "the version before",
            code="not_sound",
            key=str(log.location),
            saw=log.version,
        )


def dataset_of(
    log: DeltaLog, version: int, schema: pa.Schema, *, status: str | None = None
) -> pads.Dataset:
    """The rows of a version, with the columns of `schema`; files are skipped by their buckets.

    status: only these rows; `schema` must then have the column.
    """
    files, bucket, bounds = log.files(version).to_pylist(), pads.field("bucket"), []
    sizes = {file["path"]: file["num_bytes"] for file in files}
    for file in files:
        least, greatest = file["min.bucket"], file["max.bucket"]
        is_known = least is not None and "bucket" in schema.names
        bounds.append((bucket >= least) & (bucket <= greatest) if is_known else pc.scalar(True))
    dataset = files_of(log.location, sizes, schema, bounds)
    return dataset if status is None else dataset.filter(pads.field("status") == status)


def files_of(
    location: Location,
    sizes: dict[str, int],
    schema: pa.Schema,
    bounds: list[pc.Expression] | None = None,
) -> pads.Dataset:
    """The rows of Parquet files by their names and sizes; `bounds` says what may be in each."""
    return pads.FileSystemDataset.from_paths(
        list(sizes),
        schema=schema,
        format=pads.ParquetFileFormat(),
        filesystem=_filesystem(location, sizes),
        partitions=bounds,
    )


def _filesystem(location: Location, sizes: dict[str, int]) -> pyarrow.fs.FileSystem:
    """Where the files are. On S3 it is deltalake's, which reads what it is asked for; fsspec's
    reads megabytes ahead.
    """
    options = location.delta_options()
    if options is None:
        return pyarrow.fs.SubTreeFileSystem(location.path, location.arrow_filesystem())
    return pyarrow.fs.PyFileSystem(DeltaStorageHandler(location.shared_uri, options, sizes))


def add_action(file: Mapping[str, Any]) -> AddAction:
    """What adds a file to a table; `file` is a row of `DeltaLog.files`."""
    stats: dict[str, Any] = {"numRecords": file["num_rows"]}
    if file["min.bucket"] is not None:
        bounds = (("minValues", "min.bucket"), ("maxValues", "max.bucket"))
        stats |= {name: {"bucket": file[there]} for name, there in bounds}
        stats["nullCount"] = {"bucket": 0}
    now = int(time.time() * 1000)
    return AddAction(file["path"], file["num_bytes"], {}, now, True, json.dumps(stats))


def commit_files(log: DeltaLog, version: int, files: pa.Table, commit: Commit) -> None:
    """Let the next version have these files, and the columns of `version`, unless it is there.

    deltalake replaces all files or none, and names those that stay among the removed ones too, so
    this entry of the log is written here.
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
        gone = {"deletionTimestamp": now, "dataChange": True, "size": before[path]["num_bytes"]}
        actions.append({"remove": {"path": quote(path), **gone, "partitionValues": {}}})
    for path in sorted(after.keys() - before.keys()):
        new = add_action(after[path])
        made = {"size": new.size, "modificationTime": now, "dataChange": True, "stats": new.stats}
        actions.append({"add": {"path": quote(path), **made, "partitionValues": {}}})
    data = "".join(f"{json.dumps(action)}\n" for action in actions)
    (log.location / LOG / f"{log.version + 1:020d}.json").create_bytes(data.encode())


def _metadata(location: Location, version: int) -> dict[str, Any]:
    """The columns and settings of a version, as the log has them."""
    with delta_errors(location):
        delta = _load(location, version)
        said = delta.metadata()
        columns = delta.schema().to_json()
    return {
        "id": str(said.id),
        "name": said.name,
        "description": said.description,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": columns,
        "partitionColumns": said.partition_columns,
        "createdTime": said.created_time,
        "configuration": said.configuration,
    }


def digest_of(files: pa.Table) -> str:
    """16 hex digits of a hash of the files' paths and sizes; their order does not count."""
    lines = sorted(f"{row['path']} {row['num_bytes']}" for row in files.to_pylist())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@contextmanager
def delta_errors(location: Location) -> Iterator[None]:
    """Turn deltalake's errors into those of xrec.errors, and name the URI."""
    try:
        yield
    except deltalake.exceptions.DeltaError as error:
        why = str(error).partition("\n")[0] + "; mend it from a copy, or give another output URI"
        raise TableError(
            f"{location}: the Delta log cannot be used: {why}", code="broken_log", key=str(location)
        ) from error
    except OSError as error:
        raise StorageError(
            f"{location}: {error}", code="store_failed", key=str(location)
        ) from error


@contextmanager
def file_errors(location: Location) -> Iterator[None]:
    """Turn the errors of reading the table's files into those of xrec.errors, and name the URI."""
    with storage_errors(location.uri):
        try:
            yield
        except pa.ArrowException as error:
            raise DataError(
                f"{location}: a file of the table cannot be read ({error}); go back to the version "
                "before (xrec table rollback), or run the job again",
                code="broken_file",
                key=str(location),
            ) from error


def _load(location: Location, version: int | None) -> deltalake.DeltaTable:
    uri, options = location.shared_uri, location.delta_options()
    try:
        return deltalake.DeltaTable(uri, version=version, storage_options=options)
    except deltalake.exceptions.DeltaError as error:
        if _HINT not in str(error):
            raise
        # It names a checkpoint that is gone. It is only a hint; without it the log is listed.
        hint = location / LOG / _HINT
        logger.warning("%s: deleted, as it names a checkpoint that is not there", hint)
        with suppress(StorageNotFoundError):  # another command was faster
            hint.delete()
        return deltalake.DeltaTable(uri, version=version, storage_options=options)
