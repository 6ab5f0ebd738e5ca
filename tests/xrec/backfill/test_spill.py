"""Pairs on disk are compared with a set of Python tuples."""

import random
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from xrec.backfill.chunk import chunk_of
from xrec.backfill.spill import PairSpill, pairs_hash

from xrec.schemas import PAIRS

Rows = list[tuple[str, str]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """One user with many pairs, many users with few, and some pairs twice."""
    draw = random.Random(0)
    few = [(f"user-{draw.randrange(700)}", f"item {draw.randrange(40)}") for _ in range(3000)]
    return few + [("hotel", f"item {item}") for item in range(500)]


def _table(rows: Rows) -> pa.Table:
    return pa.table(
        {"user_id": [user for user, _ in rows], "item_id": [item for _, item in rows]}
    ).cast(PAIRS)


def _batches(rows: Rows, size: int) -> Iterator[pa.Table]:
    return (_table(rows[start : start + size]) for start in range(0, len(rows), size))


@pytest.mark.parametrize("num_chunks", [1, 2, 64, 256, 1024])
def test_spill_chunks_hold_each_distinct_pair_once_by_hash_and_in_order(
    rows: Rows, num_chunks: int
) -> None:
    spill = PairSpill(_batches(rows, 100))
    found: Rows = []
    seen: set[int] = set()
    for chunk, pairs in spill.chunks(num_chunks):
        part = [(row["user_id"], row["item_id"]) for row in pairs.to_pylist()]
        assert chunk not in seen
        assert part == sorted(part)
        assert {chunk_of(user, num_chunks) for user, _ in part} == {chunk}
        seen.add(chunk)
        found += part
    assert sorted(found) == sorted(set(rows))
    assert (spill.num_given, spill.num_pairs) == (len(rows), len(set(rows)))


def test_spill_fingerprint_depends_on_the_set_of_pairs_alone(rows: Rows) -> None:
    first = PairSpill(_batches(rows, 1000)).fingerprint
    shuffled = random.Random(1).sample(rows, len(rows))
    assert PairSpill(_batches(shuffled + shuffled[:50], 37)).fingerprint == first
    assert PairSpill(_batches(rows[:-1], 1000)).fingerprint != first


def test_spill_of_nothing_is_empty() -> None:
    spill = PairSpill([_table([])])
    assert (spill.num_given, spill.num_pairs, list(spill.chunks(4))) == (0, 0, [])


@pytest.mark.parametrize(
    "change",
    [lambda rows: rows[::-1], lambda rows: [("a", "bc"), ("d", "e")], lambda rows: rows[:1]],
)
def test_pairs_hash_tells_order_and_borders(change: Callable[[Rows], Rows]) -> None:
    rows = [("ab", "c"), ("d", "e")]
    assert pairs_hash(_table(rows)) == pairs_hash(_table(rows))
    assert pairs_hash(_table(change(rows))) != pairs_hash(_table(rows))
