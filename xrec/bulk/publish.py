"""Publishes a run that is done: one commit replaces the rows of the table by the run's.

A commit takes the next version or none, and whatever its answer, the table is opened again and
searched for it: see rule 8 of xrec.bulk.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from deltalake.transaction import AddAction

from xrec.bulk.parts import Part, write_parts
from xrec.bulk.runs.result import Summary, total
from xrec.bulk.runs.run import BulkRun, Pass
from xrec.bulk.table import CHANCES, changes_too_often, deciding, open_whole, replace_content
from xrec.errors import LeaseError, TableError
from xrec.storage import Kind, Manifest, make_manifest
from xrec.storage.delta import Commit, DeltaLog, Entry, digest_of
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
    return with_backoff(lambda: _Publisher(run, kind, describe, republish).publish())


class _Publisher:
    def __init__(self, run: BulkRun, kind: Kind, describe: Describe, republish: bool):
        self._run = run
        self._kind = kind
        self._describe = describe
        self._republish = republish
        self._parts: list[Part] = []
        self._pass_of_parts = -1

    def publish(self) -> Manifest | None:
        """See `publish`."""
        for _ in range(CHANCES):
            log = open_whole(self._run.output)
            passes = self._run.passes()
            number = len(passes) - 1
            if (found := self._found(log, number)) is not None:
                assert log is not None
                return found.model_copy(update={"version": log.version})
            if not all(each.is_done for each in passes):
                self._check_current()
                return None
            self._write_parts(passes)
            self._check_current()
            self._commit(log, number)
        raise changes_too_often(self._run.output)

    def _found(self, log: DeltaLog | None, number: int) -> Manifest | None:
        """The manifest of this run's rows if the newest version has them, of this pass or later.

        Raises TableError if something was published, rolled back or emptied that must not be
        undone without a word.
        """
        if log is None:
            return None
        run, base = self._run, self._run.base
        newest = next(deciding(log), None)
        if newest is None or newest.commit is None:
            return None
        shown = log.decided_by(log.version)  # another one than the newest after a rollback
        if shown is not None and shown.commit is not None and self._is_own(shown, number):
            return shown.commit.manifest
        if self._is_own(newest, 0):
            return None  # an earlier pass of this very run
        what = {"publish": "another publish", "rollback": "a rollback", "empty": "an emptying"}
        said = f"{what[newest.commit.kind]} (version {newest.version})"
        if newest.version > (base.version if base.table == log.id else -1):
            raise TableError(
                f"{run.output}: {said} came while this job was at work, so its rows are not "
                "published; its results stay, and the same command publishes them over it"
            )
        was_published = any(self._is_own(each, number) for each in deciding(log))
        if newest.commit.kind != "publish" and was_published and not self._republish:
            raise TableError(
                f"{run.output}: this run was published before, and {said} took it back; to publish "
                "it again, say so (republish=true)"
            )
        return None

    def _is_own(self, entry: Entry, number: int) -> bool:
        commit, record = entry.commit, self._run.record
        return (
            commit is not None
            and commit.kind == "publish"
            and (commit.run, commit.nonce) == (record.run, record.nonce)
            and commit.pass_number >= number
        )

    def _write_parts(self, passes: Sequence[Pass]) -> None:
        """Write the table's files, unless those of this pass are written."""
        if self._pass_of_parts == len(passes) - 1 and not self._missing():
            return
        self._parts = write_parts(self._run, passes)
        self._pass_of_parts = len(passes) - 1

    def _actions(self) -> list[AddAction]:
        return [part.action for part in self._parts]

    def _missing(self) -> list[str]:
        there = self._run.output.sizes()
        return [each.path for each in self._actions() if there.get(each.path) != each.size]

    def _check_current(self) -> None:
        if not self._run.is_current():
            raise LeaseError(
                f"{self._run.output}: the run's plan was deleted and made anew while it was being "
                "published; run the job again to go on with the new plan"
            )

    def _commit(self, log: DeltaLog | None, number: int) -> None:
        """Try to commit the next version; whether it is there is found out by who opens the log."""
        if self._missing() or len(self._run.passes()) - 1 != number:
            return  # look again
        record, version = self._run.record, 0 if log is None else log.version + 1
        summary = total(part.summary for part in self._parts)
        row_counts, metrics = self._describe(summary)
        manifest = make_manifest(
            self._kind,
            config=record.identity.config,
            inputs=record.identity.inputs,
            version=version,
            content={"rows": record.rows_fingerprint, "nonce": record.nonce, "pass": number},
            row_counts=row_counts,
            metrics={"num_buckets": record.num_buckets, **metrics, "costs": dict(summary.costs)},
        )
        actions = self._actions()
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
        replace_content(self._run.output, log, actions, self._run.format.table_schema, commit)
