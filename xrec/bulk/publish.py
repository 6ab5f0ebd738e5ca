"""Publishes a run that is done: one commit replaces the rows of the table by the run's.

A commit takes the next version or none, and whatever its answer, the table is opened again and
searched for it: see rule 8 of xrec.bulk.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xrec.bulk.beat import REAL, Clock, seen_at_work
from xrec.bulk.parts import Part, ranges, write_parts
from xrec.bulk.runs.progress import costs_of_starts
from xrec.bulk.runs.result import Summary, total
from xrec.bulk.runs.run import BulkRun, Pass
from xrec.bulk.table import CHANCES, changes_too_often, deciding, open_whole, replace_content
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.errors import DataError, GateError, TableError
from xrec.storage import Kind, Location, Manifest, make_manifest, traffic, with_backoff
from xrec.storage.delta import (
    FILES,
    Commit,
    DeltaLog,
    add_action,
    digest_of,
    missing_files,
    open_log,
)

Describe = Callable[[Summary], tuple[Mapping[str, int | str], Mapping[str, Any]]]
"""The manifest's row counts and metrics, from the counts of all that is done.

A row count is the name of a field of `Summary`, so that a takedown lowers it too, or a number that
stays.
"""


def publish(
    run: BulkRun,
    kind: Kind,
    describe: Describe,
    *,
    republish: bool = False,
    check: Callable[[], None] = lambda: None,
    clock: Clock = REAL,
) -> Manifest | None:
    """Let the table have the run's rows, and return their manifest.

    Returns None, and changes nothing, if a chunk has no result. If the run's rows were published
    already, by whomever, the manifest of that version is returned. While this is at work, the run
    has a live driver, so no command deletes it.

    republish: publish also if this run was published before, and taken back by a rollback or an
        emptying.
    check: called once all is done, before anything of the table is written; what it raises ends
        this. It may be called several times.

    Raises TableError if something else was published since this command began, or takedowns are
    gone; GateError if the run was taken back; LeaseError if the run was planned anew;
    BrokenResultError; StorageError.
    """
    with ExitStack() as at_work:

        def begin() -> None:
            at_work.enter_context(seen_at_work(run, clock))

        manifest = with_backoff(_Publisher(run, kind, describe, republish, check, begin).publish)
        traffic()  # it is in the manifest, or nothing was written
        return manifest


@dataclass
class _Publisher:
    """Publishes a run, and keeps the files that it has written when it has to begin again.

    begin: called before a file is written. parts: by their ranges of chunks. made_of: the pass, and
    the number of takedowns, that they are made of.
    """

    run: BulkRun
    kind: Kind
    describe: Describe
    republish: bool
    check: Callable[[], None]
    begin: Callable[[], None]
    parts: dict[tuple[int, int], Part] = field(default_factory=dict)
    made_of: tuple[int, int] = (-1, 0)

    def publish(self) -> Manifest | None:
        run = self.run
        for _ in range(CHANCES):
            log = open_whole(run.output)
            taken = read_takedowns(run.output)  # after the table, or an entry in between is missed
            passes = run.passes()
            number = len(passes) - 1
            if (manifest := _found(run, log, number, taken, self.republish)) is not None:
                assert log is not None
                return manifest.model_copy(update={"version": log.version})
            is_done = all(each.is_done for each in passes)
            if is_done:
                self._write(passes, taken)
            run.check_is_current("it was being published")
            if not is_done:
                return None
            if len(run.passes()) - 1 == number and not self._missing():
                self._commit(log, number, taken)
        raise changes_too_often(run.output)

    def _write(self, passes: Sequence[Pass], taken: Takedowns) -> None:
        """Write the files that are not there yet."""
        made_of, gone = (len(passes) - 1, taken.number), {*self._missing()}
        wanted = list(ranges(passes[0]))
        self.parts = {
            chunks: part
            for chunks, part in self.parts.items()
            if chunks in wanted
            and self.made_of == made_of
            and not (part.file and part.file["path"] in gone)
        }
        self.made_of = made_of
        if left := [chunks for chunks in wanted if chunks not in self.parts]:
            self.begin()
            self.check()
            for chunks, part in write_parts(self.run, passes, taken, left):
                self.parts[chunks] = part

    def _missing(self) -> list[str]:
        """The files that are not there as they were written."""
        return missing_files(self.run.output, filter(None, (p.file for p in self.parts.values())))

    def _commit(self, log: DeltaLog | None, number: int, taken: Takedowns) -> None:
        """Try to commit the next version; who opens the log finds out whether it is there."""
        run, record, version = self.run, self.run.record, 0 if log is None else log.version + 1
        parts = [self.parts[chunks] for chunks in sorted(self.parts)]
        summary = total(part.summary for part in parts) + costs_of_starts(run.folder)
        summary += Summary(costs=traffic(take=False))
        said, metrics = self.describe(summary)
        counts = {name: each for name, each in said.items() if isinstance(each, str)}
        numbers = {name: each for name, each in said.items() if isinstance(each, int)}
        files = [part.file for part in parts if part.file]
        num_gone = round(summary.costs.get("taken_down", 0))
        _check_counts(run, summary, sum(file["num_rows"] for file in files), num_gone)
        content = {"rows": record.rows_fingerprint, "nonce": record.nonce, "pass": number}
        manifest = make_manifest(
            self.kind,
            config=record.identity.config,
            inputs=record.identity.inputs,
            version=version,
            content={**content, "takedowns": taken.number} if num_gone else content,
            row_counts=numbers | {name: getattr(summary, each) for name, each in counts.items()},
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
            left_out=record.takedowns,
            counts=counts,
        )
        actions = [add_action(file) for file in files]
        replace_content(run.output, log, actions, run.format.table_schema, commit)


def _found(
    run: BulkRun, log: DeltaLog | None, number: int, taken: Takedowns, republish: bool
) -> Manifest | None:
    """The manifest of this run's rows if the newest version has them, of this pass or later."""
    newest = None if log is None else next(deciding(log), None)
    if log is None or newest is None:
        return None
    version, commit = newest
    shown = log.decided_by(log.version)  # another one than the newest after a rollback
    is_shown = shown is not None and run.record.is_of(shown) and shown.pass_number >= number
    if shown is not None and is_shown and not _lacks_lifted(log, taken):
        return shown.manifest
    if commit.kind != "publish" or not run.record.is_of(commit):
        _refuse_what_came(run, log, version, commit, republish)
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
            "the job again",
            code="wrong_number_of_rows",
            key=run.record.run,
            saw=done,
        )


def lacks_lifted(output: Location) -> bool:
    """Whether rows may be missing whose takedown was lifted since they were published or planned.

    The next run then brings them back.
    """
    if (log := open_log(output)) is None:
        return False
    taken, made = read_takedowns(output), log.published_by(log.version)
    is_planned = made is None or taken.active.keys() >= {*made.left_out}
    return not is_planned or _lacks_lifted(log, taken)


def _lacks_lifted(log: DeltaLog, taken: Takedowns) -> bool:
    """Whether the newest version may lack rows of its run whose takedown was lifted."""
    shown, made = log.decided_by(log.version), log.published_by(log.version)
    if shown is None or made is None or not shown.num_gone:
        return False
    return any(each.lifts for n, each in taken.entries.items() if n > made.takedowns)


def _refuse_what_came(
    run: BulkRun, log: DeltaLog, version: int, commit: Commit, republish: bool
) -> None:
    """Raise TableError if this commit came during the work, GateError if the run was taken back."""
    if version > (run.base.version if run.base.table == log.id else -1):
        raise TableError(
            f"{run.output}: {_said(version, commit)} came while this job was at work, so its rows "
            "are not published; its results stay, and the same command publishes them over it",
            code="table_changed",
            key=commit.kind,
            saw=version,
        )
    if not republish and (found := _taken_back(log, run.record.run)) is not None:
        own, by = found
        raise GateError(
            f"{run.output}: this run was published as version {own}, and {_said(*by)} took it "
            f"back; to have it again: xrec table rollback {run.output} --version {own}",
            code="taken_back",
            key=by[1].kind,
            saw=own,
        )


def _said(version: int, commit: Commit) -> str:
    what = {"publish": "another publish", "rollback": "a rollback", "empty": "an emptying"}
    return f"{what[commit.kind]} (version {version})"


def _taken_back(log: DeltaLog, run: str) -> tuple[int, tuple[int, Commit]] | None:
    """The version that showed a run last, and what took it back; None if nothing did.

    A rollback takes back what was published or brought back after its target, an emptying
    everything before it. What was only replaced by another publish was not taken back.
    """
    later: list[tuple[int, Commit]] = []  # rollbacks and emptyings
    for version, commit in deciding(log):
        shown = log.decided_by(version)
        if shown is not None and shown.run == run:
            by = (each for each in later if each[1].target is None or each[1].target < version)
            return next(((version, each) for each in by), None)
        if commit.kind != "publish":
            later.append((version, commit))
    return None
