"""Rows of ids, against a dictionary: sorted, in runs, in chunks, and in no order."""

import random

import pyarrow as pa
import pytest

from xrec.data.ids import IdIndex

SORTED = sorted({f"{n:x}" for n in range(300)} | {"é", "日本", "𝒳", "A b", "'"})
SHUFFLED = random.Random(0).sample(SORTED, len(SORTED))


def _column(ids: list[str], chunk: int) -> pa.ChunkedArray:
    parts = [ids[start : start + chunk] for start in range(0, len(ids), chunk)]
    return pa.chunked_array([[], *parts, []], pa.string())


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(
    "ids",
    [
        SORTED,
        [*SORTED[1::2], *SORTED[::2]],  # as a cold start appends them
        SHUFFLED,
        ["only"],
        [],
    ],
)
def test_rows_and_prefixes_are_those_of_a_dictionary(ids, chunk):
    index, rows = IdIndex(_column(ids, chunk)), {each: row for row, each in enumerate(ids)}
    wanted = [*SORTED, "", "zzz", "10x", "日", "only"]
    assert [index.find(each) for each in wanted] == [rows.get(each) for each in wanted]
    asked = pa.array([*wanted, *wanted[:5]], pa.string())
    expected = [rows.get(each, -1) for each in asked.to_pylist()]
    assert index.rows(asked).tolist() == expected
    assert index.rows(pa.chunked_array([asked])).tolist() == expected
    assert index.rows(pa.chunked_array([], pa.string())).tolist() == []
    for prefix in ("1", "10", "é", "", "none"):
        found = sorted(each for each in ids if each.startswith(prefix))
        assert index.starting_with(prefix, 4) == found[:4]
