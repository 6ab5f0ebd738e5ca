"""Publishes a run that is done: one commit replaces the rows of the table by the run's.

A commit takes the next version or none, and whatever its answer, the table is opened again and
searched for it: see rule 8 of xrec.bulk.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from xrec.bulk.parts import Part, write_parts
from xrec.bulk.runs.result import Summary, total
from xrec.bulk.runs.run import BulkRun
from xrec.bulk.table import CHANCES, changes_too_often, deciding, open_whole, replace_content
from xrec.errors import LeaseError, TableError
from xrec.storage import Kind, Manifest, make_manifest
from xrec.storage.delta import Commit, DeltaLog, digest_of
from xrec.storage.location import with_backoff

Describe = Callable[[Summary], tuple[Mapping[str, int], Mapping[str, Any]]]
"""The manifest's row counts and metrics, from the counts of all that is done."""


def publish(
    run: BulkRun, kind: Kind, describe: Describe, *, republish: bool = False
) -> Manifest | None:
    """Let the table have the run's rows, and return their manifest.

    Returns None, and changes nothing, if a chunk has no result. If the run's rows were published
    already, by whomever, the manifest of that version is returned.

    republish: publish also if this run was published before, and taken back by a rollback or an
        emptying.

    Raises TableError if something else was published since this command began, or if the run was
    taken back; LeaseError if the run was planned anew; BrokenResultError; StorageError.
    """
    return with_backoff(lambda: _publish(run, kind, describe, republish))


def _publish(run: BulkRun, kind: Kind, describe: Describe, republish: bool) -> Manifest | None:
    parts: list[Part] = []
    pass_of_parts = -1
    for _ in range(CHANCES):
        log = open_whole(run.output)
        passes = run.passes()
        number = len(passes) - 1
        if (found := _found(run, log, number, republish)) is not None:
            assert log is not None
            return found.model_copy(update={"version": log.version})
        is_done = all(each.is_done for each in passes)
        if is_done and (pass_of_parts != number or _missing(run, parts)):
            parts, pass_of_parts = write_parts(run, passes), number
        if not run.is_current():
            raise LeaseError(
                f"{run.output}: the run's plan was deleted and made anew while it was being "
                "published; run the job again to go on with the new plan"
            )
        if not is_done:
            return None
        if not _missing(run, parts) and len(run.passes()) - 1 == number:
            _commit(run, log, number, parts, kind, describe)
    raise changes_too_often(run.output)


def _found(run: BulkRun, log: DeltaLog | None, number: int, republish: bool) -> Manifest | None:
    """The manifest of this run's rows if the newest version has them, of this pass or later.

    Raises TableError if something was published, rolled back or emptied that must not be undone
    without a word.
    """
    newest = None if log is None else next(deciding(log), None)
    if log is None or newest is None:
        return None
    version, commit = newest
    shown = log.decided_by(log.version)  # another one than the newest after a rollback
    if shown is not None and _is_own(run, shown, number):
        return shown.manifest
    if _is_own(run, commit, 0):
        return None  # an earlier pass of this very run
    what = {"publish": "another publish", "rollback": "a rollback", "empty": "an emptying"}
    said = f"{what[commit.kind]} (version {version})"
    if version > (run.base.version if run.base.table == log.id else -1):
        raise TableError(
            f"{run.output}: {said} came while this job was at work, so its rows are not "
            "published; its results stay, and the same command publishes them over it"
        )
    was_published = any(_is_own(run, each, number) for _, each in deciding(log))
    if commit.kind != "publish" and was_published and not republish:
        raise TableError(
            f"{run.output}: this run was published before, and {said} took it back; to publish "
            "it again, say so (republish=true)"
        )
    return None


def _is_own(run: BulkRun, commit: Commit, number: int) -> bool:
    record = run.record
    return (
        commit.kind == "publish"
        and (commit.run, commit.nonce) == (record.run, record.nonce)
        and commit.pass_number >= number
    )


def _missing(run: BulkRun, parts: Sequence[Part]) -> bool:
    """Whether a file of the table is not there as it was written."""
    there = run.output.sizes()
    return any(there.get(part.action.path) != part.action.size for part in parts)


def _commit(
    run: BulkRun,
    log: DeltaLog | None,
    number: int,
    parts: Sequence[Part],
    kind: Kind,
    describe: Describe,
) -> None:
    """Try to commit the next version; whether it is there is found out by who opens the log."""
    record, version = run.record, 0 if log is None else log.version + 1
    summary = total(part.summary for part in parts)
    row_counts, metrics = describe(summary)
    manifest = make_manifest(
        kind,
        config=record.identity.config,
        inputs=record.identity.inputs,
        version=version,
        content={"rows": record.rows_fingerprint, "nonce": record.nonce, "pass": number},
        row_counts=row_counts,
        metrics={"num_buckets": record.num_buckets, **metrics, "costs": dict(summary.costs)},
    )
    actions = [part.action for part in parts]
    files = [{"path": each.path, "num_bytes": each.size} for each in actions]
    commit = Commit(
        kind="publish",
        table="" if log is None else log.id,
        live=digest_of(pa.Table.from_pylist(files)),
        run=record.run,
        nonce=record.nonce,
        pass_number=number,
        manifest=manifest,
    )
    replace_content(run.output, log, actions, run.format.table_schema, commit)
