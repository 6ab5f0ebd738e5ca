"""Golden files: what is a difference, and what belongs to a machine."""

import pyarrow as pa
import pytest

from benchmarks import golden


@pytest.mark.parametrize(
    ("columns", "is_same"),
    [
        ({"x": [2, 1, 1], "y": ["b", None, "a"]}, True),
        ({"y": ["a", "b", None], "x": [1, 2, 1], "content_key": ["k", "l", "m"]}, True),
        ({"x": [1, 1, 2], "y": ["b", None, "a"]}, False),
        ({"x": [1, 2], "y": ["a", "b"]}, False),
    ],
)
def test_table_is_known_by_its_rows_in_any_order(columns, is_same):
    table = pa.table({"x": [1, 2, 1], "y": ["a", "b", None]})
    one, other = (golden.table_record(each, "here") for each in (table, pa.table(columns)))
    assert (one == other) is is_same


def test_difference_of_another_kind_of_processor_is_kept_and_not_compared(monkeypatch):
    recorded = {"graph": {"shape": [2], "digest": {"avx512": "a"}}}
    monkeypatch.setattr(golden, "processor", lambda: "no avx512")
    here = {"graph": {"shape": [2], "digest": {"no avx512": "b"}}}
    assert list(golden.differences(recorded, here)) == []
    both = golden.merged(recorded, here)
    assert both["graph"]["digest"] == {"avx512": "a", "no avx512": "b"}
    changed = {"graph": {"shape": [3], "digest": {"no avx512": "c"}}, "adapter": {}}
    assert list(golden.differences(both, changed)) == [
        'adapter: recorded "nothing", found {}',
        'graph/digest/no avx512: recorded "b", found "c"',
        "graph/shape: recorded [2], found [3]",
    ]
