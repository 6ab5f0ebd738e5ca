"""What is wrong with the output of runs, and what mends it. Nothing is written.

It reads records, the table's log, and listings. It opens no data file, so a file that has its size
and other bytes is not found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from xrec.bulk.progress import now
from xrec.bulk.request import refuse_other_files
from xrec.bulk.run import RUNS, RunRecord, records
from xrec.bulk.status import status_of
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, TableError
from xrec.storage import Location, open_location
from xrec.storage.delta import DeltaLog, open_log

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with an output.

    severity: `error` if readers miss rows or a run cannot go on until it is mended; else `warning`.
    what: what is so, with the place and the values seen. mend: what to do about it.
    """

    severity: Severity
    what: str
    mend: str


def check_output(uri: str, storage: StorageConfig | None = None) -> list[Finding]:
    """What is wrong with the output at `uri`, errors first.

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


def _of_run(output: Location, record: RunRecord, *, is_last: bool) -> Iterator[Finding]:
    status = status_of(output, record)
    if not status.is_published and not record.has_plan(output):
        yield Finding(
            "warning",
            f"{record.folder(output)}: its plan lacks files, or they have another size",
            "run the job again, which makes another plan",
        )
    phase = status.phase(now())
    place = f"{output}: run {record.run}, {status.num_done} of {record.num_rows} rows done"
    if phase in ("silent", "stopped") and is_last:
        what = "its driver ended" if phase == "stopped" else "its driver gives no sign of life"
        yield Finding("warning", f"{place}: {what}", "run the job again, which goes on")
    elif phase == "done" and is_last and not status.is_published:
        yield Finding("warning", f"{place}, and not published", "run the job again")
