"""Counts of results, and that the first result of a chunk stands."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.bulk.conftest import Place
from tests.xrec.bulk.toy_run import FORMAT
from xrec.bulk import Summary
from xrec.bulk.runs.result import BrokenResultError, ResultFolder, total
from xrec.errors import DataError

SCHEMA = FORMAT.table_schema


def rows_with(text: str) -> pa.Table:
    """A row that succeeded and one that failed."""
    row = {"bucket": 0, "user": "u", "item": "i"}
    return pa.Table.from_pylist(
        [
            {"status": "ok", **row, "text": text},
            {"status": "failed", **row, "user": "v", "reason": "odd", "message": text},
        ],
        SCHEMA,
    )


def of(num_ok: int, num_ok_rows: int, *others: Any, **more: Any) -> Summary:
    """A summary by the places of its fields."""
    values = dict(zip(("failed", "was_failed", "costs", "num_deaths"), others, strict=False))
    return Summary(num_ok=num_ok, num_ok_rows=num_ok_rows, **values, **more)


def test_summaries_add_up_and_rows_that_were_done_again_count_once() -> None:
    first = of(5, 9, {"odd": 3, "dull": 2}, {}, {"seconds": 2.0, "tokens": 7}, 1)
    again = of(2, 4, {"dull": 1}, {"odd": 3}, {"seconds": 1.0, "carried": 1.0}, 2)
    both = first + again
    assert both == of(7, 13, {"dull": 3}, {}, {"seconds": 3.0, "tokens": 7, "carried": 1.0}, 3)
    assert (both.num_rows, both.num_failed) == (first.num_rows, 3)
    assert total([again, first]) == total([first, again]) == both
    assert total([]).num_rows == 0


def test_result_is_created_once_and_the_first_stands(place: Place) -> None:
    results = ResultFolder(place.location / "results")
    assert results.sizes() == {}
    assert results.standing(7) is None
    first, second = of(1, 1, costs={"seconds": 1.0}), of(1, 1, costs={"seconds": 2.0})
    assert results.create(7, rows_with("first"), first) == first
    assert results.create(7, rows_with("second"), second) == first
    assert results.standing(7) == first
    ((name, size),) = results.sizes().values()
    assert (name, size) == ("0000007.parquet", len((results.location / name).read_bytes()))
    rows, summary = results.read(name, SCHEMA)
    assert (rows.to_pylist(), summary) == (rows_with("first").to_pylist(), first)
    plain = pq.read_table(pa.BufferReader((results.location / name).read_bytes()))
    assert plain.schema.names == SCHEMA.names  # anyone may read it meanwhile


def test_result_that_cannot_be_read_is_done_once_more_under_a_second_name(disk: Place) -> None:
    results, again = ResultFolder(disk.location / "results"), of(1, 1, num_deaths=1)
    first, second = results.location / "0000007.parquet", results.location / "0000007~1.parquet"
    first.write_bytes(b"")
    assert (results.standing(7), results.doubted()) == (None, set())
    with pytest.raises(BrokenResultError, match=r"0000007\.parquet: .* done once more"):
        results.read(first.name, SCHEMA)
    assert results.doubted() == {7}
    assert results.create(7, rows_with("again"), again) == again
    assert (results.doubted(), results.sizes()[7][0]) == (set(), second.name)
    assert results.create(7, rows_with("late"), Summary()) == results.standing(7) == again
    second.write_bytes(b"PAR1, and ends so PAR1")
    for do in (results.standing, lambda chunk: results.create(chunk, rows_with("late"), again)):
        with pytest.raises(DataError, match=r"neither 0000007.parquet nor 0000007~1.parquet"):
            do(7)
