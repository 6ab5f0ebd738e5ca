"""A run: its record and plan, and its passes. `open_run` plans it, or opens what is there.

_xrec/runs/<run>/run-<k>.json               RunRecord; the highest k counts
_xrec/runs/<run>/<nonce>/plan/              the first pass's plan, and rejected rows
_xrec/runs/<run>/<nonce>/results/           a file for each chunk of it that is done
_xrec/runs/<run>/<nonce>/pass-<p>.json      PassRecord of a retry, p = 1, 2, ...
_xrec/runs/<run>/<nonce>/pass-<p>-<key>/    its plan/ and results/
_xrec/runs/<run>/<nonce>/driver.json        who is at work, and how far (progress)
"""

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.dataset as pads
from pydantic import BaseModel, ConfigDict, ValidationError

from xrec.bulk.plan import Plan, PlanSize, write_plan
from xrec.bulk.result import ResultFolder
from xrec.bulk.row_format import OK, RowFormat
from xrec.bulk.spill import Spill
from xrec.bulk.table import open_whole, refuse_other_table
from xrec.config.shared import StorageConfig
from xrec.errors import (
    ArtifactMismatchError,
    DataError,
    StorageError,
    StorageNotFoundError,
    TableError,
)
from xrec.schemas import REJECTED
from xrec.storage import (
    Location,
    fingerprint_of,
    open_location,
    parquet_bytes,
    read_table,
    run_fingerprint,
    storage_errors,
)
from xrec.storage.delta import LOG, DeltaLog, check_sound, dataset_of, file_errors, open_log

RUNS = "_xrec/runs"
ROWS_PER_CHUNK = 1024
ROWS_PER_BUCKET = 1024
_CHANCES_TO_PLAN = 4
_RECORD = re.compile(r"run-(\d+)\.json")

Batches = Iterable[tuple[pa.Table, pa.Table]]
"""Good rows and rejected ones, as `clean_keys` gives them."""

M = TypeVar("M", bound=BaseModel)


class Identity(BaseModel):
    """What the rows of a run depend on.

    config: the settings; inputs: the fingerprints of what they are made from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]

    @property
    def run(self) -> str:
        """The fingerprint that the manifest has."""
        return run_fingerprint(self.kind, self.config, self.inputs)


class Base(BaseModel):
    """What was published when a command began.

    table: the table's id; None if there was no table. version: the newest one; -1 without a table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str | None = None
    version: int = -1


class RunRecord(BaseModel):
    """What `run-<k>.json` holds.

    run: the run's name, a fingerprint of identity and rows. nonce: the folder of its plan and
        results, which nobody else writes to.
    rows_fingerprint: a hash of the set of rows. rejected: rows that are in no chunk, by reason.
    listing: what the inputs' store said of their files when they were read (`listing_of`).
    num_buckets: C; the bucket of a row is which of C equal ranges has the hash of its first key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[2] = 2
    run: str
    identity: Identity
    nonce: str
    rows_fingerprint: str
    listing: dict[str, list[str]]
    rejected: dict[str, int]
    num_buckets: int
    size: PlanSize
    planned_at: float = 0.0

    @property
    def num_rows(self) -> int:
        """How many rows are planned."""
        return self.size.num_rows

    @property
    def num_rejected(self) -> int:
        """How many rows of the input are in no chunk."""
        return sum(self.rejected.values())


class PassRecord(BaseModel):
    """What `pass-<p>.json` holds: a retry of the rows that had failed for these reasons."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        """Its rows, by chunk."""
        return Plan(self.folder / "plan", self.size)

    @property
    def results(self) -> ResultFolder:
        """The results of its chunks."""
        return ResultFolder(self.folder / "results")


@dataclass(frozen=True)
class BulkRun:
    """A run that is planned; `open_run` makes one.

    base: what was published when this command began.
    """

    output: Location
    record: RunRecord
    format: RowFormat
    storage: StorageConfig
    base: Base

    @property
    def folder(self) -> Location:
        """Where its plan and its results are."""
        return self.output / RUNS / self.record.run / self.record.nonce

    def passes(self) -> list[Pass]:
        """All passes that were begun, in their order."""
        passes = [Pass(0, self.folder, self.record.size)]
        while (found := _read(self.folder / f"pass-{len(passes)}.json", PassRecord)) is not None:
            number = len(passes)
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
        file.create_bytes(record.model_dump_json(indent=2).encode())

    def is_current(self) -> bool:
        """Whether the newest record still names this plan; else it was deleted meanwhile."""
        newest = newest_record(self.output, self.record.run)
        return newest is not None and newest[1].nonce == self.record.nonce

    def rejected(self) -> pa.Table:
        """The rows of the input that are in no chunk, with their reasons (schema REJECTED)."""
        return read_table(self.folder / "plan" / "rejected.parquet", REJECTED)


def open_run(
    uri: str,
    identity: Identity,
    format: RowFormat,
    batches: Callable[[], Batches],
    *,
    listing: Mapping[str, list[str]],
    rows_per_chunk: Callable[[int], int] | int = ROWS_PER_CHUNK,
    carry_from: str | None = None,
    storage: StorageConfig | None = None,
) -> BulkRun:
    """Plan the run at `uri`, or open the plan that is there.

    `batches` is called, and the input read, only if there is no plan of this identity whose inputs
    had the same `listing`. Several drivers may call this at the same time; they get the same plan.
    If the input cannot be read, nothing is written.

    rows_per_chunk: the largest number of rows of a chunk, or a function that gets the number of
        rows and returns it. A run that is planned keeps its own.
    carry_from: the URI of a table whose published rows are taken over where the task, a
        `CarryingTask`, finds them still good. It may be `uri` itself, or have nothing published.

    Raises DataError if there are no good rows; TableError if other files are at `uri`, or its
    newest version is not sound; ArtifactMismatchError if the table of `carry_from` has other
    columns; ValueError for `carry_from` if a row becomes several (`RowFormat.ok_keys`).
    """
    if carry_from is not None and format.ok_keys:
        raise ValueError(
            f"carry_from = {carry_from}: rows of {format.ok_keys} are not carried over"
        )
    storage = storage or StorageConfig()
    output = open_location(uri, storage)
    refuse_other_files(output)
    base = base_of(open_whole(output))
    found = find_record(output, identity, listing)
    if found is not None:
        return BulkRun(output, found, format, storage, base)
    check_conditional_writes(output)
    with counted_rows(batches(), format.key_schema) as (spill, rejected):
        name = name_of(identity, spill.fingerprint)
        size = rows_per_chunk if isinstance(rows_per_chunk, int) else rows_per_chunk(spill.num_rows)
        for _ in range(_CHANCES_TO_PLAN):
            newest = newest_record(output, name)
            if newest is not None and is_whole(output, newest[1]):
                return BulkRun(output, newest[1], format, storage, base)
            nonce = uuid.uuid4().hex[:16]
            folder = output / RUNS / name / nonce / "plan"
            num_buckets = num_buckets_for(spill.num_rows)
            earlier = _earlier(carry_from, output, format, storage)
            record = RunRecord(
                run=name,
                identity=identity,
                nonce=nonce,
                rows_fingerprint=spill.fingerprint,
                listing=dict(listing),
                rejected=rejected_by_reason(rejected),
                num_buckets=num_buckets,
                size=write_plan(folder, spill.chunks(size, num_buckets, *earlier)),
                planned_at=time.time(),
            )
            (folder / "rejected.parquet").write_bytes(parquet_bytes(rejected, REJECTED))
            number = 0 if newest is None else newest[0] + 1
            file = output / RUNS / name / f"run-{number}.json"
            file.create_bytes(record.model_dump_json(indent=2).encode())
    raise TableError(
        f"{output}: the plan of run {name} was deleted while it was made; let nothing delete files "
        "there and run the job again"
    )


def is_whole(output: Location, record: RunRecord) -> bool:
    """Whether the plan that a record names has all of its files."""
    return Plan(output / RUNS / record.run / record.nonce / "plan", record.size).lacks() is None


def listing_of(location: Location) -> dict[str, list[str]]:
    """Each file below `location` (or itself) with its size and its ETag or time of change.

    It takes one listing. A file that was written again since has another ETag or time.
    """
    with storage_errors(location.uri):
        found = location.fs.find(location.path, detail=True)
    return {
        str(path): [str(info["size"]), str(info.get("ETag") or info.get("mtime"))]
        for path, info in sorted(found.items())
    }


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
        if (record := _read(folder / f"run-{number}.json", RunRecord)) is not None:
            return number, record
    return None


def find_record(
    output: Location, identity: Identity, listing: Mapping[str, list[str]] | None = None
) -> RunRecord | None:
    """The record of a run of this identity whose plan is whole; the last planned one first.

    listing: only one whose inputs had this listing.
    """
    for record in records(output):
        if record.identity.run != identity.run:
            continue
        if listing is not None and record.listing != dict(listing):
            continue
        if is_whole(output, record):
            return record
    return None


def known_name(
    output: Location, identity: Identity, listing: Mapping[str, list[str]]
) -> str | None:
    """The name of the run of this identity whose inputs had this listing; None if none is known."""
    found = (each for each in records(output) if each.identity.run == identity.run)
    return next((each.run for each in found if each.listing == dict(listing)), None)


def name_of(identity: Identity, rows_fingerprint: str) -> str:
    """The name of a run: a fingerprint of its identity and its rows."""
    return fingerprint_of([identity.run, rows_fingerprint])


def base_of(log: DeltaLog | None) -> Base:
    """What is published, as the log says that was opened."""
    return Base() if log is None else Base(table=log.id, version=log.version)


def refuse_other_files(output: Location) -> None:
    """Raise TableError if `output` holds files, but no run and no table of this xrec."""
    if (log := open_log(output)) is not None:
        refuse_other_table(log)
    left = re.compile(r"part-[0-9a-f]{32}\.parquet|_report")  # of a table that was deleted by hand
    there = [name for name in (*output.sizes(), *output.folders()) if not left.fullmatch(name)]
    if there and LOG not in there and RUNS.partition("/")[0] not in there:
        raise TableError(
            f"{output}: holds other files, such as {sorted(there)[0]}; give a folder that is empty "
            "or not there"
        )


def check_conditional_writes(output: Location) -> None:
    """Raise TableError if the store of `output` lets a file be created twice."""
    probe = output / "_xrec" / f"conditional-write-{uuid.uuid4().hex}"
    try:
        is_created = probe.create_bytes(b"1")
        answer = "" if is_created and not probe.create_bytes(b"2") else "a file was created twice"
    except StorageError as error:
        probe.write_bytes(b"3")  # raises if it is not the condition that the store refuses
        answer = str(error)
    finally:
        probe.delete()
    if answer:
        raise TableError(
            f"{output}: the store has no conditional writes (If-None-Match), so two drivers could "
            f"write one file ({answer}); use a store that has them, as AWS S3 and SeaweedFS do"
        )


@contextmanager
def counted_rows(batches: Batches, schema: pa.Schema) -> Iterator[tuple[Spill, pa.Table]]:
    """Within `with`: the distinct good rows on this machine's disk, and the rejected ones.

    Raises DataError if there are no good rows.
    """
    rejected: list[pa.Table] = [REJECTED.empty_table()]
    spill = Spill(_good_rows(batches, rejected), schema)
    try:
        bad = pa.concat_tables(rejected)
        if spill.num_rows == 0:
            raise DataError(f"there are no rows to do; {bad.num_rows} were rejected{_first(bad)}")
        yield spill, bad
    finally:
        spill.delete()


def rejected_by_reason(rejected: pa.Table) -> dict[str, int]:
    """How many rows were rejected, by reason."""
    return dict(Counter(rejected["reason"].to_pylist()))


def num_buckets_for(num_rows: int) -> int:
    """C, the least power of two with at most `ROWS_PER_BUCKET` rows a bucket on average."""
    return 1 << max(0, (-(-num_rows // ROWS_PER_BUCKET) - 1).bit_length())


def _earlier(
    uri: str | None, output: Location, format: RowFormat, storage: StorageConfig
) -> tuple[Iterator[pa.Table], pa.Schema | None]:
    """The rows that succeeded in what is published at `uri`, and their columns."""
    location = None if uri is None else open_location(uri, storage)
    log = None if location is None else open_log(location)
    if location is None or log is None:
        return iter(()), None
    check_sound(log)
    there = pa.schema(log.delta.schema().to_arrow())
    differing = [
        f"{field.name}: {there.field(field.name).type if field.name in there.names else 'none'} "
        f"there, {field.type} here"
        for field in format.ok_schema
        if field.name not in there.names or there.field(field.name).type != field.type
    ]
    if differing and location.shared_uri == output.shared_uri:
        return iter(()), None  # an older xrec published it
    if differing:
        raise ArtifactMismatchError(
            f"{uri}: its rows have other columns, so none can be carried over: "
            + ", ".join(differing)
        )
    dataset = dataset_of(log, log.version, format.table_schema, status=OK)
    return _batches(dataset, format.ok_schema.names, location), format.ok_schema


def _batches(dataset: pads.Dataset, names: list[str], location: Location) -> Iterator[pa.Table]:
    with file_errors(location):
        for each in dataset.to_batches(columns=names):
            yield pa.Table.from_batches([each])


def _good_rows(batches: Batches, rejected: list[pa.Table]) -> Iterator[pa.Table]:
    for good, bad in batches:
        if bad.num_rows:
            rejected.append(bad)
        yield good


def _first(rejected: pa.Table) -> str:
    if not rejected.num_rows:
        return ""
    row = rejected.slice(0, 1).to_pylist()[0]
    return f", the first at {row['file']}, line {row['line']}: {row['reason']} ({row['text']})"


def _read(file: Location, model: type[M]) -> M | None:
    """What a record says; None if there is none.

    Raises ArtifactMismatchError if this xrec cannot read it.
    """
    try:
        return model.model_validate_json(file.read_bytes())
    except StorageNotFoundError:
        return None
    except ValidationError as error:
        raise ArtifactMismatchError(
            f"{file}: not a record that this xrec reads: {error}; use the xrec that wrote it, or "
            "give another output URI"
        ) from error
