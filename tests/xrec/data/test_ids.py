"""Rows of ids, against a dictionary: sorted, in chunks, in no order, and with holes."""

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
    ("ids", "has_order"),
    [
        (SORTED, False),
        (SHUFFLED, False),
        (["", *SHUFFLED, ""], True),
        (["only"], False),
        ([], False),
    ],
)
def test_rows_and_prefixes_are_those_of_a_dictionary(ids, has_order, chunk):
    rows = {each: row for row, each in enumerate(ids) if each}
    order = pa.chunked_array([[rows[each] for each in sorted(rows)]]) if has_order else None
    index = IdIndex(_column(ids, chunk), order)
    assert len(index) == len(rows)
    wanted = [*SORTED, "", "zzz", "10x", "日", "only"]
    assert [index.find(each) for each in wanted] == [rows.get(each) for each in wanted]
    asked = pa.array([*wanted, *wanted[:5]], pa.string())
    expected = [rows.get(each, -1) for each in asked.to_pylist()]
    assert index.rows(asked).tolist() == expected
    assert index.rows(pa.chunked_array([asked])).tolist() == expected
    assert index.rows(pa.chunked_array([], pa.string())).tolist() == []
    for prefix in ("1", "10", "é", "", "none"):
        found = sorted(each for each in rows if each.startswith(prefix))
        assert list(index.starting_with(prefix)) == found
        for after in (prefix, "b", *ids[:5]):
            assert list(index.starting_with(prefix, after)) == [e for e in found if e > after]
