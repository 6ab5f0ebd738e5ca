"""The files of a version, made from results: one per range of chunks, with retried rows merged in.

Results are already in the table's order.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk.results import Summary, summary_of, total
from xrec.bulk.rows import RowFormat
from xrec.bulk.run import BulkRun, Pass
from xrec.bulk.table import write_file
from xrec.bulk.takedown import Takedowns
from xrec.storage import request_each, traffic

PART_BYTES = 96 * 2**20
"""Approximate size of the results that become one file."""
Range = tuple[int, int]
"""The first and last chunk of a range, by their numbers in the first pass."""


@dataclass(frozen=True)
class Part:
    """A written, uncommitted file, as a row of `FILES`; None if no rows were left for it."""

    file: Mapping[str, Any] | None
    summary: Summary


def ranges(first_pass: Pass) -> Iterator[Range]:
    """Yield ranges of chunks whose results add up to about `PART_BYTES`."""
    start, num_bytes = 0, 0
    for chunk, (_, size) in sorted(first_pass.results.sizes().items()):
        if num_bytes and num_bytes + size > PART_BYTES:
            yield start, chunk - 1
            start, num_bytes = chunk, 0
        num_bytes += size
    yield start, first_pass.size.num_chunks - 1


def write_parts(
    run: BulkRun, passes: Sequence[Pass], taken: Takedowns, chunks: Sequence[Range]
) -> Iterator[tuple[Range, Part]]:
    """Write a file for each range of chunks; yield each file once it is written.

    Several files are written at a time if Ray is initialized. Raise BrokenResultError if a result
    cannot be read.
    """
    write = partial(_write_part, run, tuple(passes), taken)
    if len(chunks) > 1:
        from xrec.bulk.processes import map_in_processes, num_cpus  # imports Ray

        if most := num_cpus():
            parts = map_in_processes(lambda: write, chunks, num_processes=most)
            yield from ((chunks[index], part) for index, part in parts)
            return
    for first_and_last in chunks:
        yield first_and_last, write(first_and_last)


def _write_part(run: BulkRun, passes: Sequence[Pass], taken: Takedowns, chunks: Range) -> Part:
    summaries: list[Summary] = []

    def rows_of_chunks() -> Iterator[pa.Table]:
        for rows, summary in final_rows(run.format, passes, *chunks):
            kept = taken.without(rows)
            summaries.append(summary + _loss(rows, kept))
            yield kept

    file = write_file(run.output, run.format.table_schema, rows_of_chunks())
    return Part(file, total([*summaries, Summary(costs=traffic())]))


def _loss(rows: pa.Table, kept: pa.Table) -> Summary:
    """Return what to add to the counts of `rows` if only the rows of `kept` remain."""
    if kept is rows:
        return Summary()
    before, after = summary_of(rows), summary_of(kept)
    return Summary(
        num_ok=after.num_ok - before.num_ok,
        was_failed={why: n - after.failed.get(why, 0) for why, n in before.failed.items()},
        costs={"taken_down": rows.num_rows - kept.num_rows},
    )


def final_rows(
    format: RowFormat, passes: Sequence[Pass], first: int, last: int
) -> Iterator[tuple[pa.Table, Summary]]:
    """Yield the rows of the first pass's chunks `first` to `last` as the last pass left them.

    The summaries cover all passes and add up to the summary of these rows.
    """
    chunks, read = range(first, last + 1), partial(_read, passes[0], format)
    later = [_retried(work, first, last, format) for work in passes[1:]]
    for (rows, summary), *retries in zip(request_each(read, chunks), *later, strict=True):
        for retried, summary_of_retry in retries:
            rows, summary = _replaced(rows, retried, format), summary + summary_of_retry
        yield rows, summary


def _read(work: Pass, format: RowFormat, chunk: int) -> tuple[pa.Table, Summary]:
    return work.results.of_chunk(chunk, format.table_schema)


def _retried(
    work: Pass, first: int, last: int, format: RowFormat
) -> Iterator[tuple[pa.Table, Summary]]:
    """Yield, for each of the chunks `first` to `last`, the chunks of a later pass that overlap it.

    Later passes keep the order of the first, so only a few of their chunks are in memory. The
    summary of a later chunk counts only where it starts, so that all parts together count it once.
    """
    coming, index = deque(work.plan.chunks_of(first, last)), work.plan.index
    starts, ends = (index[name].to_numpy() for name in ("first", "last"))
    results = request_each(partial(_read, work, format), tuple(coming))
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


def _replaced(rows: pa.Table, retried: pa.Table, format: RowFormat) -> pa.Table:
    """Return the rows of a chunk with the retried ones replaced."""
    least, greatest = (rows["bucket"][index].as_py() for index in (0, -1))
    near = retried.filter((pc.field("bucket") >= least) & (pc.field("bucket") <= greatest))
    own = format.among(near, rows) if near.num_rows else near
    if not own.num_rows:
        return rows
    return format.sorted(pa.concat_tables([format.without(rows, own), own])).combine_chunks()
