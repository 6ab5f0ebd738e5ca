"""Publishes a run that is done: one commit replaces the rows of the table by the run's.

A commit takes the next version or none, and whatever its answer, the table is opened again and
searched for it: see rule 8 of xrec.bulk.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from xrec.bulk.parts import Part, write_parts
from xrec.bulk.runs.progress import costs_of_starts
from xrec.bulk.runs.result import Summary, total
from xrec.bulk.runs.run import BulkRun
from xrec.bulk.table import CHANCES, changes_too_often, deciding, open_whole, replace_content
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.errors import DataError, GateError, TableError
from xrec.storage import Kind, Manifest, make_manifest
from xrec.storage.delta import FILES, Commit, DeltaLog, add_action, digest_of
from xrec.storage.location import traffic, with_backoff

Describe = Callable[[Summary], tuple[Mapping[str, int], Mapping[str, Any]]]
"""The manifest's row counts and metrics, from the counts of all that is done."""


def publish(
    run: BulkRun,
    kind: Kind,
    describe: Describe,
    *,
    republish: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Manifest | None:
    """Let the table have the run's rows, and return their manifest.

    Returns None, and changes nothing, if a chunk has no result. If the run's rows were published
    already, by whomever, the manifest of that version is returned.

    republish: publish also if this run was published before, and taken back by a rollback or an
        emptying.
    check: called once all is done, before anything of the table is written; what it raises ends
        this. It may be called several times.

    Raises TableError if something else was published since this command began; GateError if the run
    was taken back; LeaseError if the run was planned anew; BrokenResultError; StorageError.
    """
    manifest = with_backoff(lambda: _publish(run, kind, describe, republish, check))
    traffic()  # it is in the manifest, or nothing was written
    return manifest


def _publish(
    run: BulkRun, kind: Kind, describe: Describe, republish: bool, check: Callable[[], None]
) -> Manifest | None:
    parts: list[Part] = []
    made_of = (-1, 0)
    for _ in range(CHANCES):
        log = open_whole(run.output)
        taken = read_takedowns(run.output)  # after the table, or an entry in between is missed
        passes = run.passes()
        number = len(passes) - 1
        of = (number, taken.number)
        if (found := _found(run, log, number, republish)) is not None:
            assert log is not None
            return found.model_copy(update={"version": log.version})
        is_done = all(each.is_done for each in passes)
        if is_done and (made_of != of or _missing(run, parts)):
            check()
            parts, made_of = write_parts(run, passes, taken), of
        run.check_is_current("it was being published")
        if not is_done:
            return None
        if not _missing(run, parts) and len(run.passes()) - 1 == number:
            _commit(run, log, number, parts, taken, kind, describe)
    raise changes_too_often(run.output)


def _found(run: BulkRun, log: DeltaLog | None, number: int, republish: bool) -> Manifest | None:
    """The manifest of this run's rows if the newest version has them, of this pass or later."""
    newest = None if log is None else next(deciding(log), None)
    if log is None or newest is None:
        return None
    version, commit = newest
    shown = log.decided_by(log.version)  # another one than the newest after a rollback
    if shown is not None and run.record.is_of(shown) and shown.pass_number >= number:
        return shown.manifest
    if commit.kind == "publish" and run.record.is_of(commit):
        return None  # an earlier pass of this very run
    what = {"publish": "another publish", "rollback": "a rollback", "empty": "an emptying"}
    said = f"{what[commit.kind]} (version {version})"
    if version > (run.base.version if run.base.table == log.id else -1):
        raise TableError(
            f"{run.output}: {said} came while this job was at work, so its rows are not "
            "published; its results stay, and the same command publishes them over it"
        )
    published = ((n, each) for n, each in deciding(log) if each.kind == "publish")
    whole = (n for n, each in published if run.record.is_of(each) and each.pass_number >= number)
    own = next(whole, None)
    if commit.kind != "publish" and own is not None and not republish:
        raise GateError(
            f"{run.output}: this run was published as version {own}, and {said} took it back; to "
            f"have it again: xrec table rollback {run.output} --version {own}"
        )
    return None


def _check_counts(run: BulkRun, summary: Summary, num_written: int, num_gone: int) -> None:
    """Raise DataError unless the files have each planned row, but for those taken down."""
    planned, done = run.record.num_rows, summary.num_rows
    several = num_gone and run.format.ok_keys  # then a planned row may be several of those
    is_whole = planned - num_gone <= done <= planned if several else done == planned - num_gone
    if num_written != summary.num_ok_rows + summary.num_failed or not is_whole:
        raise DataError(
            f"{run.output}: {planned} rows are planned and {num_gone} were taken down, but the "
            f"results have {done}, and the table's new files {num_written} rows; nothing is "
            f"published. Find out what changes files in {run.folder}, delete that folder and run "
            "the job again"
        )


def _missing(run: BulkRun, parts: Sequence[Part]) -> bool:
    """Whether a file of the table is not there as it was written."""
    there, files = run.output.sizes(), filter(None, (part.file for part in parts))
    return any(there.get(each["path"]) != each["num_bytes"] for each in files)


def _commit(
    run: BulkRun,
    log: DeltaLog | None,
    number: int,
    parts: Sequence[Part],
    taken: Takedowns,
    kind: Kind,
    describe: Describe,
) -> None:
    """Try to commit the next version; whether it is there is found out by who opens the log."""
    record, version = run.record, 0 if log is None else log.version + 1
    summary = total(part.summary for part in parts) + costs_of_starts(run.folder)
    summary += Summary(costs=traffic(take=False))
    row_counts, metrics = describe(summary)
    files = [part.file for part in parts if part.file]
    num_gone = round(summary.costs.get("taken_down", 0))
    _check_counts(run, summary, sum(file["num_rows"] for file in files), num_gone)
    content = {"rows": record.rows_fingerprint, "nonce": record.nonce, "pass": number}
    manifest = make_manifest(
        kind,
        config=record.identity.config,
        inputs=record.identity.inputs,
        version=version,
        content={**content, "takedowns": taken.number} if num_gone else content,
        row_counts=row_counts,
        metrics={"num_buckets": record.num_buckets, **metrics, "costs": summary.costs},
    )
    commit = Commit(
        kind="publish",
        table="" if log is None else log.id,
        live=digest_of(pa.Table.from_pylist(files, FILES)),
        run=record.run,
        nonce=record.nonce,
        pass_number=number,
        manifest=manifest,
        takedowns=taken.number,
        num_gone=num_gone,
    )
    actions = [add_action(file) for file in files]
    replace_content(run.output, log, actions, run.format.table_schema, commit)
