"""A run: its record and plan, and its passes.

_xrec/runs/<run>/run-<k>.json               RunRecord; the highest k counts
_xrec/runs/<run>/<nonce>/plan/              the first pass's plan, and rejected.parquet
_xrec/runs/<run>/<nonce>/results/           a file for each chunk of it that is done
_xrec/runs/<run>/<nonce>/pass-<p>.json      PassRecord of a retry, p = 1, 2, ...
_xrec/runs/<run>/<nonce>/pass-<p>-<key>/    its plan/ and results/
_xrec/runs/<run>/<nonce>/driver.json        who is at work, and how far (progress)
_xrec/runs/<run>/<nonce>/counted.json       counts of results, so that they are read once (progress)
_xrec/runs/<run>/<nonce>/starts/            what each driver's start cost besides its rows
"""

import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from xrec.bulk.runs.plan import Plan, PlanSize, write_plan
from xrec.bulk.runs.result import ResultFolder
from xrec.bulk.runs.row_format import RowFormat
from xrec.bulk.takedown import TAKEN_DOWN
from xrec.config.shared import StorageConfig
from xrec.errors import LeaseError, StorageNotFoundError, TableError
from xrec.storage import Location, Record, fingerprint_of, run_fingerprint
from xrec.storage.delta import Commit, DeltaLog, open_log

RUNS = "_xrec/runs"
_RECORD, _PASS = re.compile(r"run-(\d+)\.json"), re.compile(r"pass-(\d+)\.json")


class Identity(Record):
    """What the rows of a run depend on.

    config: the settings; inputs: the fingerprints of what they are made from.
    """

    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]

    @property
    def run(self) -> str:
        """The fingerprint that the manifest has."""
        return run_fingerprint(self.kind, self.config, self.inputs)

    def name(self, rows_fingerprint: str) -> str:
        """The name of the run that does these rows."""
        return fingerprint_of([self.run, rows_fingerprint])


class Base(NamedTuple):
    """What was published when a command began: the table's id, and its newest version."""

    table: str | None = None
    version: int = -1

    @classmethod
    def of(cls, log: DeltaLog | None) -> "Base":
        """What the log says that was opened."""
        return cls() if log is None else cls(log.id, log.version)

    @classmethod
    def at(cls, output: Location) -> "Base":
        """Return what is published at `output` now."""
        return cls.of(open_log(output))


class RunRecord(Record):
    """What `run-<k>.json` holds.

    run: the run's name, a fingerprint of identity and rows. nonce: the folder of its plan and
        results, which nobody else writes to.
    rows_fingerprint: a hash of the set of rows. rejected: rows that are in no chunk, by reason.
    listing: what the inputs' store said of their files when they were read (`listing_of`).
    num_buckets: C; the bucket of a row is which of C equal ranges has the hash of its first key.
    takedowns: the numbers of those that kept rows out of the plan.
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
        """Where its plan and its results are."""
        return output / RUNS / self.run / self.nonce

    def is_of(self, commit: Commit) -> bool:
        """Whether the commit published rows of this plan."""
        return (commit.run, commit.nonce) == (self.run, self.nonce)

    def has_plan(self, output: Location) -> bool:
        """Whether all files of its plan are there, and the records of all passes."""
        numbers = pass_numbers(self.folder(output))
        is_whole = Plan(self.folder(output) / "plan", self.size).is_whole()
        return is_whole and numbers == list(range(1, len(numbers) + 1))

    @property
    def num_rows(self) -> int:
        return self.size.num_rows

    @property
    def num_rejected(self) -> int:
        """How many rows of the input have ids that are none."""
        return sum(self.rejected.values()) - self.num_taken_down

    @property
    def num_taken_down(self) -> int:
        """How many rows were taken down before they were planned."""
        return self.rejected.get(TAKEN_DOWN, 0)


class PassRecord(Record):
    """What `pass-<p>.json` holds: a retry of the rows that had failed for these reasons."""

    key: str
    reasons: tuple[str, ...]
    size: PlanSize


@dataclass(frozen=True)
class Pass:
    """A pass: number 0 has all rows, each later one those that were to be done again."""

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
        """Whether each chunk has a result; it takes one listing, and opens none of them."""
        return len(self.results.sizes()) >= self.size.num_chunks


@dataclass(frozen=True)
class BulkRun:
    """A run that is planned; `xrec.bulk.open_run` makes one.

    base: what was published when this command began; its defaults if there was no table.
    """

    output: Location
    record: RunRecord
    format: RowFormat
    storage: StorageConfig
    base: Base

    @property
    def folder(self) -> Location:
        """Where its plan and its results are."""
        return self.record.folder(self.output)

    def passes(self) -> list[Pass]:
        """All passes that were begun, in their order; raises TableError if one was deleted."""
        passes = [Pass(0, self.folder, self.record.size)]
        for number in pass_numbers(self.folder):
            found = None
            with suppress(StorageNotFoundError):
                found = PassRecord.read(self.folder / f"pass-{number}.json")
            if found is None or number != len(passes):
                raise TableError(
                    f"{self.folder}: pass-{len(passes)}.json was deleted; run the job again, which "
                    "makes another plan",
                    code="pass_deleted",
                    key=f"pass-{len(passes)}.json",
                )
            folder = self.folder / f"pass-{number}-{found.key}"
            passes.append(Pass(number, folder, found.size, found.reasons))
        return passes

    def begin_pass(self, number: int, reasons: tuple[str, ...], chunks: Iterable[pa.Table]) -> None:
        """Write the plan of a retry, and name it if there is no pass of that number."""
        key = uuid.uuid4().hex[:16]
        folder = self.folder / f"pass-{number}-{key}"
        size = write_plan(folder / "plan", chunks)
        record = PassRecord(key=key, reasons=reasons, size=size)
        file = self.folder / f"pass-{number}.json"
        file.create_bytes(record.to_bytes())

    def is_current(self) -> bool:
        """Whether the newest record still names this plan; else it was deleted meanwhile."""
        newest = newest_record(self.output, self.record.run)
        return newest is not None and newest[1].nonce == self.record.nonce

    def check_is_current(self, when: str) -> None:
        """Raise LeaseError if the plan was deleted; `when` says what was being done meanwhile."""
        if not self.is_current():
            raise LeaseError(
                f"{self.output}: the run's plan was deleted and made anew while {when}, or "
                "replaced, as a takedown was lifted; run the job again to go on with the new plan",
                code="plan_replaced",
                key=self.record.run,
                saw=self.record.nonce,
            )


def pass_numbers(folder: Location) -> list[int]:
    """The numbers of the retries that a run's folder has records of, sorted."""
    return sorted(int(match[1]) for match in map(_PASS.fullmatch, folder.sizes()) if match)


def records(output: Location) -> Iterator[RunRecord]:
    """The newest record of each run at `output`, the last planned run first."""
    found = [newest_record(output, name) for name in (output / RUNS).folders()]
    there = [record for _, record in filter(None, found)]
    yield from sorted(there, key=lambda record: -record.planned_at)


def newest_record(output: Location, run: str) -> tuple[int, RunRecord] | None:
    """The highest k of a run's records, and that record; None if there is none."""
    folder = output / RUNS / run
    numbers = [int(match[1]) for match in map(_RECORD.fullmatch, folder.sizes()) if match]
    for number in sorted(numbers, reverse=True):
        with suppress(StorageNotFoundError):
            return number, RunRecord.read(folder / f"run-{number}.json")
    return None
