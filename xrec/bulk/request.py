"""A requested run and its plan: `open_run` makes the plan or opens the existing one."""

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.earlier import open_earlier
from xrec.bulk.input import Batches, Input, first_of
from xrec.bulk.log import LOG, open_log
from xrec.bulk.plan import write_plan
from xrec.bulk.progress import read_progress
from xrec.bulk.rows import TAKEN_DOWN, RowFormat
from xrec.bulk.run import RUNS, Base, BulkRun, Identity, RunRecord, newest_record, records
from xrec.bulk.table import open_whole, refuse_other_table
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.config import StorageConfig
from xrec.errors import DataError, StorageError, TableError
from xrec.schemas import REJECTED
from xrec.storage import Location, open_location, with_backoff, write_table

ROWS_PER_CHUNK = 1024
ROWS_PER_BUCKET = 1024
PROBES = "_xrec/conditional-writes"
_CHANCES = 4


@dataclass(frozen=True)
class RunRequest:
    """A requested run.

    batches: reads the input; called only if no plan with this identity has the same `listing`.
    listing: the store's listing of the input files (see `listing_of`).
    rows_per_chunk: the maximum number of rows in a chunk, or a function that computes it from the
        number of rows. A run that is already planned keeps its chunks.
    limit: the `max_rows` of the `drive` that follows: a new plan ends a chunk at this row, and its
        chunks up to there are as small as if the run had only this many rows.
    carry_from: the URI of a table, or of a run, whose rows are carried over if the task, a
        `CarryingTask`, accepts them. It may be `uri` itself, or a URI where nothing is published.
    may_carry: whether rows of an unpublished run at `uri` may be carried over (`open_earlier`).
    """

    uri: str
    identity: Identity
    format: RowFormat
    batches: Callable[[], Batches]
    listing: Mapping[str, list[str]] = field(default_factory=dict)
    rows_per_chunk: Callable[[int], int] | int = ROWS_PER_CHUNK
    limit: int | None = None
    carry_from: str | None = None
    may_carry: Callable[[RunRecord], bool] = lambda _: True
    storage: StorageConfig = field(default_factory=StorageConfig)

    @property
    def output(self) -> Location:
        """The location of the table and its runs."""
        return open_location(self.uri, self.storage)

    def known(self) -> Iterator[RunRecord]:
        """Yield the records with this identity and listing, most recently planned run first."""
        for record in records(self.output):
            if record.identity.run == self.identity.run and record.listing == dict(self.listing):
                yield record

    def planned(self) -> RunRecord | None:
        """Return the record of a plan that can be used without reading the input, or None."""
        return next((record for record in self.known() if _is_good(record, self.output)), None)

    @contextmanager
    def read_rows(self) -> Iterator[Input]:
        """Copy the input to local disk for a `with` block; raise DataError if no row is good."""
        keys, given, forgotten = self.format.key_schema, self.format.given, self._taken.forgotten
        with closing(Input(self.batches(), keys, given, forgotten)) as rows:
            if rows.num_rows == 0:
                raise DataError(
                    f"there are no rows to process: {sum(rows.rejected.values())} were rejected"
                    f"{first_of(rows.first_rejected())}",
                    code="no_rows",
                    key="rejected",
                    saw=rows.rejected,
                )
            yield rows

    def name(self, rows: Input) -> str:
        """Return the name of the run of these rows."""
        return self.identity.name(rows.fingerprint)

    def newest(self, rows: Input) -> tuple[int, RunRecord | None]:
        """Return the number of the run's next record, and the newest record if its plan is usable.

        Both come from one listing, so a driver that plans in between takes that number.
        """
        number, record = newest_record(self.output, self.name(rows)) or (-1, None)
        is_good = record is not None and _is_good(record, self.output)
        return number + 1, record if is_good else None

    def chunks(
        self, rows: Input, takedowns: set[int], *, carrying: bool = True
    ) -> Iterator[pa.Table]:
        """Yield the chunks to plan, without rows that are taken down.

        Add the numbers of the takedowns that kept rows out to `takedowns`.
        """
        size, taken, earlier = self._size_of_chunks(rows.num_rows), self._taken, None
        num_buckets = num_buckets_for(rows.num_rows)
        if carrying and self.carry_from is not None:
            earlier = open_earlier(
                self.carry_from, self.format, self.output, self.storage, self.may_carry
            )

        def prepared(rows: pa.Table) -> pa.Table:
            left = taken.without(rows)
            if left is not rows:
                gone = rows.filter(pc.invert(self.format.are_among(rows, left)))
                numbers = map(taken.of_row, gone.select(self.format.keys).to_pylist())
                takedowns.update(taken.active.keys() & {*numbers})
            return left if earlier is None else earlier.beside(left, num_buckets)

        chunks = rows.chunks(size, num_buckets, prepared)
        if self.limit is None:
            return chunks
        return _cut_until(self.limit, chunks, self._size_of_chunks(self.limit))

    @property
    def _taken(self) -> Takedowns:
        return read_takedowns(self.output)

    def _size_of_chunks(self, num_rows: int) -> int:
        size = self.rows_per_chunk
        return size if isinstance(size, int) else size(num_rows)


def left_out(rows: Input, num_planned: int) -> dict[str, int]:
    """Return how many rows a plan leaves out, by reason; raise DataError if none are left."""
    num_gone = rows.num_rows - num_planned
    if not num_planned:
        raise DataError(
            f"there are no rows to process: all {num_gone} are taken down",
            code="no_rows",
            key=TAKEN_DOWN,
            saw=num_gone,
        )
    return {**rows.rejected, **({TAKEN_DOWN: num_gone} if num_gone else {})}


def _is_good(record: RunRecord, output: Location) -> bool:
    """Return whether a plan exists and either is in use or lacks only rows still taken down."""
    if not record.has_plan(output):
        return False
    if not record.takedowns or read_takedowns(output).active.keys() >= {*record.takedowns}:
        return True
    last = read_progress(record.folder(output))
    return last is not None and last.is_alive()


def open_run(request: RunRequest) -> BulkRun:
    """Plan a run, or open the existing plan.

    Concurrent drivers get the same plan. If the input cannot be read, no plan is written.

    Raise DataError if there are no good rows, TableError if the URI contains other files or its
    newest version is not sound, ArtifactMismatchError if the table at `carry_from` has other
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


def _planned(request: RunRequest, rows: Input) -> RunRecord:
    """Plan the rows unless another driver has done so first; return the valid record."""
    output, name = request.output, request.name(rows)
    for _ in range(_CHANCES):
        number, record = request.newest(rows)
        if record is not None:
            return record
        nonce, takedowns = uuid.uuid4().hex[:16], set[int]()
        folder = output / RUNS / name / nonce / "plan"
        size = write_plan(folder, request.chunks(rows, takedowns))
        record = RunRecord(
            run=name,
            identity=request.identity,
            nonce=nonce,
            rows_fingerprint=rows.fingerprint,
            listing=dict(request.listing),
            rejected=left_out(rows, size.num_rows),
            num_buckets=num_buckets_for(rows.num_rows),
            size=size,
            planned_at=time.time(),
            takedowns=tuple(sorted(takedowns)),
        )
        write_table(folder / "rejected.parquet", rows.rejected_rows(), REJECTED)
        (output / RUNS / name / f"run-{number}.json").create_bytes(record.to_bytes())
    raise TableError(
        f"{output}: the plan of run {name} was deleted while it was being made; make sure that "
        "nothing deletes files there, and run the job again",
        code="plan_deleted",
        key=name,
    )


def listing_of(location: Location) -> dict[str, list[str]]:
    """Return the size, and the ETag or modification time, of each file at or below `location`.

    This takes one listing. Rewriting a file changes its ETag or time.
    """
    return {
        path: [str(info["size"]), str(info.get("ETag") or info.get("mtime"))]
        for path, info in sorted(location.details().items())
    }


def refuse_other_files(output: Location) -> None:
    """Raise TableError if `output` contains files but neither a run nor a table of this xrec."""
    if (log := open_log(output)) is not None:
        refuse_other_table(log)
    left = re.compile(r"part-[0-9a-f]{32}\.parquet")  # left by a table deleted by hand
    names = [name for name in (*output.sizes(), *output.folders()) if not left.fullmatch(name)]
    if names and LOG not in names and RUNS.partition("/")[0] not in names:
        raise TableError(
            f"{output}: the folder contains other files, such as {min(names)}; expected a table "
            "made by xrec, an empty folder or no folder",
            code="other_files",
            key=min(names),
        )


def check_conditional_writes(output: Location) -> None:
    """Raise TableError if the store of `output` lets the same file be created twice.

    A process killed in here leaves its file; a vacuum deletes it.
    """
    for _ in range(_CHANCES):  # someone may delete the file meanwhile
        probe, answer = output / PROBES / uuid.uuid4().hex, "a file was created twice"
        try:
            if probe.create_bytes(b"1") and not probe.create_bytes(b"2"):
                return
        except StorageError as error:
            probe.write_bytes(b"3")  # raises if the store refuses plain writes too
            answer = str(error)
        finally:
            probe.delete()
    raise TableError(
        f"{output}: the store does not support conditional writes (If-None-Match), so two drivers "
        f"could write the same file ({answer}); use a store that does, such as AWS S3 or SeaweedFS",
        code="no_conditional_writes",
        key=str(output),
        saw=answer,
    )


def num_buckets_for(num_rows: int) -> int:
    """Return the smallest power of two that averages at most `ROWS_PER_BUCKET` rows per bucket."""
    return 1 << max(0, (-(-num_rows // ROWS_PER_BUCKET) - 1).bit_length())


def _cut_until(limit: int, chunks: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the chunks, cutting the first `limit` rows into chunks of at most `size`."""
    for rows in chunks:
        while 0 < (num_first := min(size, limit)) < rows.num_rows:
            yield rows.slice(0, num_first)
            rows, limit = rows.slice(num_first), limit - num_first
        yield rows
        limit -= rows.num_rows
