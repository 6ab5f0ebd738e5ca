"""Inspect runs and tables without writing: status, preview, history and checks.

A check reads records, the table's log, listings, and file footers, but no rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from xrec.bulk.log import DeltaLog, missing_files, open_log, the_log
from xrec.bulk.progress import Progress, read_progress
from xrec.bulk.request import RunRequest, left_out, refuse_other_files
from xrec.bulk.rows import AGAIN
from xrec.bulk.run import RUNS, RunRecord, records
from xrec.bulk.table import wrong_bounds
from xrec.bulk.takedown import read_takedowns
from xrec.config import StorageConfig
from xrec.errors import (
    ArtifactError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    StorageNotFoundError,
    TableError,
)
from xrec.storage import Location, Manifest, open_location

Phase = Literal["planned", "running", "silent", "stopped", "done", "replaced", "published"]

NOTES: Mapping[Phase, str] = {
    "silent": "its driver stopped reporting; run the job again to continue",
    "stopped": "it was stopped before it was done; run the job again to continue",
    "done": "it is not published; run the job again to publish it",
    "replaced": "something else has been published since, or it was taken back",
}
"""Notes for users about runs in phases that may be surprising."""


@dataclass(frozen=True)
class Rate:
    """The total costs, by name, of the rows that a run did itself instead of carrying them over."""

    num_done: int
    costs: Mapping[str, float]

    def costs_of(self, num_rows: int) -> dict[str, float]:
        return {name: cost * num_rows / self.num_done for name, cost in self.costs.items()}


@dataclass(frozen=True)
class Status:
    """A run as its last driver reported it, and what is published.

    progress: None if no driver has reported. manifest: the published one, with the newest
    `version`. is_published: whether it is of this run. phase: the state of the run in one word.

    planned: no driver has started. running: a driver may be alive. silent: the last driver seems
    dead. stopped: it ended before all rows were done. done: done but never published. replaced:
    published, then replaced or taken back. published: visible to readers.
    """

    uri: str
    record: RunRecord
    progress: Progress | None
    manifest: Manifest | None
    is_published: bool
    phase: Phase

    @property
    def num_done(self) -> int:
        """The number of rows reported as done; the actual number may be higher."""
        return self.progress.num_rows if self.progress else 0

    @property
    def num_left(self) -> int:
        return self.record.num_rows - self.num_done

    @property
    def rows_per_second(self) -> float | None:
        """The rate of the last driver as of its last report."""
        return self.progress.rows_per_second(self.progress.written_at) if self.progress else None

    @property
    def seconds_left(self) -> float | None:
        """The time left at the driver's rate; None without a rate or if no rows are left."""
        rate = self.rows_per_second
        return self.num_left / rate if rate is not None and self.num_left else None

    @property
    def rate(self) -> Rate | None:
        """The costs of the rows that this run did itself, or None if there are none.

        A retried row counts once, with the costs of all attempts.
        """
        if self.progress is None:
            return None
        costs = {n: cost for n, cost in self.progress.costs.items() if not n.startswith(AGAIN)}
        num_done = self.progress.num_rows - round(costs.pop("carried", 0.0))
        return Rate(num_done, costs) if num_done > 0 and costs.get("seconds") else None


def read_status(uri: str, storage: StorageConfig | None = None) -> Status:
    """Return the status of the most recently planned run, using a few small requests.

    Raise ArtifactNotFoundError if there is no run, TableError if the log cannot be read.
    """
    output = open_location(uri, storage)
    if (record := next(records(output), None)) is None:
        raise ArtifactNotFoundError(
            f"{uri}: no run has been planned; check the URI", code="no_run", key=uri
        )
    return status_of(output, record)


def status_of(output: Location, record: RunRecord) -> Status:
    progress, log = read_progress(record.folder(output)), open_log(output)
    shown = None if log is None else log.shown(log.version)
    manifest = None if log is None or shown is None else log.manifest()
    is_published = record.is_of(shown)
    if progress is None:
        phase: Phase = "published" if is_published else "planned"
    elif progress.is_alive():
        phase = "running"
    elif not progress.is_done:
        phase = "stopped" if progress.expires_at is None else "silent"
    elif is_published:
        is_newest = shown is not None and shown.pass_number >= progress.pass_number
        phase = "published" if is_newest else "done"
    else:
        was_published = log and any(record.is_of(commit.shown) for _, commit in log.deciding())
        phase = "replaced" if was_published else "done"
    return Status(output.uri, record, progress, manifest, is_published, phase)


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    rejected: number of rows left out, by reason. status: None if the run is not planned yet.
    costs_left: expected costs of the remaining rows by name, extrapolated from this run or another;
    None if unknown. measured_at: the URI of the other run, or None. The other run's rate excludes
    carried rows, so the actual costs are lower if rows are carried over.
    """

    num_rows: int
    num_chunks: int
    rejected: Mapping[str, int]
    status: Status | None
    costs_left: Mapping[str, float] | None
    measured_at: str | None

    @property
    def num_left(self) -> int:
        return self.num_rows - (self.status.num_done if self.status else 0)


def preview(request: RunRequest) -> Preview:
    """Return what `open_run` would open or plan, and how much of it is left to do.

    The input is read only if `open_run` would read it. Raise the errors of `open_run`, except for
    those that only a write can reveal.
    """
    output = request.output
    refuse_other_files(output)
    record = request.planned()
    if record is None:
        with request.read_rows() as rows:
            _, record = request.newest(rows)
            if record is None:
                num_rows, num_chunks = 0, 0
                for chunk in request.chunks(rows, set(), carrying=False):
                    num_rows, num_chunks = num_rows + chunk.num_rows, num_chunks + 1
                costs = _costs_elsewhere(request, num_rows)
                return Preview(num_rows, num_chunks, left_out(rows, num_rows), None, *costs)
    status = status_of(output, record)
    if status.rate is None:
        costs = _costs_elsewhere(request, status.num_left)
    else:  # assumes the share of carried rows stays the same
        share = status.num_left / status.num_done
        costs = {name: cost * share for name, cost in status.rate.costs.items()}, None
    return Preview(record.num_rows, record.size.num_chunks, record.rejected, status, *costs)


def _costs_elsewhere(
    request: RunRequest, num_rows: int
) -> tuple[dict[str, float] | None, str | None]:
    """Estimate costs at the rate of the output's newest run, or else that of `carry_from`."""
    for uri in filter(None, (request.uri, request.carry_from)):
        try:
            rate = read_status(uri, request.storage).rate
        except (ArtifactError, TableError, StorageNotFoundError):
            continue  # it has no run that this version of xrec can read
        if rate is not None:
            return rate.costs_of(num_rows), uri
    return None, None


class Finding(NamedTuple):
    """A problem with an output, and what to do about it.

    severity: `error` if readers see wrong rows or a run cannot continue until it is fixed.
    """

    severity: Literal["error", "warning"]
    what: str


def check_output(uri: str, storage: StorageConfig | None = None) -> list[Finding]:
    """Return the problems of the output at `uri`, errors first.

    Raise StorageError if the store cannot be used.
    """
    output = open_location(uri, storage)
    try:
        findings = list(_findings(output))
    except (TableError, ArtifactMismatchError) as error:
        findings = [Finding("error", str(error))]
    return sorted(findings, key=lambda finding: finding.severity)


def _findings(output: Location) -> Iterator[Finding]:
    refuse_other_files(output)
    if (log := open_log(output)) is not None:
        yield from _table_findings(log)
    runs = list(records(output))
    if log is None and not runs and not (output / RUNS).exists():
        what = f"{output}: there is no table and no run; check the URI, or run a job"
        yield Finding("error", what)
    for number, record in enumerate(runs):
        yield from _run_findings(output, record, is_last=number == 0)


def _table_findings(log: DeltaLog) -> Iterator[Finding]:
    log.check_sound()
    if missing := missing_files(log.location, log.files(log.version)):
        yield Finding(
            "error",
            f"{log.location}: {len(missing)} files of version {log.version} are missing or have "
            f"the wrong size, such as {missing[0]}; restore them, or run the job again to go back "
            "to a version that is whole",
        )
    elif wrong := wrong_bounds(log.location, log.files(log.version)):
        yield Finding(
            "error",
            f"{log.location}: {len(wrong)} files of version {log.version}, such as {wrong[0]}, "
            "cannot be read or have buckets outside the bounds in the log, so lookups by key miss "
            "rows; run another job there, or empty the table and publish the run again",
        )
    later = read_takedowns(log.location).after(log.takedowns(log.version))
    for number, entry in later.active.items():
        yield Finding(
            "error",
            f"{log.location}: version {log.version} may still have rows of takedown {number} "
            f"({entry.reason}); take them down again, or run any job that writes to this output",
        )


def _run_findings(output: Location, record: RunRecord, *, is_last: bool) -> Iterator[Finding]:
    status = status_of(output, record)
    if not status.is_published and not record.has_plan(output):
        yield Finding(
            "warning",
            f"{record.folder(output)}: files of the plan are missing or have the wrong size; run "
            "the job again to make a new plan",
        )
    if is_last and status.phase in NOTES and status.phase != "replaced":
        done = f"{status.num_done} of {record.num_rows} rows done"
        yield Finding("warning", f"{output}: run {record.run}, {done}: {NOTES[status.phase]}")


def history_of(uri: str, storage: StorageConfig | None = None) -> Iterator[tuple[str, ...]]:
    """Yield version, time, kind, rows, adapter and gate of each version, newest first.

    Raise ArtifactNotFoundError if there is no table.
    """
    log = the_log(open_location(uri, storage))
    for version in range(log.version, -1, -1):
        info, commit, shown = log.info(version), log.commit(version), log.shown(version)
        kind = commit.kind if commit else str(info.get("operation", "unknown")).lower()
        if commit is not None and (commit.target is not None or commit.kind == "takedown"):
            kind += f" of {commit.num_gone}" if commit.target is None else f" to {commit.target}"
        at = datetime.fromtimestamp(int(info.get("timestamp", 0)) / 1000, UTC)
        columns = ("-", "-", "-")
        if shown is not None:
            manifest = shown.manifest
            gate = manifest.metrics.get("gate", {})
            passed = {True: "passed", False: "not passed"}.get(gate.get("passed"), "-")
            forced = f", forced: {gate['forced']}" if "forced" in gate else ""
            rows = ", ".join(f"{count:,} {name}" for name, count in manifest.row_counts.items())
            columns = (rows, manifest.inputs.get("adapter", "-"), passed + forced)
        yield (str(version), f"{at:%Y-%m-%d %H:%M:%S}", kind, *columns)
