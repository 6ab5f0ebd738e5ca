"""The first result of a chunk stands; one that cannot be read is done once more."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.bulk.conftest import Place
from tests.xrec.bulk.toy_run import FORMAT
from xrec.bulk import Summary
from xrec.bulk.runs.result import BrokenResultError, ResultFolder
from xrec.errors import DataError

ROW = {"status": "ok", "bucket": 0, "user": "u", "item": "i", "text": "liked"}
ROWS = pa.Table.from_pylist([ROW], FORMAT.table_schema)


def test_first_result_stands_also_under_a_second_name(place: Place) -> None:
    results = ResultFolder(place.location / "results")
    first, second = results.location / "0000007.parquet", results.location / "0000007~1.parquet"
    one, other = (Summary(num_ok=1, num_ok_rows=1, num_deaths=number) for number in (1, 2))
    assert (results.sizes(), results.standing(7)) == ({}, None)
    assert [results.create(7, ROWS, summary) for summary in (one, other)] == [one] * 2
    rows, summary = results.read(first.name, FORMAT.table_schema)
    assert (rows.equals(ROWS), summary, results.standing(7)) == (True, one, one)
    plain = pq.read_table(pa.BufferReader(first.read_bytes()))
    assert plain.schema.names == rows.schema.names  # anyone may read it meanwhile
    first.write_bytes(b"")
    assert (results.standing(7), results.doubted()) == (None, set())
    with pytest.raises(BrokenResultError, match=r"0000007\.parquet: .* done once more"):
        results.read(first.name, FORMAT.table_schema)
    assert results.doubted() == {7}
    assert [results.create(7, ROWS, summary) for summary in (other, one)] == [other] * 2
    assert (results.doubted(), results.sizes()[7]) == (
        set(),
        (second.name, len(second.read_bytes())),
    )
    second.write_bytes(b"PAR1, and ends so PAR1")
    for do in (results.standing, lambda chunk: results.create(chunk, ROWS, one)):
        with pytest.raises(DataError, match=r"neither 0000007.parquet nor 0000007~1.parquet"):
            do(7)
