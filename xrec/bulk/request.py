"""A run that is asked for and its plan: `open_run` makes it, or opens the one that is there."""

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from xrec.bulk.earlier import Earlier, open_earlier
from xrec.bulk.runs.plan import write_plan
from xrec.bulk.runs.progress import read_progress
from xrec.bulk.runs.rejected import Rejected, first_of, good_rows
from xrec.bulk.runs.row_format import RowFormat
from xrec.bulk.runs.run import RUNS, Base, BulkRun, Identity, RunRecord, newest_record, records
from xrec.bulk.runs.spill import Spill
from xrec.bulk.table import open_whole, refuse_other_table
from xrec.bulk.takedown import TAKEN_DOWN, read_takedowns
from xrec.config import StorageConfig
from xrec.errors import DataError, StorageError, TableError
from xrec.storage import Location, may_be_at_work, open_location, with_backoff
from xrec.storage.delta import LOG, open_log

ROWS_PER_CHUNK = 1024
ROWS_PER_BUCKET = 1024
_CHANCES_TO_PLAN = 4

Batches = Iterable[tuple[pa.Table, pa.Table]]
"""Good rows and rejected ones, as `clean_keys` gives them."""


@dataclass(frozen=True)
class RunRequest:
    """A run that is asked for.

    batches: called, and the input read, only if there is no plan of this identity whose inputs had
        the same `listing`.
    listing: what the inputs' store says of their files (`listing_of`).
    rows_per_chunk: the largest number of rows of a chunk, or a function that gets the number of
        rows and returns it. A run that is planned keeps its own.
    limit: the number of rows after which `drive` will be told to end (`max_rows`); a new plan ends
        a chunk there, and its chunks before that are as small as those of a run of so many rows.
    carry_from: the URI of a table whose published rows are taken over where the task, a
        `CarryingTask`, finds them still good. It may be `uri` itself, or have nothing published.
        None where a row becomes several (`RowFormat.ok_keys`).
    """

    uri: str
    identity: Identity
    format: RowFormat
    batches: Callable[[], Batches]
    listing: Mapping[str, list[str]] = field(default_factory=dict)
    rows_per_chunk: Callable[[int], int] | int = ROWS_PER_CHUNK
    limit: int | None = None
    carry_from: str | None = None
    storage: StorageConfig = field(default_factory=StorageConfig)

    @property
    def output(self) -> Location:
        """Where the table and the runs are."""
        return open_location(self.uri, self.storage)

    def known(self) -> Iterator[RunRecord]:
        """The records of this identity with inputs of this listing, the last planned one first."""
        for record in records(self.output):
            if record.identity.run == self.identity.run and record.listing == dict(self.listing):
                yield record

    def planned(self) -> RunRecord | None:
        """The one of them whose plan is there; the input need not be read then."""
        return next((each for each in self.known() if _is_good(each, self.output)), None)

    @contextmanager
    def read_rows(self) -> "Iterator[ReadRows]":
        """Within `with`: the distinct good rows on this machine's disk, and the rejected ones.

        Raises DataError if there are no good rows.
        """
        forgotten = read_takedowns(self.output).forgotten
        with ExitStack() as stack:
            try:
                rejected = stack.enter_context(Rejected())
                good = good_rows(self.batches(), rejected, forgotten)
                spill = Spill(good, self.format.key_schema)
                stack.callback(spill.delete)
                if spill.num_rows == 0:
                    raise DataError(
                        f"there are no rows to do; {rejected.reasons.total()} were rejected"
                        f"{first_of(rejected.first)}",
                        code="no_rows",
                        key="rejected",
                        saw=dict(rejected.reasons),
                    )
                yield ReadRows(spill, rejected, self.identity.name(spill.fingerprint))
            except RuntimeError as error:
                if isinstance(error.__cause__, KeyboardInterrupt):  # within a query of DuckDB
                    raise error.__cause__ from None
                raise

    def chunks(
        self, spill: Spill, takedowns: set[int], *, carrying: bool = True
    ) -> Iterator[pa.Table]:
        """The rows by chunk, as they are to be planned: without those that are taken down.

        The numbers of the takedowns that rows are left out for are added to `takedowns`.
        """
        size = self._size_of_chunks(spill.num_rows)
        taken, num_buckets = read_takedowns(self.output), num_buckets_for(spill.num_rows)
        earlier = self._earlier() if carrying else None

        def prepared(rows: pa.Table) -> pa.Table:
            left = taken.without(rows)
            if left is not rows:
                gone = self.format.without(rows, left).select(self.format.keys).to_pylist()
                takedowns.update(taken.active.keys() & {*map(taken.of_row, gone)})
            return left if earlier is None else earlier.beside(left, num_buckets)

        chunks = spill.chunks(size, num_buckets, prepared)
        if self.limit is None:
            return chunks
        return _cut_until(self.limit, chunks, self._size_of_chunks(self.limit))

    def _size_of_chunks(self, num_rows: int) -> int:
        most = self.rows_per_chunk
        return most if isinstance(most, int) else most(num_rows)

    def _earlier(self) -> Earlier | None:
        if self.carry_from is None:
            return None
        there = open_location(self.carry_from, self.storage)
        return open_earlier(there, self.format, self.output)


@dataclass(frozen=True)
class ReadRows:
    """The rows of an input: those that are good, the rejected ones, and the name of their run."""

    spill: Spill
    rejected: Rejected
    run: str

    def planned(self, output: Location) -> tuple[int, RunRecord | None]:
        """The number of the next record of these rows' run; the newest one, if its plan is good.

        One look tells both: if another driver plans after it, that number is taken.
        """
        newest = newest_record(output, self.run)
        if newest is None:
            return 0, None
        number, record = newest
        return number + 1, record if _is_good(record, output) else None

    def left_out(self, num_planned: int) -> dict[str, int]:
        """How many rows a plan of so many leaves out, by reason; DataError if it has none."""
        num_gone = self.spill.num_rows - num_planned
        if not num_planned:
            raise DataError(
                f"there are no rows to do; all {num_gone} are taken down",
                code="no_rows",
                key=TAKEN_DOWN,
                saw=num_gone,
            )
        return {**self.rejected.reasons, **({TAKEN_DOWN: num_gone} if num_gone else {})}


def _is_good(record: RunRecord, output: Location) -> bool:
    """Whether a plan is there, and lacks only rows that are taken down, or is being worked on."""
    if not record.has_plan(output):
        return False
    if not record.takedowns or read_takedowns(output).active.keys() >= {*record.takedowns}:
        return True
    progress = read_progress(record.folder(output))
    return progress is not None and may_be_at_work(progress.holder, progress.expires_at)


def open_run(request: RunRequest) -> BulkRun:
    """Plan a run, or open the plan that is there.

    Several drivers may call this at the same time; they get the same plan. If the input cannot be
    read, nothing is written.

    Raises DataError if there are no good rows; TableError if other files are at the URI, or its
    newest version is not sound; ArtifactMismatchError if the table of `carry_from` has other
    columns.
    """
    output = request.output

    def look() -> tuple[Base, RunRecord | None]:
        refuse_other_files(output)
        return Base.of(open_whole(output)), request.planned()

    base, record = with_backoff(look)
    if record is None:
        check_conditional_writes(output)
        with request.read_rows() as rows:
            record = _planned(request, rows)
    return BulkRun(output, record, request.format, request.storage, base)


def _planned(request: RunRequest, rows: ReadRows) -> RunRecord:
    """The record of a plan of these rows, which this driver makes unless another was first."""
    output, name = request.output, rows.run
    for _ in range(_CHANCES_TO_PLAN):
        number, record = rows.planned(output)
        if record is not None:
            return record
        nonce, takedowns = uuid.uuid4().hex[:16], set[int]()
        folder = output / RUNS / name / nonce / "plan"
        size = write_plan(folder, request.chunks(rows.spill, takedowns))
        record = RunRecord(
            run=name,
            identity=request.identity,
            nonce=nonce,
            rows_fingerprint=rows.spill.fingerprint,
            listing=dict(request.listing),
            rejected=rows.left_out(size.num_rows),
            num_buckets=num_buckets_for(rows.spill.num_rows),
            size=size,
            planned_at=time.time(),
            takedowns=tuple(sorted(takedowns)),
        )
        rows.rejected.write(folder / "rejected.parquet")
        file = output / RUNS / name / f"run-{number}.json"
        file.create_bytes(record.to_bytes())
    raise TableError(
        f"{output}: the plan of run {name} was deleted while it was made; let nothing delete files "
        "there and run the job again",
        code="plan_deleted",
        key=name,
    )


def listing_of(location: Location) -> dict[str, list[str]]:
    """Each file below `location` (or itself) with its size and its ETag or time of change.

    It takes one listing. A file that was written again since has another ETag or time.
    """
    return {
        path: [str(info["size"]), str(info.get("ETag") or info.get("mtime"))]
        for path, info in sorted(location.details().items())
    }


def refuse_other_files(output: Location) -> None:
    """Raise TableError if `output` holds files, but no run and no table of this xrec."""
    if (log := open_log(output)) is not None:
        refuse_other_table(log)
    left = re.compile(r"part-[0-9a-f]{32}\.parquet")  # of a table that was deleted by hand
    there = [name for name in (*output.sizes(), *output.folders()) if not left.fullmatch(name)]
    if there and LOG not in there and RUNS.partition("/")[0] not in there:
        raise TableError(
            f"{output}: holds other files, such as {sorted(there)[0]}; expected a table of xrec, "
            "or for a new one a folder that is empty or not there",
            code="other_files",
            key=sorted(there)[0],
        )


def check_conditional_writes(output: Location) -> None:
    """Raise TableError if the store of `output` lets a file be created twice."""
    for _ in range(_CHANCES_TO_PLAN):  # someone may delete the file meanwhile
        if (answer := _created_twice(output)) is None:
            return
    raise TableError(
        f"{output}: the store has no conditional writes (If-None-Match), so two drivers could "
        f"write one file ({answer}); use a store that has them, as AWS S3 and SeaweedFS do",
        code="no_conditional_writes",
        key=str(output),
        saw=answer,
    )


def _created_twice(output: Location) -> str | None:
    probe = output / "_xrec" / f"conditional-write-{uuid.uuid4().hex}"
    try:
        is_created = probe.create_bytes(b"1")
        return None if is_created and not probe.create_bytes(b"2") else "a file was created twice"
    except StorageError as error:
        probe.write_bytes(b"3")  # raises if it is not the condition that the store refuses
        return str(error)
    finally:
        probe.delete()


def num_buckets_for(num_rows: int) -> int:
    """C, the least power of two with at most `ROWS_PER_BUCKET` rows a bucket on average."""
    return 1 << max(0, (-(-num_rows // ROWS_PER_BUCKET) - 1).bit_length())


def _cut_until(limit: int, chunks: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the chunks, of which the first `limit` rows are cut into chunks of at most `size`."""
    for rows in chunks:
        while 0 < (num_first := min(size, limit)) < rows.num_rows:
            yield rows.slice(0, num_first)
            rows, limit = rows.slice(num_first), limit - num_first
        yield rows
        limit -= rows.num_rows
