"""Commits to the published table: its content replaced, an earlier version restored, or undone.

Each commit takes the next version or none, and says what it is (`xrec.storage.delta.Commit`).
Whether it is there is found out by who opens the log afterwards.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import deltalake
import deltalake.exceptions
import pyarrow as pa
from deltalake.transaction import AddAction, create_table_with_add_actions

from xrec.errors import StorageError, TableError
from xrec.storage import Location
from xrec.storage.delta import Commit, DeltaLog, Entry, digest_of, open_log

logger = logging.getLogger("xrec")

CHANCES = 20
"""How often a table that changes meanwhile is opened again."""
_DESCRIPTION = "published by xrec, layout 2"
_CONFIGURATION: Mapping[str, str | None] = {
    "delta.dataSkippingStatsColumns": "bucket",  # ids stay out of the log, which outlives files
    "delta.enableExpiredLogCleanup": "false",  # the log says what each version is
    "delta.logRetentionDuration": "interval 36500 days",  # also where another program cleans it up
}


def open_whole(output: Location) -> DeltaLog | None:
    """The table, once its newest version is whole: one that is not is undone first.

    None if there is no table. Raises TableError if it is not one of xrec's, or if it changes all
    the time.
    """
    for _ in range(CHANCES):
        log = open_log(output)
        if log is None:
            return None
        refuse_other_table(log)
        if is_whole(log):
            return log
        undo(log)
    raise changes_too_often(output)


def changes_too_often(output: Location) -> TableError:
    """What is raised if other programs commit all the time."""
    return TableError(
        f"{output}: the table changed {CHANCES} times meanwhile; run the command again when "
        "nothing else commits to it"
    )


def refuse_other_table(log: DeltaLog) -> None:
    """Raise TableError if xrec did not make the table, or made it in another layout."""
    if (there := log.delta.metadata().description) != _DESCRIPTION:
        raise TableError(
            f"{log.location}: holds a Delta table that this xrec does not publish to: expected the "
            f"description {_DESCRIPTION!r}, saw {there!r}; give another URI"
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


def is_whole(log: DeltaLog) -> bool:
    """Whether the newest version is sound, and all of its files are there."""
    return log.is_sound(log.version) and not log.missing_files(log.version)


def deciding(log: DeltaLog) -> Iterator[Entry]:
    """The publishes, rollbacks and emptyings that were not undone, the newest first."""
    version = log.version
    while version >= 0:
        entry = log.entry(version)
        if entry.commit is not None and entry.commit.kind == "undo":
            # An undo that is not sound was made by a sleeper, in another table: it undid nothing.
            assert entry.commit.target is not None
            version = entry.commit.target if log.is_sound(version) else version - 1
            continue
        if entry.commit is not None:
            yield entry
        elif entry.restored is not None:
            yield replace(entry, commit=_foreign_rollback(entry))
        version -= 1


def _foreign_rollback(entry: Entry) -> Commit:
    return Commit(kind="rollback", table="", live="", target=entry.restored)


def undo(log: DeltaLog) -> None:
    """Let the next version have the files of the newest sound one whose files are all there.

    If there is none, it has no files.
    """
    for version in range(log.version - 1, -1, -1):
        if log.is_sound(version) and not log.missing_files(version):
            logger.warning(
                "%s: version %d is not what its writer meant; version %d is restored",
                log.location,
                log.version,
                version,
            )
            restore(log, version, "undo")
            return
    logger.warning("%s: version %d is emptied, as no version is whole", log.location, log.version)
    nothing = digest_of(log.files(log.version).slice(0, 0))
    commit = Commit(kind="undo", table=log.id, live=nothing, target=-1)
    schema = pa.schema(log.delta.schema().to_arrow())
    replace_content(log.location, log, [], schema, commit)


def restore(log: DeltaLog, version: int, kind: Literal["undo", "rollback"]) -> None:
    """Let the next version have the files of an earlier one, by deltalake's RESTORE."""
    live = digest_of(log.files(version))
    commit = Commit(kind=kind, table=log.id, live=live, target=version)
    with _may_be_late(log.location):
        log.delta.restore(version, commit_properties=commit.properties())


@contextmanager
def _may_be_late(output: Location) -> Iterator[None]:
    """Pass over the error of a commit whose version is there already; raises StorageError."""
    try:
        yield
    except deltalake.exceptions.CommitFailedError as error:
        logger.info("%s: the table is opened again after a commit: %s", output, error)
    except (deltalake.exceptions.DeltaError, OSError) as error:
        if "already exists" not in str(error):
            raise StorageError(f"{output}: a commit failed: {error}") from error
        logger.info("%s: the table is opened again after a commit: %s", output, error)
