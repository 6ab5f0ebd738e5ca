"""All rows of a run in chunks: each once, in the table's order, beside what was there before."""

import itertools
import random

import pyarrow as pa
import pytest

from tests.xrec.bulk.toy_run import toy_request
from xrec.bulk.runs.keys import bucket_of
from xrec.bulk.runs.spill import Spill

SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("user", "item")])
WIDE = ["", " ", "ü", "e\u0301", "\U0001f642" * 9, "a\x00b", "\uffff", "\U0010ffff", "u-1", "u-10"]


def rows_of(sizes: dict[str, int]) -> list[tuple[str, str]]:
    return [(user, f"i-{n}") for user, size in sizes.items() for n in range(size)]


def spilled(rows: list[tuple[str, str]], batch: int = 50) -> Spill:
    """The rows in random order, some of them twice."""
    shuffled = [*rows, *rows[::7]]
    random.Random(len(rows)).shuffle(shuffled)
    tables = [
        pa.table({"user": [u for u, _ in part], "item": [i for _, i in part]}, SCHEMA)
        for part in (shuffled[n : n + batch] for n in range(0, len(shuffled), batch))
    ]
    return Spill(tables, SCHEMA)


@pytest.mark.parametrize(
    ("num_buckets", "rows_per_chunk"),
    [(1, 1), (1, 100), (8, 7), (256, 100), (4096, 1), (4096, 10_000)],
)
def test_chunks_have_each_row_once_by_buckets_and_cut_no_user(num_buckets, rows_per_chunk):
    users = [*WIDE, *(f"user {number}" for number in range(150))]
    rows = rows_of({user: 1 + number % 4 for number, user in enumerate(users)} | {"large": 40})
    spill = spilled(rows)
    chunks = list(spill.chunks(rows_per_chunk, num_buckets))
    spill.delete()
    assert spill.num_rows == len(rows)
    table = pa.concat_tables(chunks)
    assert sorted(zip(*table.select(["user", "item"]).to_pydict().values(), strict=True)) == sorted(
        rows
    )
    assert all(0 < chunk.num_rows <= rows_per_chunk for chunk in chunks)
    buckets = table["bucket"].to_pylist()
    assert buckets == sorted(buckets)
    assert buckets == [bucket_of(user, num_buckets) for user in table["user"].to_pylist()]
    within = [set(chunk["user"].to_pylist()) for chunk in chunks]
    for one, other in itertools.pairwise(within):
        cut = one & other
        assert all(sum(row[0] == user for row in rows) > rows_per_chunk for user in cut)
    ends = [chunk.num_rows for chunk in chunks[:-1]]
    assert not ends or sum(ends) / len(ends) > 0.5 * min(rows_per_chunk, 40)


def test_ctrl_c_within_a_query_is_the_interrupt_that_every_job_knows(disk):
    """DuckDB makes a RuntimeError of it; any other stays one."""
    for cause, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (None, RuntimeError)):
        with pytest.raises(expected), toy_request(disk).read_rows():
            raise RuntimeError("Query interrupted") from cause
