"""Puts results together: each file of the table is a range of chunks, with later passes in place.

The results are in the table's order already.
"""

import io
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from xrec.bulk.runs.plan import ORIGIN, PlanSize
from xrec.bulk.runs.result import Summary, bare, total
from xrec.bulk.runs.row_format import RowFormat
from xrec.bulk.runs.run import BulkRun, Pass
from xrec.config.shared import StorageConfig
from xrec.storage import open_location, request_each

PART_BYTES = 96 * 2**20
"""About so many bytes of results become one file of the table."""
_ROWS_PER_GROUP = 4096


def write_parts(run: BulkRun, passes: Sequence[Pass]) -> "list[Part]":
    """Write the files of the table: several at a time on Ray Data if Ray is initialised."""
    folders = tuple((each.folder.shared_uri, each.size) for each in passes)
    writer = PartWriter(run.output.shared_uri, folders, run.storage, run.format)
    return [*write_each(writer, list(ranges(passes[0])))]


@dataclass(frozen=True)
class Part:
    """A file of the table that is written and not yet committed."""

    path: str
    num_bytes: int
    num_rows: int
    least: int
    greatest: int
    summary: Summary

    @property
    def action(self) -> AddAction:
        """What the commit adds."""
        bounds = {"minValues": {"bucket": self.least}, "maxValues": {"bucket": self.greatest}}
        stats = {"numRecords": self.num_rows, **bounds, "nullCount": {"bucket": 0}}
        now = int(time.time() * 1000)
        return AddAction(self.path, self.num_bytes, {}, now, True, json.dumps(stats))


@dataclass(frozen=True)
class PartWriter:
    """Writes parts of the table, wherever it is called; one for all passes of a run."""

    output: str
    passes: tuple[tuple[str, PlanSize], ...]
    storage: StorageConfig
    format: RowFormat

    def write(self, chunks: tuple[int, int]) -> Part:
        """The rows of a range of chunks of the first pass, first and last, as one file.

        Raises BrokenResultError if a result cannot be read.
        """
        first, last = chunks
        output = open_location(self.output, self.storage)
        passes = [
            Pass(number, open_location(folder, self.storage), size)
            for number, (folder, size) in enumerate(self.passes)
        ]
        path = f"part-{uuid.uuid4().hex}.parquet"
        sink, counts = io.BytesIO(), _Counts()
        schema = bare(self.format.table_schema.empty_table()).schema
        with pq.ParquetWriter(sink, schema, compression="zstd", write_page_index=True) as writer:
            for rows in _groups(self._rows(passes, first, last, counts)):
                writer.write_table(bare(rows), row_group_size=max(1, rows.num_rows))
        (output / path).write_bytes(sink.getvalue())
        num_bytes = sink.getbuffer().nbytes
        return Part(path, num_bytes, counts.num_rows, counts.least, counts.greatest, counts.summary)

    def _rows(
        self, passes: Sequence[Pass], first: int, last: int, counts: "_Counts"
    ) -> Iterator[pa.Table]:
        """The rows of each chunk, in order, as the last pass left them."""
        later = [_Later.read(each, first, last, self.format) for each in passes[1:]]
        names = passes[0].results.names(range(first, last + 1))
        results = passes[0].results
        schema = self.format.table_schema
        chunks = range(first, last + 1)
        for rows, summary in request_each(lambda each: results.read(names[each], schema), chunks):
            for each in later:
                rows = each.replaced(rows)
            counts.add(rows, summary)
            yield rows
        for each in later:
            counts.summary += each.summary


class _Counts:
    """What a part has."""

    def __init__(self) -> None:
        self.num_rows, self.least, self.greatest = 0, 2**31 - 1, -1
        self.summary = Summary()

    def add(self, rows: pa.Table, summary: Summary) -> None:
        self.summary += summary
        self.num_rows += rows.num_rows
        if rows.num_rows:
            bounds = pc.min_max(rows["bucket"]).as_py()
            self.least = min(self.least, bounds["min"])
            self.greatest = max(self.greatest, bounds["max"])


@dataclass(frozen=True)
class _Later:
    """What a later pass made of rows of some chunks."""

    planned: pa.Table
    rows: pa.Table
    summary: Summary
    format: RowFormat

    @classmethod
    def read(cls, each: Pass, first: int, last: int, format: RowFormat) -> "_Later":
        """What the pass made of the rows of the chunks `first` to `last` of the first pass.

        The summary is of those of its chunks that begin there, so all parts together count once.
        """
        plan, results = each.plan, each.results
        chunks = plan.chunks_of(first, last)
        names = results.names(chunks)
        starts = plan.index["first"].to_pylist()
        planned = [plan.rows(chunk).select([*format.keys, ORIGIN]) for chunk in chunks]
        empty = pa.schema([*format.key_schema, pa.field(ORIGIN, pa.int64())]).empty_table()
        rows = pa.concat_tables([empty, *(each.cast(empty.schema) for each in planned)])
        origin = rows[ORIGIN]
        rows = rows.filter(pc.and_(pc.greater_equal(origin, first), pc.less_equal(origin, last)))
        found = {chunk: results.read(names[chunk], format.table_schema) for chunk in chunks}
        tables = [format.table_schema.empty_table(), *(table for table, _ in found.values())]
        return cls(
            rows,
            format.among(pa.concat_tables(tables), rows),
            total(each for chunk, (_, each) in found.items() if first <= starts[chunk] <= last),
            format,
        )

    def replaced(self, rows: pa.Table) -> pa.Table:
        """The rows of a chunk, with those of this pass in place of what they were."""
        if not self.planned.num_rows:
            return rows
        keys = list(self.format.keys)
        mine = self.format.among(self.rows, rows.select(keys))
        if not mine.num_rows:
            return rows
        others = self.format.without(rows, mine.select(keys))
        return self.format.sorted(pa.concat_tables([others, mine])).combine_chunks()


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The rows of sorted tables in tables of some `_ROWS_PER_GROUP`, each of whole buckets."""
    held: list[pa.Table] = []
    num_held = 0
    for table in tables:
        held.append(table)
        num_held += table.num_rows
        while num_held > _ROWS_PER_GROUP:
            rows = pa.concat_tables(held).combine_chunks()
            stop = _end_of_bucket(rows)
            if stop is None:
                held = [rows]
                break
            yield rows.slice(0, stop)
            held, num_held = [rows.slice(stop)], num_held - stop
    if num_held:
        yield pa.concat_tables(held).combine_chunks()


def _end_of_bucket(rows: pa.Table) -> int | None:
    """Where the first bucket ends after `_ROWS_PER_GROUP` rows; None if it may go on."""
    buckets = rows["bucket"].to_numpy()
    ends = np.flatnonzero(buckets[1:] != buckets[:-1]) + 1
    place = int(np.searchsorted(ends, _ROWS_PER_GROUP))
    return int(ends[place]) if place < len(ends) else None


def ranges(first_pass: Pass) -> Iterator[tuple[int, int]]:
    """Ranges of chunks, first and last, whose results have some `PART_BYTES` together."""
    start, num_bytes = 0, 0
    for chunk, (_, size) in sorted(first_pass.results.sizes().items()):
        if num_bytes and num_bytes + size > PART_BYTES:
            yield start, chunk - 1
            start, num_bytes = chunk, 0
        num_bytes += size
    yield start, first_pass.size.num_chunks - 1


def write_each(writer: PartWriter, some: Sequence[tuple[int, int]]) -> Iterator[Part]:
    """Write the parts: several on Ray Data if Ray is initialised, else here."""
    from xrec.bulk.work.pool import map_in_processes, num_cpus  # it imports Ray

    if len(some) > 1 and (most := num_cpus()):
        processes = min(len(some), most)
        for _, part in map_in_processes(lambda: writer.write, some, num_processes=processes):
            yield part
        return
    for each in some:
        yield writer.write(each)
