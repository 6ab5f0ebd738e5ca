"""Puts results together: each file of the table is a range of chunks, with later passes in place.

The results are in the table's order already.
"""

import io
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xrec.bulk.runs.result import Summary, bare, summary_of, total
from xrec.bulk.runs.row_format import RowFormat
from xrec.bulk.runs.run import BulkRun, Pass
from xrec.bulk.takedown import Takedowns
from xrec.storage import Location, request_each, row_groups, traffic

PART_BYTES = 96 * 2**20
"""About so many bytes of results become one file of the table."""
ROWS_PER_GROUP = 4096


@dataclass(frozen=True)
class Part:
    """A file of the table that is written and not yet committed, as a row of `DeltaLog.files`.

    file: None if all of its rows were taken down.
    """

    file: Mapping[str, Any] | None
    summary: Summary


def write_parts(
    run: BulkRun, passes: Sequence[Pass], taken: Takedowns, some: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], Part]]:
    """Write files of the table, of some `ranges` of chunks; yield each once it is written.

    It writes several at a time on Ray Data if Ray is initialised. Raises BrokenResultError if a
    result cannot be read.
    """
    write = partial(_write_part, run, tuple(passes), taken)
    if len(some) > 1:
        from xrec.bulk.work.pool import map_in_processes, num_cpus  # it imports Ray

        if most := num_cpus():
            for place, part in map_in_processes(lambda: write, some, num_processes=most):
                yield some[place], part
            return
    for each in some:
        yield each, write(each)


def _write_part(
    run: BulkRun, passes: Sequence[Pass], taken: Takedowns, chunks: tuple[int, int]
) -> Part:
    """The rows of a range of chunks of the first pass, first and last, as one file."""
    summaries: list[Summary] = []

    def rows_of_chunks() -> Iterator[pa.Table]:
        for rows, summary in final_rows(run.format, passes, *chunks):
            kept = taken.without(rows)
            summaries.append(summary + _gone(rows, kept, list(run.format.keys)))
            yield kept

    file = write_file(run.output, run.format.table_schema, rows_of_chunks())
    return Part(file, total([*summaries, Summary(costs=traffic())]))


def _gone(rows: pa.Table, kept: pa.Table, keys: list[str]) -> Summary:
    """What is to be added to the counts of `rows`, of which these are kept."""
    if kept is rows:
        return Summary()
    before, after = summary_of(rows, keys), summary_of(kept, keys)
    failed = {reason: n - after.failed.get(reason, 0) for reason, n in before.failed.items()}
    return Summary(
        num_ok=after.num_ok - before.num_ok,
        num_ok_rows=after.num_ok_rows - before.num_ok_rows,
        was_failed=failed,
        costs={"taken_down": rows.num_rows - kept.num_rows},
    )


def write_file(
    output: Location, schema: pa.Schema, tables: Iterable[pa.Table]
) -> Mapping[str, Any] | None:
    """Write rows, in the table's order, as a file of the table; returns it as a row of
    `DeltaLog.files`, or None if there are no rows.
    """
    path, sink = f"part-{uuid.uuid4().hex}.parquet", io.BytesIO()
    num_rows, bounds = 0, list[Mapping[str, int]]()
    schema = bare(schema.empty_table()).schema
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_index=True) as writer:
        for rows in row_groups((table for table in tables if table.num_rows), ROWS_PER_GROUP):
            writer.write_table(bare(rows))
            num_rows += rows.num_rows
            bounds.append(pc.min_max(rows["bucket"]).as_py())
    if not num_rows:
        return None
    (output / path).write_bytes(sink.getvalue())
    return {
        "path": path,
        "num_bytes": sink.getbuffer().nbytes,
        "num_rows": num_rows,
        "min.bucket": min(each["min"] for each in bounds),
        "max.bucket": max(each["max"] for each in bounds),
    }


def final_rows(
    format: RowFormat, passes: Sequence[Pass], first: int, last: int
) -> Iterator[tuple[pa.Table, Summary]]:
    """Yield the rows of each chunk of the first pass, `first` to `last`, as the last pass left
    them.

    The summaries, of all passes, add up to that of these rows.
    """
    chunks, read = range(first, last + 1), partial(_read, passes[0], format)
    later = [_later(each, first, last, format) for each in passes[1:]]
    for (rows, summary), *done_again in zip(request_each(read, chunks), *later, strict=True):
        for rows_again, summary_again in done_again:
            rows, summary = _replaced(rows, rows_again, format), summary + summary_again
        yield rows, summary


def _read(each: Pass, format: RowFormat, chunk: int) -> tuple[pa.Table, Summary]:
    return each.results.of_chunk(chunk, format.table_schema)


def _later(
    each: Pass, first: int, last: int, format: RowFormat
) -> Iterator[tuple[pa.Table, Summary]]:
    """Yield, for each of the chunks `first` to `last`, the rows of a later pass's chunks that have
    some of it.

    A later pass has rows in the order of the first one, so few of its chunks are held. The summary
    is of those that begin there, so all parts together count each once.
    """
    coming, index = deque(each.plan.chunks_of(first, last)), each.plan.index
    starts, ends = (index[name].to_numpy() for name in ("first", "last"))
    results = request_each(partial(_read, each, format), tuple(coming))
    held = deque[tuple[int, pa.Table]]()
    for chunk in range(first, last + 1):
        summary = Summary()
        while held and held[0][0] < chunk:
            held.popleft()
        while coming and starts[coming[0]] <= chunk:
            number, (rows, summary_of_chunk) = coming.popleft(), next(results)
            held.append((ends[number], rows))
            summary += summary_of_chunk if starts[number] >= first else Summary()
        yield pa.concat_tables([format.table_schema.empty_table(), *(t for _, t in held)]), summary


def _replaced(rows: pa.Table, done_again: pa.Table, format: RowFormat) -> pa.Table:
    """The rows of a chunk, with what became of them later in place of what they were."""
    least, greatest = (rows["bucket"][place].as_py() for place in (0, -1))
    near = done_again.filter((pc.field("bucket") >= least) & (pc.field("bucket") <= greatest))
    mine = format.among(near, rows) if near.num_rows else near
    if not mine.num_rows:
        return rows
    return format.sorted(pa.concat_tables([format.without(rows, mine), mine])).combine_chunks()


def ranges(first_pass: Pass) -> Iterator[tuple[int, int]]:
    """Ranges of chunks, first and last, whose results have some `PART_BYTES` together."""
    start, num_bytes = 0, 0
    for chunk, (_, size) in sorted(first_pass.results.sizes().items()):
        if num_bytes and num_bytes + size > PART_BYTES:
            yield start, chunk - 1
            start, num_bytes = chunk, 0
        num_bytes += size
    yield start, first_pass.size.num_chunks - 1
