"""The plan of a run says which rows are in which chunk; it is written once.

A driver first writes the rows of all chunks as Parquet files of many chunks each, a row group a
chunk, in a folder of its own; then an index of the chunks; and then `plan.json`, which can be
created only once and names the folder. So a plan that exists is complete, and no other driver
writes to its files.
"""

import io
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from xrec.bulk.carry import CarryFrom
from xrec.bulk.spill import Spill
from xrec.errors import ArtifactMismatchError, DataError, StorageNotFoundError
from xrec.schemas import REJECTED
from xrec.storage import (
    Location,
    differing_fields,
    parquet_bytes,
    read_footer,
    read_known_row_group,
    read_table,
    run_fingerprint,
    storage_errors,
)

FOLDER = "_xrec"
PLAN = f"{FOLDER}/plan.json"
_ROWS_PER_PART = 2**20
_INDEX = pa.schema(
    [
        pa.field("chunk", pa.int64(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
    ]
)


class Identity(BaseModel):
    """What the rows of an output depend on, so that an output belongs to one run.

    config: the settings; inputs: the fingerprints of artifacts, URIs of tables and the like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]

    @property
    def run(self) -> str:
        """The run's fingerprint, as its manifest has it."""
        return run_fingerprint(self.kind, self.config, self.inputs)


class PlanRecord(BaseModel):
    """What `plan.json` holds.

    listing: what the inputs' store said of their files when they were read (`listing_of`).
    rows_fingerprint: a hash of the set of rows.
    num_buckets: C; the bucket of a row is hash(first key) mod C, and that of a chunk is its number
        mod C.
    folder: where the parts and the index lie, relative to the output.
    parts: the number of bytes of each part.
    carry: the earlier run that rows are carried over from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[1]
    identity: Identity
    listing: dict[str, list[str]]
    rows_fingerprint: str
    num_rows: int
    num_rejected: int
    num_chunks: int
    num_buckets: int
    folder: str
    parts: list[int]
    carry: CarryFrom | None = None


@dataclass(frozen=True)
class PlannedChunk:
    """A chunk: where its rows are, and how many."""

    number: int
    file: str
    row_group: int
    num_rows: int


@dataclass(frozen=True)
class Plan:
    """The plan of the run at `output`; its chunks take 20 bytes each."""

    output: Location
    record: PlanRecord
    index: pa.Table = field(repr=False)

    @property
    def run(self) -> str:
        """The run's fingerprint."""
        return self.record.identity.run

    def left(self, done: npt.NDArray[np.int64]) -> pa.Table:
        """The rows of `index` without those of the chunks `done`, in the order of their numbers."""
        return self.index.filter(pa.array(~np.isin(self.index["chunk"].to_numpy(), done)))

    def chunks(self, index: pa.Table | None = None) -> Iterator[PlannedChunk]:
        """All chunks, or those that `index` has, a part of the plan's index."""
        index = self.index if index is None else index
        columns = [index[name].to_numpy() for name in _INDEX.names]
        for number, part, row_group, rows in zip(*columns, strict=True):
            file = f"{self.record.folder}/{_part_name(int(part))}"
            yield PlannedChunk(int(number), file, int(row_group), int(rows))

    def rejected(self) -> pa.Table:
        """The rows of the input that are in no chunk, with their reasons (schema REJECTED)."""
        return read_table(self.output / self.record.folder / "rejected.parquet", REJECTED)


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


def read_plan(output: Location) -> Plan:
    """The plan at `output`.

    Raises StorageNotFoundError if there is none, ArtifactMismatchError if this xrec cannot read it,
    DataError if a part of it is missing or was changed.
    """
    record = read_record(output)
    return Plan(output, record, _read_index(output, record))


def read_record(output: Location) -> PlanRecord:
    """`plan.json` of the plan at `output`, which is one request.

    Raises StorageNotFoundError if there is none, ArtifactMismatchError if this xrec cannot read it.
    """
    data = (output / PLAN).read_bytes()
    try:
        return PlanRecord.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactMismatchError(
            f"{output / PLAN}: not a plan that this xrec reads: {error}; give another output URI, "
            "or use the xrec that wrote it"
        ) from error


def find_plan(
    output: Location, identity: Identity, listing: Mapping[str, list[str]]
) -> Plan | None:
    """The plan at `output` if it is of this run and no input changed since; no input is read.

    Returns None if there is no plan, or if the inputs' files are others than then; `make_plan`
    then reads them. Raises ArtifactMismatchError, which names the fields that differ, if the plan
    is of another run; and what `read_plan` raises.
    """
    try:
        plan = read_plan(output)
    except StorageNotFoundError:
        return None
    _refuse_other_run(plan, identity)
    return plan if plan.record.listing == dict(listing) else None


def make_plan(
    output: Location,
    identity: Identity,
    listing: Mapping[str, list[str]],
    batches: Iterable[tuple[pa.Table, pa.Table]],
    schema: pa.Schema,
    *,
    rows_per_chunk: int,
    carry: CarryFrom | None = None,
    before_writing: Callable[[], object] = lambda: None,
) -> Plan:
    """Write the plan if there is none, and return the one that is there.

    batches: good and rejected rows, as `clean_keys` gives them; good ones have `schema`.
    Duplicates of good rows are dropped.
    carry: the earlier run that rows are to be carried over from, which is pinned.
    before_writing: called once the rows have been read; until then nothing is written.

    Raises DataError if there are no good rows; ArtifactMismatchError if the output has a plan of
    another run, or of other rows.
    """
    rejected: list[pa.Table] = [REJECTED.empty_table()]
    spill = Spill(_good_rows(batches, rejected), schema)
    try:
        bad = pa.concat_tables(rejected)
        _refuse_no_rows(spill, bad)
        before_writing()
        if not (output / PLAN).is_file():
            record = _write(output, identity, listing, spill, bad, rows_per_chunk)
            record = record.model_copy(update={"carry": carry})
            (output / PLAN).create_bytes(record.model_dump_json(indent=2).encode())
            if read_record(output).folder != record.folder:
                (output / record.folder).delete()  # another driver was first
        plan = read_plan(output)
        _refuse_other_run(plan, identity)
        refuse_other_rows(plan, spill.num_rows, spill.fingerprint)
        return plan
    finally:
        spill.delete()


@dataclass(frozen=True)
class RowCounts:
    """What a plan would have. num_given: of good rows, duplicates included; rejected: by reason."""

    num_given: int
    num_rows: int
    num_chunks: int
    rejected: Mapping[str, int]
    rows_fingerprint: str


def count_rows(
    batches: Iterable[tuple[pa.Table, pa.Table]], schema: pa.Schema, *, rows_per_chunk: int
) -> RowCounts:
    """Read what `make_plan` would read, and write nothing but to this machine's temporary folder.

    Raises DataError if there are no good rows.
    """
    rejected: list[pa.Table] = [REJECTED.empty_table()]
    spill = Spill(_good_rows(batches, rejected), schema)
    try:
        bad = pa.concat_tables(rejected)
        _refuse_no_rows(spill, bad)
        return RowCounts(
            spill.num_given,
            spill.num_rows,
            sum(1 for _ in spill.chunks(rows_per_chunk)),
            Counter(bad["reason"].to_pylist()),
            spill.fingerprint,
        )
    finally:
        spill.delete()


class PlanFiles:
    """Reads the rows of chunks; the footers of the parts are kept."""

    def __init__(self, output: Location):
        self._output = output
        self._footers: dict[str, pq.FileMetaData] = {}

    def rows(self, file: str, row_group: int) -> pa.Table:
        """The rows of a chunk; raises DataError if the part is not as the plan wrote it."""
        try:
            with storage_errors((self._output / file).uri):
                return self._rows(self._output / file, row_group)
        except StorageNotFoundError as error:
            raise _broken(self._output, f"{file} is missing") from error
        except pa.ArrowInvalid as error:
            raise _broken(self._output, f"{file} was changed: {error}") from error

    def _rows(self, part: Location, row_group: int) -> pa.Table:
        if part.path not in self._footers:
            self._footers[part.path], _ = read_footer(part)
        return read_known_row_group(part, self._footers[part.path], row_group)


def _good_rows(
    batches: Iterable[tuple[pa.Table, pa.Table]], rejected: list[pa.Table]
) -> Iterator[pa.Table]:
    for good, bad in batches:
        if bad.num_rows:
            rejected.append(bad)
        yield good


def _refuse_no_rows(spill: Spill, rejected: pa.Table) -> None:
    if spill.num_rows == 0:
        raise DataError(
            f"there are no rows to do; {rejected.num_rows} were rejected{_first(rejected)}"
        )


def _first(rejected: pa.Table) -> str:
    if not rejected.num_rows:
        return ""
    row = rejected.slice(0, 1).to_pylist()[0]
    return f", the first at {row['file']}, line {row['line']}: {row['reason']} ({row['text']})"


def _write(
    output: Location,
    identity: Identity,
    listing: Mapping[str, list[str]],
    spill: Spill,
    rejected: pa.Table,
    rows_per_chunk: int,
) -> PlanRecord:
    """Write parts, index and rejected rows; returns what is to stand in `plan.json`."""
    folder = f"{FOLDER}/plan/{identity.run}-{uuid.uuid4().hex}"
    index: list[tuple[int, int, int, int]] = []
    sizes: list[int] = []
    for part, chunks in enumerate(_parts(spill.chunks(rows_per_chunk))):
        data = _part_bytes([rows for _, rows in chunks])
        (output / folder / _part_name(part)).write_bytes(data)
        sizes.append(len(data))
        index += [
            (number, part, row_group, rows.num_rows)
            for row_group, (number, rows) in enumerate(chunks)
        ]
    columns = zip(*sorted(index), strict=True)
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, _INDEX, strict=True)],
        schema=_INDEX,
    )
    (output / folder / "index.parquet").write_bytes(parquet_bytes(table, _INDEX))
    (output / folder / "rejected.parquet").write_bytes(parquet_bytes(rejected, REJECTED))
    return PlanRecord(
        layout=1,
        identity=identity,
        listing=dict(listing),
        rows_fingerprint=spill.fingerprint,
        num_rows=spill.num_rows,
        num_rejected=rejected.num_rows,
        num_chunks=len(index),
        num_buckets=spill.num_buckets(rows_per_chunk),
        folder=folder,
        parts=sizes,
    )


def _parts(chunks: Iterable[tuple[int, pa.Table]]) -> Iterator[list[tuple[int, pa.Table]]]:
    """Put chunks together until they have `_ROWS_PER_PART` rows."""
    part: list[tuple[int, pa.Table]] = []
    num_rows = 0
    for number, rows in chunks:
        part.append((number, rows))
        num_rows += rows.num_rows
        if num_rows >= _ROWS_PER_PART:
            yield part
            part, num_rows = [], 0
    if part:
        yield part


def _part_bytes(chunks: list[pa.Table]) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, chunks[0].schema, compression="zstd") as writer:
        for rows in chunks:
            writer.write_table(rows, row_group_size=rows.num_rows)
    return sink.getvalue()


def _part_name(part: int) -> str:
    return f"part-{part:05d}.parquet"


def _read_index(output: Location, record: PlanRecord) -> pa.Table:
    """The index; raises DataError unless it and all parts are there as they were written."""
    folder = output / record.folder
    try:
        index = read_table(folder / "index.parquet", _INDEX)
    except StorageNotFoundError as error:
        raise _broken(output, "index.parquet is missing") from error
    if index.num_rows != record.num_chunks:
        raise _broken(output, f"the index has {index.num_rows} chunks of {record.num_chunks}")
    with storage_errors(folder.uri):
        found = {
            str(path).rpartition("/")[2]: int(info["size"])
            for path, info in folder.fs.find(folder.path, detail=True).items()
        }
    for part, num_bytes in enumerate(record.parts):
        if found.get(_part_name(part)) != num_bytes:
            raise _broken(output, f"{_part_name(part)} is missing or not of {num_bytes} bytes")
    return index


def _broken(output: Location, what: str) -> DataError:
    return DataError(
        f"{output / PLAN}: the plan is no longer whole: {what}; the table can still be read. To "
        "go on with the run, restore the file, or give another output URI"
    )


def refuse_other_rows(plan: Plan, num_rows: int, rows_fingerprint: str) -> None:
    """Raise ArtifactMismatchError if the input has other rows than when the run was planned."""
    if plan.record.rows_fingerprint != rows_fingerprint:
        raise ArtifactMismatchError(
            f"{plan.output}: the rows of the input changed since the run was planned: "
            f"{plan.record.num_rows} rows there, {num_rows} here; give another output URI, or "
            "delete that one"
        )


def _refuse_other_run(plan: Plan, identity: Identity) -> None:
    there = plan.record.identity
    if there.run == identity.run:
        return
    differences = differing_fields(there.model_dump(), identity.model_dump())
    raise ArtifactMismatchError(
        f"{plan.output}: holds another run:\n"
        + "\n".join(f"  {line}" for line in differences)
        + "\ngive another output URI, or delete that one"
    )
