"""What is wrong with the output of runs, and what mends it. Nothing is written.

It reads records, the table's log, and listings. It opens no data file, so a file that has its size
and other bytes is not found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from xrec.bulk.plan import Plan
from xrec.bulk.progress import now
from xrec.bulk.run import RUNS, RunRecord, records, refuse_other_files
from xrec.bulk.status import status_of
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, TableError
from xrec.storage import Location, open_location
from xrec.storage.delta import DeltaLog, open_log

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with an output, or worth knowing.

    severity: `error` if readers miss rows or a run cannot go on until it is mended; `warning` if
        something is to be done; `note` if nothing need be done.
    what: what is so, with the place and the values seen. mend: what to do about it.
    """

    severity: Severity
    what: str
    mend: str


def check_output(uri: str, storage: StorageConfig | None = None) -> list[Finding]:
    """What is wrong with the output at `uri`, or worth knowing, errors first.

    Raises StorageError if the store cannot be used.
    """
    output = open_location(uri, storage or StorageConfig())
    try:
        findings = list(_findings(output))
    except (TableError, ArtifactMismatchError) as error:
        findings = [Finding("error", str(error), "restore the file, or give another output URI")]
    return sorted(findings, key=lambda finding: get_args(Severity).index(finding.severity))


def _findings(output: Location) -> Iterator[Finding]:
    refuse_other_files(output)
    log = open_log(output)
    if log is not None:
        yield from _of_table(log)
    there = list(records(output))
    if log is None and not there and not (output / RUNS).exists():
        yield Finding(
            "error", f"{output}: holds no table and no run", "check the URI, or run a job"
        )
    for number, record in enumerate(there):
        yield from _of_run(output, record, is_last=number == 0)
    yield from _of_leftovers(output, {record.run: record.nonce for record in there})


def _of_table(log: DeltaLog) -> Iterator[Finding]:
    place = f"{log.location}: version {log.version}"
    if not log.is_sound(log.version):
        yield Finding(
            "error",
            f"{place} has other files than its writer meant it to have: the table was deleted "
            "while its job ran",
            "run the job again, which goes back to the version before",
        )
    if missing := log.missing_files(log.version):
        yield Finding(
            "error",
            f"{place} lacks {len(missing)} of its files, or they have another size: {missing[0]}",
            "restore the files, or run the job again, which goes back to a version that is whole",
        )
    entry = log.entry(log.version)
    if entry.commit is None and entry.operation and not entry.operation.startswith("VACUUM"):
        yield Finding(
            "note", f"{place} was committed by another program ({entry.operation})", "nothing"
        )
    if log.decided_by(log.version) is None:
        yield Finding("note", f"{place}: xrec has published nothing there", "run a job")


def _of_run(output: Location, record: RunRecord, *, is_last: bool) -> Iterator[Finding]:
    folder = output / RUNS / record.run / record.nonce
    status = status_of(output, record)
    if (name := Plan(folder / "plan", record.size).lacks()) is not None and not status.is_published:
        yield Finding(
            "warning",
            f"{folder / 'plan'}: {name} is missing or has another size",
            "run the job again, which makes another plan",
        )
    phase = status.phase(now())
    place = f"{output}: run {record.run}, {status.num_done} of {record.num_rows} rows done"
    if phase == "running":
        assert status.progress is not None
        yield Finding(
            "note", f"{place}: {status.progress.holder} works on it", "nothing: it goes on"
        )
    elif phase in ("silent", "stopped") and is_last:
        what = "its driver ended" if phase == "stopped" else "its driver gives no sign of life"
        yield Finding("warning", f"{place}: {what}", "run the job again, which goes on")
    elif phase == "done" and is_last and not status.is_published:
        yield Finding("warning", f"{place}, and not published", "run the job again")
    elif phase == "planned":
        yield Finding("note", f"{place}: no driver has begun", "run its job")


def _of_leftovers(output: Location, named: dict[str, str]) -> Iterator[Finding]:
    for run in (output / RUNS).folders():
        left = [each for each in (output / RUNS / run).folders() if each != named.get(run)]
        if left:
            yield Finding(
                "note",
                f"{output / RUNS / run}: {len(left)} plans that no record names, such as {left[0]}",
                "vacuum deletes them once they are older than its retention",
            )
