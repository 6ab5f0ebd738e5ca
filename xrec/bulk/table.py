"""The published table: its versions read, each row once, and commits to it.

A commit replaces the content, restores an earlier version, undoes one, or leaves out rows that were
taken down. Each takes the next version or none, and says what it is (`xrec.storage.delta.Commit`).
Whether it is there is found out by who opens the log afterwards.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import deltalake
import deltalake.exceptions
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from deltalake.transaction import AddAction, create_table_with_add_actions

from xrec.bulk.parts import write_file
from xrec.bulk.runs.keys import bucket_of
from xrec.bulk.runs.result import Summary
from xrec.bulk.runs.row_format import FAILED, OK
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.config import StorageConfig
from xrec.errors import ArtifactMismatchError, StorageError, TableError
from xrec.storage import Location, Manifest, fingerprint_of, open_location
from xrec.storage.delta import (
    FEW_AT_ONCE,
    FILES,
    Commit,
    DeltaLog,
    commit_files,
    dataset_of,
    digest_of,
    file_errors,
    files_of,
    manifest_of_log,
    missing_files,
    open_log,
    the_log,
)

logger = logging.getLogger("xrec")

CHANCES = 20
"""How often a table that changes meanwhile is opened again."""
_LEAST_COLUMNS = pa.schema([("status", pa.string()), ("bucket", pa.int32())])
_NOTHING = digest_of(FILES.empty_table())
_DESCRIPTION = "published by xrec, layout 2"
_CONFIGURATION: Mapping[str, str | None] = {
    "delta.dataSkippingStatsColumns": "bucket",  # ids stay out of the log, which outlives files
    "delta.enableExpiredLogCleanup": "false",  # the log says what each version is
    "delta.logRetentionDuration": "interval 36500 days",  # also where another program cleans it up
}


def open_whole(output: Location) -> DeltaLog | None:
    """The table, once its newest version is whole and heeds the list of takedowns.

    One that is not whole is undone first, and rows that were taken down since are left out by the
    next version. None if there is no table, and nothing was taken down. Raises TableError if it is
    not one of xrec's, if it changes all the time, or if takedowns are gone.
    """
    for _ in range(CHANCES):
        log = open_log(output)
        taken = read_takedowns(output)  # after the table, or an entry in between is missed
        if log is None and not taken.active:
            return None
        if log is None:
            # Whoever read the list earlier cannot make the first version any more.
            commit = Commit(kind="takedown", table="", live=_NOTHING, takedowns=taken.number)
            replace_content(output, None, [], _LEAST_COLUMNS, commit)
            continue
        refuse_other_table(log)
        if not can_be_shown(log, log.version, taken):
            undo(log, taken)
        elif taken.after(log.takedowns(log.version)).active:
            logger.info("%s: version %d leaves out what was taken down", output, log.version + 1)
            restore(log, log.version, "takedown", taken)
        else:
            return log
    raise changes_too_often(output)


def can_be_shown(log: DeltaLog, version: int, taken: Takedowns) -> bool:
    """Whether a version is whole, and what was taken down since is known."""
    return log.is_whole(version) and taken.is_whole_after(log.takedowns(version))


def changes_too_often(output: Location) -> TableError:
    """What is raised if other programs commit all the time."""
    return TableError(
        f"{output}: the table changed {CHANCES} times meanwhile; run the command again when "
        "nothing else commits to it",
        code="table_changes",
        key=str(output),
        saw=CHANCES,
    )


def refuse_other_table(log: DeltaLog) -> None:
    """Raise TableError if xrec did not make the table, or made it in another layout."""
    if (there := log.delta.metadata().description) != _DESCRIPTION:
        raise TableError(
            f"{log.location}: holds a Delta table that this xrec does not publish to: expected the "
            f"description {_DESCRIPTION!r}, saw {there!r}; give another URI",
            code="another_table",
            key=str(log.location),
            saw=there,
        )


def replace_content(
    output: Location,
    log: DeltaLog | None,
    actions: list[AddAction],
    schema: pa.Schema,
    commit: Commit,
) -> None:
    """Let the next version have these files and no others, or make the table of them.

    Whether the version is there afterwards is not known: another program may have been first, or
    the answer may be lost.
    """
    delta_schema = deltalake.Schema.from_arrow(schema)
    with _may_be_late(output):
        if log is None:
            create_table_with_add_actions(
                output.shared_uri,
                delta_schema,
                actions,
                mode="error",
                description=_DESCRIPTION,
                configuration=_CONFIGURATION,
                storage_options=output.delta_options(),
                commit_properties=commit.properties(),
            )
        else:
            log.delta.create_write_transaction(
                list(actions),
                mode="overwrite",
                schema=delta_schema,
                commit_properties=commit.properties(),
            )


def deciding(log: DeltaLog) -> Iterator[tuple[int, Commit]]:
    """Version and commit of publishes, rollbacks and emptyings not undone, the newest first.

    A takedown leaves out rows, and decides nothing.
    """
    version = log.version
    while version >= 0:
        commit = log.commit(version)
        if commit is not None and commit.kind == "undo":
            # An undo that is not sound was made by a sleeper, in another table: it undid nothing.
            assert commit.target is not None
            version = commit.target if log.is_sound(version) else version - 1
            continue
        if commit is not None and commit.kind != "takedown":
            yield version, commit
        version -= 1


def undo(log: DeltaLog, taken: Takedowns) -> None:
    """Let the next version have the files of the newest one that can be shown.

    If there is none, it has no files.
    """
    for version in range(log.version - 1, -1, -1):
        if can_be_shown(log, version, taken):
            logger.warning(
                "%s: version %d is not what its writer meant; version %d is restored",
                log.location,
                log.version,
                version,
            )
            restore(log, version, "undo", taken)
            return
    logger.warning("%s: version %d is emptied, as no version is whole", log.location, log.version)
    make_empty(log, "undo", taken, target=-1)


def make_empty(
    log: DeltaLog, kind: Literal["undo", "empty"], taken: Takedowns, target: int | None = None
) -> None:
    commit = Commit(kind=kind, table=log.id, live=_NOTHING, target=target, takedowns=taken.number)
    replace_content(log.location, log, [], pa.schema(log.delta.schema().to_arrow()), commit)


def restore(
    log: DeltaLog, version: int, kind: Literal["undo", "rollback", "takedown"], taken: Takedowns
) -> None:
    """Let the next version have the rows of a version that were not taken down since.

    A takedown is that of the newest version. Where nothing was taken down since, it is deltalake's
    RESTORE.
    """
    files, gone = _left_of(log, version, taken)
    commit = Commit(
        kind=kind,
        table=log.id,
        live=digest_of(files),
        target=None if kind == "takedown" else version,
        takedowns=taken.number,
        num_gone=gone.num_ok_rows + gone.num_failed,
    )
    if commit.num_gone or kind == "takedown":
        if not missing_files(log.location, files.to_pylist()):
            commit_files(log, version, files, _with_counts(commit, log, version, gone))
    else:
        with _may_be_late(log.location):
            log.delta.restore(version, commit_properties=commit.properties())


def _left_of(log: DeltaLog, version: int, taken: Takedowns) -> tuple[pa.Table, Summary]:
    """The files of a version without what was taken down since, and the counts of what went.

    A file that holds such rows is written again, in the table's order: another program may have
    changed it.
    """
    new, files = taken.after(log.takedowns(version)), log.files(version)
    if not new.active or not files.num_rows:
        return files, Summary()
    schema = pa.schema(the_log(log.location, version).delta.schema().to_arrow())
    fragments = {each.path: each for each in dataset_of(log, version, schema).get_fragments()}
    order = ["bucket", *_keys(schema)]
    left, gone, lost = list[Mapping[str, Any]](), Summary(), list[pa.Table]()
    with file_errors(log.location):
        for file in files.to_pylist():
            fragment = fragments[file["path"]]
            known = fragment.to_table(schema=schema, columns=new.columns(schema))
            if new.without(known) is known:
                left.append(file)
                continue
            rows = fragment.to_table(schema=schema)
            kept = new.without(rows).sort_by([(name, "ascending") for name in order])
            left += filter(None, [write_file(log.location, schema, [kept])])
            ok, kept_ok = (each.filter(pc.equal(each["status"], OK)) for each in (rows, kept))
            num_ok_rows, num_gone = ok.num_rows - kept_ok.num_rows, rows.num_rows - kept.num_rows
            gone += Summary(num_ok_rows=num_ok_rows, failed={FAILED: num_gone - num_ok_rows})
            lost.append(_without(ok.select(order), kept_ok.select(order)))
        files = pa.Table.from_pylist(left, FILES)
        num_ok = _num_lost(log.location, schema, files, lost)
    return files, gone + Summary(num_ok=num_ok)


def _keys(schema: pa.Schema) -> list[str]:
    """The keys of a run's rows: no other column is always there."""
    own = {*_LEAST_COLUMNS.names}
    return [each.name for each in schema if not each.nullable and each.name not in own]


def _without(rows: pa.Table, others: pa.Table) -> pa.Table:
    return rows.join(others, rows.column_names, join_type="left anti")


def _num_lost(
    location: Location, schema: pa.Schema, files: pa.Table, lost: Sequence[pa.Table]
) -> int:
    """How many keys that left some files have no row that is ok in any other file of `files`.

    All rows of a key lie in one file, unless another program changed that.
    """
    if not lost or not (rows := pa.concat_tables(lost)).num_rows:
        return 0
    rows = rows.group_by(rows.column_names).aggregate([])
    sizes = {each["path"]: each["num_bytes"] for each in files.to_pylist()}
    near = pc.field("bucket").isin(rows["bucket"].unique()) & (pc.field("status") == OK)
    others = files_of(location, sizes, schema).to_table(columns=rows.column_names, filter=near)
    return int(_without(rows, others).num_rows)


def _with_counts(commit: Commit, log: DeltaLog, version: int, gone: Summary) -> Commit:
    """The commit with the manifest of what a version shows, without the rows that are gone."""
    shown = log.decided_by(version)
    if not commit.num_gone or shown is None or shown.manifest is None:
        return commit
    manifest = shown.manifest
    counts = dict(manifest.row_counts)
    for name, field in shown.counts.items():
        counts[name] -= getattr(gone, field)
    changes = {
        "row_counts": counts,
        "fingerprint": fingerprint_of([manifest.fingerprint, commit.live]),
    }
    of = {name: getattr(shown, name) for name in ("run", "nonce", "pass_number", "counts")}
    return commit.model_copy(update={**of, "manifest": manifest.model_copy(update=changes)})


@contextmanager
def _may_be_late(output: Location) -> Iterator[None]:
    """Pass over the error of a commit whose version is there already; raises StorageError."""
    try:
        yield
    except (deltalake.exceptions.DeltaError, OSError) as error:
        is_refused = isinstance(error, deltalake.exceptions.CommitFailedError)
        if not is_refused and "already exists" not in str(error):
            raise StorageError(
                f"{output}: a commit failed: {error}", code="commit_failed", key=str(output)
            ) from error
        logger.info("%s: the table is opened again after a commit: %s", output, error)


@dataclass(frozen=True)
class Published:
    """A version of a table that was published; a later version changes nothing of it."""

    log: DeltaLog
    manifest: Manifest

    @property
    def version(self) -> int:
        return self.log.version

    @property
    def num_buckets(self) -> int:
        """C: `bucket` is which of C equal ranges has the hash of the first key."""
        return int(self.manifest.metrics["num_buckets"])

    def dataset(self, schema: pa.Schema | None = None, status: str | None = OK) -> pads.Dataset:
        """The rows with a status, or all; `schema` names some of the columns, all if it is None.

        The columns `status` and `bucket` are there besides.
        """
        whole = pa.schema(self.log.delta.schema().to_arrow())
        if schema is not None:
            lacking = set(schema.names) - set(whole.names)
            if lacking:
                raise ArtifactMismatchError(
                    f"{self.log.location}: holds a table without the columns "
                    f"{', '.join(sorted(lacking))}; check the URI",
                    code="missing_column",
                    key=sorted(lacking)[0],
                    saw=whole.names,
                )
            own = [whole.field(name) for name in ("status", "bucket") if name not in schema.names]
            whole = pa.schema([*own, *schema])
        return dataset_of(self.log, self.version, whole, status=status)

    def batches(self, columns: Sequence[str], status: str = OK) -> Iterator[pa.Table]:
        """Yield the rows with a status many at a time, at least one table."""
        dataset = self.dataset(status=status)
        schema = pa.schema([dataset.schema.field(name) for name in columns]).remove_metadata()
        yield schema.empty_table()
        with file_errors(self.log.location):
            for batch in dataset.to_batches(columns=list(columns), **FEW_AT_ONCE):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch]).cast(schema)

    def find(self, dataset: pads.Dataset, first: str, keys: Sequence[str]) -> pa.Table:
        """The rows of `dataset` whose first key, the column `first`, is one of `keys`.

        The bucket of a key leads to one file, or two, and few row groups of it. Raises
        StorageError, DataError if a file is broken.
        """
        buckets = {bucket_of(key, self.num_buckets) for key in keys}
        bucket, column = pc.field("bucket"), pc.field(first)
        near = bucket.isin(sorted(buckets)) if len(buckets) > 1 else bucket == min(buckets)
        wanted = column.isin(list(keys)) if len(keys) > 1 else column == keys[0]
        with file_errors(self.log.location):
            return dataset.to_table(filter=near & wanted)


def published(
    uri: str, *, version: int | None = None, storage: StorageConfig | None = None
) -> Published:
    """What is published at `uri`: the newest version of the table, or an earlier one.

    Raises ArtifactNotFoundError if nothing is published there; TableError if there is no such
    version, if it is not sound, or if a vacuum deleted files of an earlier one.
    """
    log = the_log(open_location(uri, storage), version)
    found = Published(log, manifest_of_log(log))
    if version is not None and (gone := log.missing_files(version)):
        raise TableError(
            f"{uri}: version {version} lacks {gone[0]} (a vacuum?); name another one",
            code="version_lacks_files",
            key=gone[0],
            saw=version,
        )
    return found
