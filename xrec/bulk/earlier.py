"""What earlier runs wrote: the rows that a plan copies, so that they can be carried over.

They come from the published version, and from runs planned since it became the published one: those
that were killed, ran out of budget, or were stopped by their gate for another reason than their
texts. So nothing comes back after a rollback. The row of the most recent run counts.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.log import DeltaLog, open_log
from xrec.bulk.plan import EARLIER
from xrec.bulk.results import ResultFolder
from xrec.bulk.rows import RowFormat
from xrec.bulk.run import RUNS, RunRecord, newest_record, records
from xrec.bulk.table import FEW_AT_ONCE, file_errors, files_of
from xrec.bulk.takedown import Takedowns, read_takedowns
from xrec.config import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError
from xrec.storage import Location, open_location, request_each, row_groups

ROWS_AT_ONCE = 2**16
_INDEX = "__index"
_OF_RUN = re.compile(rf"(?P<output>.+)/{RUNS}/(?P<run>\w+)")


class Source(Protocol):
    """Rows of an earlier run, which are read in the order of their buckets.

    num_buckets: their number of buckets, a power of two.
    """

    @property
    def num_buckets(self) -> int: ...

    def near(self, least: int, greatest: int) -> Iterator[pa.Table]:
        """Yield at least the rows in these buckets; never fewer than those of the last call."""


@dataclass(frozen=True)
class PublishedRows:
    """The rows of a table's newest version."""

    log: DeltaLog
    schema: pa.Schema
    num_buckets: int

    def near(self, least: int, greatest: int) -> Iterator[pa.Table]:
        """Yield the rows whose buckets overlap the range."""
        low, high = pc.field("min.bucket"), pc.field("max.bucket")
        files = self.log.files(self.log.version)
        near = files.filter(low.is_null() | ((low <= greatest) & (high >= least)))
        location, bucket = self.log.location, pc.field("bucket")
        # Open the files for each range: a single dataset would keep every footer in memory.
        batches = files_of(location, near, self.schema).to_batches(
            columns=self.schema.names,
            filter=(bucket >= least) & (bucket <= greatest),
            **FEW_AT_ONCE,
        )
        tables = (pa.Table.from_batches([batch]) for batch in batches if batch.num_rows)
        with file_errors(location):
            yield from row_groups(tables, ROWS_AT_ONCE)


class FinishedChunks:
    """The results of a run's first pass, each of which is read once; damaged ones are skipped."""

    def __init__(self, record: RunRecord, output: Location, schema: pa.Schema):
        self.num_buckets = record.num_buckets
        self._schema = schema
        self._results = ResultFolder(record.folder(output) / "results")
        self._held = deque[pa.Table]()
        self._left = request_each(self._read, sorted(self._results.sizes()))

    def near(self, least: int, greatest: int) -> Iterator[pa.Table]:
        """Yield the chunks whose buckets overlap the range, and maybe one after it."""
        while not self._held or self._held[-1]["bucket"][0].as_py() <= greatest:
            if (rows := next(self._left, None)) is None:
                break
            if rows.num_rows:
                self._held.append(rows)
        while self._held and self._held[0]["bucket"][-1].as_py() < least:
            self._held.popleft()
        yield from self._held

    def _read(self, chunk: int) -> pa.Table:
        with suppress(DataError):  # both results of the chunk are damaged
            found = self._results.find(chunk)
            if found is not None and {*self._schema.names} <= {*found[0].column_names}:
                return found[0].select(self._schema.names).cast(self._schema)
        return self._schema.empty_table()


@dataclass(frozen=True)
class Earlier:
    """The rows that can be carried over, without those taken down at the output they are from.

    sources: the most recent one last. Plan and sources use the same hash but may have different
    numbers of buckets, so the rows are read one range of buckets at a time.
    """

    format: RowFormat
    taken: Takedowns
    sources: Sequence[Source]

    def beside(self, rows: pa.Table, num_buckets: int) -> pa.Table:
        """Add the column `EARLIER` to planned rows: the earlier row with the same keys, or null.

        rows: sorted by bucket. num_buckets: the plan's number of buckets, a power of two.
        """
        planned, schema = self.format.joined_keys(rows), self.format.table_schema
        tables = [schema.empty_table().append_column(_INDEX, pa.array([], pa.int32()))]
        for source in self.sources if rows.num_rows else ():
            ends = (rows["bucket"][0].as_py(), rows["bucket"][-1].as_py() + 1)
            least = ends[0] * source.num_buckets // num_buckets
            greatest = (ends[1] * source.num_buckets - 1) // num_buckets
            for earlier in source.near(least, greatest):
                indices = pc.index_in(self.format.joined_keys(earlier), value_set=planned)
                matching = earlier.append_column(_INDEX, indices).filter(pc.is_valid(indices))
                tables.append(self.taken.without(matching))
        matching = pa.concat_tables(tables).combine_chunks()
        which = np.full(rows.num_rows, -1)
        which[matching[_INDEX].to_numpy()] = np.arange(matching.num_rows)  # the last one counts
        nullable = pa.schema([field.with_nullable(True) for field in schema]).remove_metadata()
        structs = matching.select(schema.names).cast(nullable).to_struct_array()
        return rows.append_column(EARLIER, structs.take(pa.array(which, mask=which < 0)))


def open_earlier(
    uri: str,
    format: RowFormat,
    output: Location,
    storage: StorageConfig,
    may_carry: Callable[[RunRecord], bool],
) -> Earlier | None:
    """Return the rows to carry over from `uri`, a table or a run in `<table>/_xrec/runs/`.

    From `output` itself, they include those of runs planned since its last publish or rollback
    that `may_carry` accepts. Return None if there are none, or if an older xrec published `output`
    with other columns. Raise ArtifactNotFoundError if the run does not exist, ArtifactMismatchError
    if another table has other columns, TableError if its newest version is not sound, StorageError.
    """
    if (match := _OF_RUN.fullmatch(uri.rstrip("/"))) is not None:
        location = open_location(match["output"], storage)
        if (found := newest_record(location, match["run"])) is None:
            raise ArtifactNotFoundError(
                f"carry_from: {uri} has no run; see the folders in {location / RUNS}",
                code="no_run",
                key="carry_from",
            )
        finished = FinishedChunks(found[1], location, format.table_schema)
        return Earlier(format, read_takedowns(location), [finished])
    location = open_location(uri, storage)
    log, sources = open_log(location), list[Source]()
    if log is not None:
        log.check_sound()
    if log is not None and (published := _published_rows(log, format, output)) is not None:
        sources.append(published)
    if location.uri == output.uri:
        newest_last = reversed(list(_unpublished(output, log)))
        runs = [record for record in newest_last if may_carry(record)]
        sources += [FinishedChunks(record, output, format.table_schema) for record in runs]
    return Earlier(format, read_takedowns(location), sources) if sources else None


def _unpublished(output: Location, log: DeltaLog | None) -> Iterator[RunRecord]:
    """Yield the runs planned since the last publish, rollback or emptying, latest first."""
    version, _ = next(log.deciding(), (-1, None)) if log else (-1, None)
    since = log.info(version).get("timestamp", 0) / 1000 if log and version >= 0 else 0.0
    return takewhile(lambda record: record.planned_at > since, records(output))


def _published_rows(log: DeltaLog, format: RowFormat, output: Location) -> PublishedRows | None:
    """Return the rows that the log's newest version shows, or None as in `open_earlier`."""
    location = log.location
    if (shown := log.shown(log.version)) is None:
        return None
    schema = log.schema(log.version)
    types = dict(zip(schema.names, schema.types, strict=True))
    differing = [
        f"{field.name}: {types.get(field.name, 'none')} there, {field.type} here"
        for field in format.table_schema
        if field not in format.given and types.get(field.name) != field.type
    ]
    if differing and location.uri == output.uri:
        return None
    if differing:
        raise ArtifactMismatchError(
            f"{location}: the table has different columns, so no rows can be carried over: "
            + ", ".join(differing),
            code="other_columns",
            key=differing[0].partition(":")[0],
            saw=differing,
        )
    return PublishedRows(log, format.table_schema, shown.manifest.metrics["num_buckets"])
