"""A run: its record, its plan, its passes, and its rows as the last pass left them.

The docstring of xrec.bulk lists the files. `plan/` and `results/` of retry p are in
`pass-<p>-<key>/`; the plan's folder has the rejected rows too, in `rejected.parquet`.
"""

import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.log import DeltaLog, Shown
from xrec.bulk.plan import Plan, PlanSize, write_plan
from xrec.bulk.results import ResultFolder
from xrec.bulk.rows import TAKEN_DOWN, RowFormat, Summary
from xrec.config import StorageConfig
from xrec.errors import LeaseError, StorageNotFoundError, TableError
from xrec.storage import Location, Record, fingerprint_of, request_each, run_fingerprint

RUNS = "_xrec/runs"
_HELD = 16
"""How many results of a retry are kept in memory while its rows are merged into the first pass."""
_RECORD, _PASS = re.compile(r"run-(\d+)\.json"), re.compile(r"pass-(\d+)\.json")


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """The current time, and how often a command acts.

    wait: waits for an event for at most this many seconds. seconds_between_signs: between renewals
    of the lease. seconds_between_looks: between reports of the progress.
    """

    now: Callable[[], datetime] = now
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait
    seconds_between_signs: float = 15.0
    seconds_between_looks: float = 2.0


REAL = Clock()


class Identity(Record):
    """What the rows of a run depend on.

    config: the settings. inputs: fingerprints of the inputs.
    """

    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]

    @property
    def run(self) -> str:
        """The fingerprint recorded in the manifest."""
        return run_fingerprint(self.kind, self.config, self.inputs)

    def name(self, rows_fingerprint: str) -> str:
        """Return the name of the run that processes these rows."""
        return fingerprint_of([self.run, rows_fingerprint])


class Base(NamedTuple):
    """The table's ID and newest version when a command began."""

    table: str | None = None
    version: int = -1

    @classmethod
    def of(cls, log: DeltaLog | None) -> "Base":
        return cls() if log is None else cls(log.id, log.version)


class RunRecord(Record):
    """The content of `run-<k>.json`.

    run: the run's name, a fingerprint of identity and rows. nonce: the name of the folder with its
        plan and results, which is unique to this plan.
    rows_fingerprint: a hash of the set of rows. rejected: number of rows left out, by reason.
    listing: the store's listing of the input files when they were read (`listing_of`).
    num_buckets: C; a row's bucket is which of C equal ranges contains the hash of its first key.
    takedowns: the numbers of the takedowns that kept rows out of the plan.
    """

    layout: Literal[3] = 3
    run: str
    identity: Identity
    nonce: str
    rows_fingerprint: str
    listing: dict[str, list[str]]
    rejected: dict[str, int]
    num_buckets: int
    size: PlanSize
    planned_at: float = 0.0
    takedowns: tuple[int, ...] = ()

    def folder(self, output: Location) -> Location:
        """Return the folder that contains the plan and the results."""
        return output / RUNS / self.run / self.nonce

    def is_of(self, shown: Shown | None) -> bool:
        """Return whether rows of this plan are shown."""
        return shown is not None and (shown.run, shown.nonce) == (self.run, self.nonce)

    def has_plan(self, output: Location) -> bool:
        """Return whether all files of the plan and the records of all passes exist."""
        numbers = pass_numbers(self.folder(output))
        is_whole = Plan(self.folder(output) / "plan", self.size).is_whole()
        return is_whole and numbers == list(range(1, len(numbers) + 1))

    @property
    def num_rows(self) -> int:
        return self.size.num_rows

    @property
    def num_rejected(self) -> int:
        """The number of input rows with invalid IDs."""
        return sum(self.rejected.values()) - self.num_taken_down

    @property
    def num_taken_down(self) -> int:
        """The number of input rows that were already taken down."""
        return self.rejected.get(TAKEN_DOWN, 0)


class PassRecord(Record):
    """The content of `pass-<p>.json`: a retry of rows that failed for these reasons."""

    key: str
    reasons: tuple[str, ...]
    size: PlanSize


@dataclass(frozen=True)
class Pass:
    """A pass over the rows: pass 0 has all of them, a later pass the rows to retry."""

    number: int
    folder: Location
    size: PlanSize
    reasons: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        return Plan(self.folder / "plan", self.size)

    @property
    def results(self) -> ResultFolder:
        return ResultFolder(self.folder / "results")

    @property
    def is_done(self) -> bool:
        """Whether every chunk has a result, according to one listing."""
        return len(self.results.sizes()) >= self.size.num_chunks


@dataclass(frozen=True)
class BulkRun:
    """A planned run, as returned by `xrec.bulk.open_run`.

    base: what was published when this command began. clock: for tests of drivers that take long.
    """

    output: Location
    record: RunRecord
    format: RowFormat
    storage: StorageConfig
    base: Base
    clock: Clock = REAL

    @property
    def folder(self) -> Location:
        return self.record.folder(self.output)

    def passes(self) -> list[Pass]:
        """Return all passes in order; raise TableError if one was deleted."""
        passes = [Pass(0, self.folder, self.record.size)]
        for number in pass_numbers(self.folder):
            record = None
            with suppress(StorageNotFoundError):
                record = PassRecord.read(self.folder / f"pass-{number}.json")
            if record is None or number != len(passes):
                raise TableError(
                    f"{self.folder}: pass-{len(passes)}.json was deleted; run the job again to "
                    "make a new plan",
                    code="pass_deleted",
                    key=f"pass-{len(passes)}.json",
                )
            folder = self.folder / f"pass-{number}-{record.key}"
            passes.append(Pass(number, folder, record.size, record.reasons))
        return passes

    def begin_pass(self, number: int, reasons: tuple[str, ...], chunks: Iterable[pa.Table]) -> None:
        """Write the plan of a retry, and record it unless the pass already exists."""
        key = uuid.uuid4().hex[:16]
        size = write_plan(self.folder / f"pass-{number}-{key}" / "plan", chunks)
        record = PassRecord(key=key, reasons=reasons, size=size)
        (self.folder / f"pass-{number}.json").create_bytes(record.to_bytes())

    def is_current(self) -> bool:
        """Return whether the newest record still names this plan."""
        newest = newest_record(self.output, self.record.run)
        return newest is not None and newest[1].nonce == self.record.nonce

    def check_is_current(self, when: str) -> None:
        """Raise LeaseError if the plan was replaced; `when` says what was in progress."""
        if not self.is_current():
            raise LeaseError(
                f"{self.output}: while {when}, the run's plan was deleted and made again, or "
                "replaced because a takedown was lifted; run the job again to continue with the "
                "new plan",
                code="plan_replaced",
                key=self.record.run,
                saw=self.record.nonce,
            )


def pass_numbers(folder: Location) -> list[int]:
    """Return the sorted numbers of the retries recorded in a run's folder."""
    return sorted(int(match[1]) for match in map(_PASS.fullmatch, folder.sizes()) if match)


def records(output: Location) -> Iterator[RunRecord]:
    """Yield the newest record of each run, most recently planned run first."""
    newest = [newest_record(output, name) for name in (output / RUNS).folders()]
    runs = [record for _, record in filter(None, newest)]
    yield from sorted(runs, key=lambda record: -record.planned_at)


def newest_record(output: Location, run: str) -> tuple[int, RunRecord] | None:
    """Return the number k and the content of a run's newest record, or None."""
    folder = output / RUNS / run
    numbers = [int(match[1]) for match in map(_RECORD.fullmatch, folder.sizes()) if match]
    for number in sorted(numbers, reverse=True):
        with suppress(StorageNotFoundError):
            return number, RunRecord.read(folder / f"run-{number}.json")
    return None


def final_rows(
    format: RowFormat, passes: Sequence[Pass], chunks: Iterable[int]
) -> Iterator[tuple[pa.Table, Summary]]:
    """Yield the rows of chunks of the first pass as the last pass left them.

    The summaries cover all passes and add up to the summary of these rows.
    """
    read, *later = (partial(work.results.read, schema=format.table_schema) for work in passes)
    plans = (work.plan for work in passes[1:])
    retries = list(zip(plans, map(lru_cache(_HELD), later), strict=True))

    def final(chunk: int) -> tuple[pa.Table, Summary]:
        rows, summary = read(chunk)
        for plan, read_retried in retries:
            for number, begins_here in plan.chunks_of(chunk):
                retried, of_retry = read_retried(number)
                rows = _replaced(rows, retried, format)
                summary += of_retry if begins_here else Summary()
        return rows, summary

    return request_each(final, chunks)


def _replaced(rows: pa.Table, retried: pa.Table, format: RowFormat) -> pa.Table:
    """Return the rows of a chunk with the retried ones replaced."""
    least, greatest = (rows["bucket"][index].as_py() for index in (0, -1))
    near = retried.filter((pc.field("bucket") >= least) & (pc.field("bucket") <= greatest))
    own = near.filter(format.are_among(near, rows))
    if not own.num_rows:
        return rows
    others = rows.filter(pc.invert(format.are_among(rows, own)))
    return format.sorted(pa.concat_tables([others, own])).combine_chunks()
