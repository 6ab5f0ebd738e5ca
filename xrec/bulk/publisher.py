"""Publish a finished run: one commit replaces the table's rows with those of the run.

A file of the table has the results of a range of chunks, which are already in the table's order,
with retried rows merged in. See rule 8 of xrec.bulk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.log import FILES, Commit, DeltaLog, Shown, digest_of, missing_files, open_log
from xrec.bulk.progress import lease_if_free, start_costs
from xrec.bulk.rows import Amounts, Summary, summary_of, total
from xrec.bulk.run import BulkRun, Pass, final_rows
from xrec.bulk.table import CHANCES, changes_too_often, commit_files, open_whole, write_file
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.errors import DataError, GateError, TableError
from xrec.storage import Kind, Location, Manifest, make_manifest, traffic, with_backoff

PART_BYTES = 96 * 2**20
"""Approximate size of the results that become one file."""
Range = tuple[int, int]
"""The first and last chunk of a range, by their numbers in the first pass."""
Describe = Callable[[Summary], tuple[Mapping[str, int | str], Mapping[str, Any]]]
"""A function from the total `Summary` of a run to the manifest's row counts and metrics.

A row count is a number, or the name of a `Summary` field; takedowns later lower the named ones.
"""


def publish(
    run: BulkRun,
    kind: Kind,
    describe: Describe,
    *,
    republish: bool = False,
    check: Callable[[], Amounts] = dict,
) -> Manifest | None:
    """Publish the run's rows as the table's next version, and return its manifest.

    Return None without changing anything if a chunk has no result. If these rows are already
    published, return the existing manifest. While files are written and committed, the run counts
    as having a live driver, so no command deletes it.

    republish: publish even if this run was taken back by a rollback or by emptying the table.
    check: called when all rows are done, before any file is written, possibly several times; its
        errors propagate. Returns its costs.

    Raise TableError if something else was published since this command began or takedowns are
    missing, GateError if the run was taken back, LeaseError if its plan was replaced,
    BrokenResultError if a result cannot be read, StorageError.
    """
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(lease_if_free(run))

        manifest = with_backoff(_Publisher(run, kind, describe, republish, check, begin).publish)
        traffic()  # reset the counts: the manifest has them, or nothing was written
        return manifest


class Part(NamedTuple):
    """A written, uncommitted file, as a row of `FILES`; None if no rows were left for it."""

    file: Mapping[str, Any] | None
    summary: Summary


@dataclass
class _Publisher:
    """Publishes a run; if it must start over, it reuses the files it has already written.

    begin: called before files are written. parts: the written parts, by range of chunks. made_of:
    the pass number and the number of the last takedown that the parts were made from.
    """

    run: BulkRun
    kind: Kind
    describe: Describe
    republish: bool
    check: Callable[[], Amounts]
    begin: Callable[[], None]
    parts: dict[Range, Part] = field(default_factory=dict)
    made_of: tuple[int, int] = (-1, 0)
    check_costs: Amounts = field(default_factory=dict)

    def publish(self) -> Manifest | None:
        run = self.run
        for _ in range(CHANCES):
            log = open_whole(run.output)
            taken = read_takedowns(run.output)  # after opening the table, so no entry is missed
            passes = run.passes()
            number = len(passes) - 1
            if log and (manifest := _existing(run, log, number, taken, self.republish)):
                return manifest.model_copy(update={"version": log.version})
            is_done = all(work.is_done for work in passes)
            if is_done:
                self._write(passes, taken)
            run.check_is_current("it was being published")
            if not is_done:
                return None
            if len(run.passes()) - 1 == number and not self._missing():
                self._commit(log, number, taken)
        raise changes_too_often(run.output)

    def _write(self, passes: Sequence[Pass], taken: Takedowns) -> None:
        """Write the files that do not exist yet."""
        made_of, missing = (len(passes) - 1, taken.number), {*self._missing()}
        wanted = list(_ranges(passes[0]))
        self.parts = {
            chunks: part
            for chunks, part in self.parts.items()
            if chunks in wanted
            and self.made_of == made_of
            and not (part.file and part.file["path"] in missing)
        }
        self.made_of = made_of
        if left := [chunks for chunks in wanted if chunks not in self.parts]:
            self.begin()
            self.check_costs = self.check()
            self.parts.update(_write_parts(self.run, passes, taken, left))

    def _missing(self) -> list[str]:
        """Return the paths of written files that are missing or have changed."""
        files = [part.file for part in self.parts.values() if part.file]
        return missing_files(self.run.output, pa.Table.from_pylist(files, FILES))

    def _commit(self, log: DeltaLog | None, number: int, taken: Takedowns) -> None:
        """Try to commit the next version."""
        run, record = self.run, self.run.record
        parts = [self.parts[chunks] for chunks in sorted(self.parts)]
        summary = total(part.summary for part in parts) + start_costs(run.folder)
        summary += Summary(costs={**traffic(take=False), **self.check_costs})
        row_counts, metrics = self.describe(summary)
        fields = {name: count for name, count in row_counts.items() if isinstance(count, str)}
        numbers = {name: count for name, count in row_counts.items() if isinstance(count, int)}
        files = pa.Table.from_pylist([part.file for part in parts if part.file], FILES)
        num_gone = round(summary.costs.get("taken_down", 0))
        _check_counts(run, summary, pc.sum(files["num_rows"]).as_py() or 0, num_gone)
        content = {"rows": record.rows_fingerprint, "nonce": record.nonce, "pass": number}
        manifest = make_manifest(
            self.kind,
            config=record.identity.config,
            inputs=record.identity.inputs,
            version=0 if log is None else log.version + 1,
            content={**content, "takedowns": taken.number} if num_gone else content,
            row_counts=numbers | {name: getattr(summary, f) for name, f in fields.items()},
            metrics={"num_buckets": record.num_buckets, **metrics, "costs": summary.costs},
        )
        shown = Shown(
            run=record.run,
            nonce=record.nonce,
            pass_number=number,
            manifest=manifest,
            counts=fields,
            takedowns=taken.number,
            left_out=record.takedowns,
            num_gone=num_gone,
        )
        commit = Commit(
            kind="publish",
            table="" if log is None else log.id,
            live=digest_of(files),
            takedowns=taken.number,
            num_gone=num_gone,
            shown=shown,
        )
        commit_files(run.output, log, files, run.format.table_schema, commit)


def _ranges(first_pass: Pass) -> Iterator[Range]:
    """Yield ranges of chunks whose results add up to about `PART_BYTES`."""
    start, num_bytes = 0, 0
    for chunk, (_, size) in sorted(first_pass.results.sizes().items()):
        if num_bytes and num_bytes + size > PART_BYTES:
            yield start, chunk - 1
            start, num_bytes = chunk, 0
        num_bytes += size
    yield start, first_pass.size.num_chunks - 1


def _write_parts(
    run: BulkRun, passes: Sequence[Pass], taken: Takedowns, chunks: Sequence[Range]
) -> Iterator[tuple[Range, Part]]:
    """Write a file for each range of chunks, several at a time if Ray is initialized."""
    write = partial(_write_part, run, tuple(passes), taken)
    if len(chunks) > 1:
        from xrec.processes import map_in_processes, num_cpus  # which imports Ray

        if most := num_cpus():
            parts = map_in_processes(lambda: write, chunks, num_processes=most)
            yield from ((chunks[index], part) for index, part in parts)
            return
    for first_and_last in chunks:
        yield first_and_last, write(first_and_last)


def _write_part(run: BulkRun, passes: Sequence[Pass], taken: Takedowns, chunks: Range) -> Part:
    summaries: list[Summary] = []

    def rows_of_chunks() -> Iterator[pa.Table]:
        for rows, summary in final_rows(run.format, passes, range(chunks[0], chunks[1] + 1)):
            kept = taken.without(rows)
            summaries.append(summary + _loss(rows, kept))
            yield kept

    file = write_file(run.output, run.format.table_schema, rows_of_chunks())
    return Part(file, total([*summaries, Summary(costs=traffic())]))


def _loss(rows: pa.Table, kept: pa.Table) -> Summary:
    """Return what to add to the counts of `rows` if only the rows of `kept` remain."""
    if kept is rows:
        return Summary()
    before, after = summary_of(rows), summary_of(kept)
    return Summary(
        num_ok=after.num_ok - before.num_ok,
        was_failed={why: n - after.failed.get(why, 0) for why, n in before.failed.items()},
        costs={"taken_down": rows.num_rows - kept.num_rows},
    )


def _existing(
    run: BulkRun, log: DeltaLog, number: int, taken: Takedowns, republish: bool
) -> Manifest | None:
    """Return the manifest if the table already shows this run at this pass or a later one.

    Otherwise, raise TableError if something else was published during this job, and GateError if
    the run was taken back.
    """
    shown = log.shown(log.version)
    if (
        shown is not None
        and run.record.is_of(shown)
        and shown.pass_number >= number
        and not _lacks_lifted(shown, taken)
    ):
        return shown.manifest
    version, commit = next(log.deciding(), (-1, None))
    if commit is None or (commit.kind == "publish" and run.record.is_of(commit.shown)):
        return None
    if version > (run.base.version if run.base.table == log.id else -1):
        raise TableError(
            f"{run.output}: {_described(version, commit)} was committed while this job was "
            "running, so its rows were not published; its results are kept: run the same command "
            "again to publish them",
            code="table_changed",
            key=commit.kind,
            saw=version,
        )
    if not republish and (taken_back := _taken_back(log, run.record.run)) is not None:
        own, by = taken_back
        raise GateError(
            f"{run.output}: this run was published as version {own}, and {_described(*by)} took it "
            f"back; to restore it, run `xrec table rollback {run.output} --version {own}`",
            code="taken_back",
            key=by[1].kind,
            saw=own,
        )
    return None


def _check_counts(run: BulkRun, summary: Summary, num_written: int, num_gone: int) -> None:
    """Raise DataError unless the files contain every planned row that was not taken down."""
    planned, done = run.record.num_rows, summary.num_rows
    if not num_written == done == planned - num_gone:
        raise DataError(
            f"{run.output}: {planned} rows were planned and {num_gone} taken down, but the "
            f"results have {done} rows and the table's new files have {num_written}; nothing was "
            f"published. Find out what changes files in {run.folder}, delete that folder and run "
            "the job again",
            code="wrong_number_of_rows",
            key=run.record.run,
            saw=done,
        )


def lacks_lifted(output: Location) -> bool:
    """Return whether the table or its plan may lack rows whose takedown has since been lifted.

    The next run restores them.
    """
    if (log := open_log(output)) is None:
        return False
    taken, shown = read_takedowns(output), log.shown(log.version)
    if shown is None:
        return False
    return not taken.active.keys() >= {*shown.left_out} or _lacks_lifted(shown, taken)


def _lacks_lifted(shown: Shown, taken: Takedowns) -> bool:
    """Return whether rows may be missing whose takedown was lifted since the publish."""
    lifts = (entry.lifts for n, entry in taken.entries.items() if n > shown.takedowns)
    return shown.num_gone > 0 and any(lifts)


def _described(version: int, commit: Commit) -> str:
    names = {"publish": "another publish", "rollback": "a rollback", "empty": "an emptying"}
    return f"{names[commit.kind]} (version {version})"


def _taken_back(log: DeltaLog, run: str) -> tuple[int, tuple[int, Commit]] | None:
    """Return the last version that showed a run and the commit that took it back, or None.

    A rollback takes back what was published or restored after its target version; emptying takes
    back everything. A run that was replaced by another publish was not taken back.
    """
    later: list[tuple[int, Commit]] = []  # commits that rolled back or emptied the table
    for version, commit in log.deciding():
        shown = log.shown(version)
        if shown is not None and shown.run == run:
            by = (pair for pair in later if pair[1].target is None or pair[1].target < version)
            return next(((version, pair) for pair in by), None)
        if commit.kind != "publish":
            later.append((version, commit))
    return None
