"""The gate's figures of the shop: what a run keeps of the published rows, users, items and pairs.

They cover the gate's sample, which is whole chunks. The run is sorted by bucket, user and item, so
each chunk covers a range of pairs, and the published pairs in the same ranges are its counterpart.
"""

from bisect import bisect_right
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk import BulkRun, Published, bucket_of, file_errors
from xrec.nights.figures import LEAST_ROWS, Values
from xrec.schemas import PAIRS
from xrec.storage import request_each

_LEAST_SHARE = 0.01
"""With a smaller share of the published rows, the ranges would cover too many published pairs."""


def own_shares(rows: pa.Table, num_items: int) -> Values:
    """Return the figures that need no published version, of sampled rows.

    num_items: the number of items in the dataset.
    """
    if rows.num_rows < LEAST_ROWS:
        return {"frequent": None, "catalogue": None}
    counts = pc.value_counts(rows["item_id"]).field("counts")
    num_possible = max(1, min(num_items, rows.num_rows))
    return {
        "frequent": pc.max(counts).as_py() / rows.num_rows,
        "catalogue": min(1.0, len(counts) / num_possible),
    }


def kept_shares(run: BulkRun, chunks: Sequence[int], rows: pa.Table, table: Published) -> Values:
    """Return the figures that compare the rows of some chunks with the published ones."""
    counts = table.manifest.row_counts
    num_before = counts["explanations"] + counts["failed"]
    values: Values = dict.fromkeys(("rows", "users", "items", "pairs"))
    if num_before < LEAST_ROWS:
        return values
    values["rows"] = share = run.record.num_rows / num_before
    if share < _LEAST_SHARE:
        return values
    before = _published_pairs(run, chunks, table)
    now = set(zip(*(rows[name].to_pylist() for name in PAIRS.names), strict=True))
    for place, name in enumerate(("users", "items")):
        num_ids, num_earlier = (len({pair[place] for pair in side}) for side in (now, before))
        values[name] = num_ids / max(1, num_earlier)
    return {**values, "pairs": len(now & before) / max(1, len(before))}


def _published_pairs(run: BulkRun, chunks: Sequence[int], table: Published) -> set[tuple[str, str]]:
    """Return the published pairs in the ranges that the chunks cover."""
    num_chunks, num_buckets = run.record.size.num_chunks, run.record.num_buckets
    plan, names = run.passes()[0].plan, ("bucket", *PAIRS.names)
    needed = sorted({*chunks, *(chunk + 1 for chunk in chunks)} - {num_chunks})
    firsts = [
        rows.select(names).slice(0, 1).to_pylist()[0] for rows in request_each(plan.rows, needed)
    ]
    starts = {chunk: tuple(row.values()) for chunk, row in zip(needed, firsts, strict=True)}
    starts |= {0: (0, "", ""), num_chunks: (num_buckets,)}
    ranges = [(starts[chunk], starts[chunk + 1]) for chunk in chunks]
    scale = table.num_buckets / num_buckets  # a power of two
    buckets = {
        bucket
        for (first, *_), (last, *_) in ranges
        for bucket in range(int(first * scale), min(int((last + 1) * scale), table.num_buckets) + 1)
    }
    with file_errors(table.log.location):
        rows = table.dataset(PAIRS, None).to_table(
            columns=PAIRS.names, filter=pc.field("bucket").isin(sorted(buckets))
        )
    of_user = {user: bucket_of(user, num_buckets) for user in rows["user_id"].unique().to_pylist()}

    def is_covered(pair: tuple[str, str]) -> bool:
        place = (of_user[pair[0]], *pair)
        index = bisect_right(ranges, place, key=lambda ends: ends[0]) - 1
        return index >= 0 and place < ranges[index][1]

    pairs = zip(*(rows[name].to_pylist() for name in PAIRS.names), strict=True)
    return {pair for pair in pairs if is_covered(pair)}
