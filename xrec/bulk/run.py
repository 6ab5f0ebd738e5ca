"""A run: its plan, the format of its rows, and the table that it writes."""

import functools
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xrec.bulk.carry import CarryFrom, pin_earlier
from xrec.bulk.plan import PLAN, Identity, Plan, find_plan, make_plan, read_plan
from xrec.bulk.row_format import RowFormat
from xrec.bulk.state import RunState, read_state
from xrec.bulk.task import ChunkTask
from xrec.bulk.work import Unit
from xrec.bulk.worker import WorkerSettings
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactNotFoundError, StorageNotFoundError
from xrec.storage import open_location
from xrec.table import Snapshot, Table, check_conditional_writes

Batches = Iterable[tuple[pa.Table, pa.Table]]
"""Good rows and rejected ones, as `clean_keys` gives them."""

_CHUNK_FILE = re.compile(r"part-(\d+)-[0-9a-f]{32}\.parquet")


@dataclass(frozen=True)
class BulkRun:
    """A run that is planned; `open_run` makes one."""

    plan: Plan
    format: RowFormat
    table: Table

    def worker_settings(
        self, make_task: Callable[[], ChunkTask], chunks_at_once: int = 1
    ) -> WorkerSettings:
        """What the actors of the run get."""
        return WorkerSettings(
            self.plan.output.shared_uri,
            self.table.storage,
            self.format,
            self.plan.record.num_buckets,
            make_task,
            chunks_at_once,
            self.plan.record.carry,
        )

    def chunks_left(self, snapshot: Snapshot) -> pa.Table:
        """The part of the plan's index whose chunks have no row in the table.

        This holds only before any retry or compaction.
        """
        return self.plan.left(committed_chunks(snapshot))

    def state(self) -> RunState | None:
        """The newest state; None if no driver has committed yet."""
        return read_state(self.table, self.table.newest_version())[1]

    def units_left(self, snapshot: Snapshot) -> Iterator[Unit]:
        """The units of all chunks that have no row in the table."""
        return self.units(self.chunks_left(snapshot))

    def units(self, chunks: pa.Table) -> Iterator[Unit]:
        """The units of chunks; `chunks` is a part of the plan's index."""
        num_buckets = self.plan.record.num_buckets
        for chunk in self.plan.chunks(chunks):
            yield Unit(
                name=f"chunk {chunk.number}",
                file=chunk.file,
                row_group=chunk.row_group,
                num_rows=chunk.num_rows,
                prefix=f"part-{chunk.number}",
                bucket=chunk.number % num_buckets,
            )


def open_run(
    uri: str,
    identity: Identity,
    format: RowFormat,
    batches: Callable[[], Batches],
    *,
    listing: Mapping[str, list[str]],
    rows_per_chunk: int,
    carry_from: str | None = None,
    storage: StorageConfig | None = None,
) -> BulkRun:
    """Plan the run at `uri`, or open the one that is there.

    `batches` is called, and the input read, only if there is no plan, or if `listing` says that the
    input's files are others than those that were planned. Several drivers may call this at the same
    time; they get the same plan. If the input cannot be read, nothing is written, so an output
    that is empty can still become that of another run.

    carry_from: the URI of a finished run whose rows are taken over where the task, a
        `CarryingTask`, finds them still good. The URI is a part of the run's identity; the version
        is the newest one when the run is planned.

    Raises ArtifactMismatchError, which names what differs, if the output belongs to another run or
    to other rows; TableError if other files or a table of another format are there, or the store
    has no conditional writes; and what `make_plan` raises.
    """
    storage = storage or StorageConfig()
    output = open_location(uri, storage)
    identity = with_carry(identity, carry_from, storage)

    @functools.cache  # once it has succeeded, the table is this run's
    def create_table() -> Table:
        return Table.create(uri, format.table, run=identity.run, storage=storage)

    plan = find_plan(output, identity, listing)
    if plan is not None:
        return BulkRun(plan, format, create_table())
    if output.files():
        create_table()  # refuses what is there before any input is read
    else:
        check_conditional_writes(output)
    is_planned = (output / PLAN).is_file()  # then it says what is carried over
    earlier = None if is_planned else carry_from
    with _pinned(earlier, identity.run, format, storage) as carry:
        plan = make_plan(
            output,
            identity,
            listing,
            batches(),
            format.key_schema,
            rows_per_chunk=rows_per_chunk,
            carry=carry,
            before_writing=create_table,
        )
        if carry is not None and plan.record.carry != carry:
            carry.release(storage)  # another driver made the plan
    return BulkRun(plan, format, create_table())


def with_carry(identity: Identity, carry_from: str | None, storage: StorageConfig) -> Identity:
    """The identity of a run that carries rows over from `carry_from`; the URI is a part of it."""
    if carry_from is None:
        return identity
    shared = open_location(carry_from, storage).shared_uri
    return identity.model_copy(update={"inputs": {**identity.inputs, "carry_from": shared}})


@contextmanager
def _pinned(
    uri: str | None, run: str, format: RowFormat, storage: StorageConfig
) -> Iterator[CarryFrom | None]:
    """The earlier run, whose newest version is pinned; the pin stays unless an error is raised."""
    if uri is None:
        yield None
        return
    try:
        earlier = read_plan(open_location(uri, storage)).record
    except StorageNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{uri}: no run was planned there, so nothing can be carried over; check the URI"
        ) from error
    pin = f"carry-{run}-{uuid.uuid4().hex}"
    carry = pin_earlier(uri, earlier.identity.run, earlier.num_buckets, format, pin, storage)
    try:
        yield carry
    except BaseException:
        carry.release(storage)
        raise


def committed_chunks(snapshot: Snapshot) -> npt.NDArray[np.int64]:
    """The numbers of the chunks that have files in the table, by the files' names."""
    names = (path.rpartition("/")[2] for path in snapshot.files()["path"].to_pylist())
    matches = (_CHUNK_FILE.fullmatch(name) for name in names)
    return np.unique(np.array([int(match[1]) for match in matches if match], dtype=np.int64))
