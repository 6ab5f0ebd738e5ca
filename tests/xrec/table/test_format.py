"""What a table may hold, and what its format refuses."""

import math

import pyarrow as pa
import pytest

from tests.xrec.table.small_table import FORMAT
from xrec.table import TableFormat

KEY = pa.field("status", pa.string(), nullable=False)
NUMBER = pa.field("number", pa.int64())


@pytest.mark.parametrize(
    ("fields", "partition_by", "statistics", "message"),
    [
        ([NUMBER], ("status",), (), "'status' is not in the schema"),
        ([pa.field("status", pa.float64(), nullable=False), NUMBER], ("status",), (), "string"),
        ([pa.field("status", pa.string()), NUMBER], ("status",), (), "not null"),
        ([KEY, pa.field("x", pa.float32())], (), ("x",), "a float may be NaN, which has no order"),
        ([KEY, NUMBER], ("status",), ("status",), "outside the partition"),
        ([KEY, pa.field("a,b", pa.int64())], (), ("a,b",), "letters, digits and _"),
        ([KEY, pa.field("x", pa.uint32())], (), (), "a Delta table would make it"),
        ([KEY, pa.field("x", pa.large_string())], (), (), "a Delta table would make it"),
    ],
)
def test_format_column_that_cannot_be_used_is_refused(
    fields: list[pa.Field],
    partition_by: tuple[str, ...],
    statistics: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        TableFormat(pa.schema(fields), partition_by, statistics)


@pytest.mark.parametrize(
    "partition",
    [{}, {"status": "ok", "more": "x"}, {"status": 1.5}, {"status": math.nan}, {"status": None}],
)
def test_format_partition_that_is_not_one_string_a_column_is_refused(
    partition: dict[str, object],
) -> None:
    with pytest.raises(ValueError, match="expected a"):
        FORMAT.check_partition(partition)


def test_format_file_has_all_columns_but_the_partition_s() -> None:
    assert FORMAT.file_schema.names == ["bucket", "user", "score"]
    assert FORMAT.folder({"status": "ok"}) == "status=ok/"
    assert TableFormat(pa.schema([NUMBER])).folder({}) == ""
