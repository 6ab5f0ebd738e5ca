"""Files of rows: what a worker writes, and what the driver reads from their footers."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import FORMAT, file_of, rows_of
from xrec.table import TableFormat, write_file
from xrec.table.data_file import check_file


def test_write_file_has_a_row_group_for_each_run_of_a_value(place: Place) -> None:
    rows = pa.concat_tables(rows_of(bucket, *"abc"[: bucket + 1]) for bucket in range(3))
    file = write_file(
        place.location, FORMAT, rows, name="x", partition={"status": "ok"}, row_group_by="bucket"
    )
    there = pq.ParquetFile(pa.BufferReader((place.location / file.path).read_bytes()))
    assert [there.read_row_group(number)["bucket"].to_pylist() for number in range(3)] == [
        [0],
        [1, 1],
        [2, 2, 2],
    ]
    assert there.read().equals(rows.cast(FORMAT.file_schema))
    assert all(field.metadata is None for field in there.schema_arrow)  # they stand in the log


def test_write_file_twice_by_one_name_is_two_files(disk: Place) -> None:
    table = disk.table()
    assert file_of(table, 1, "a").path != file_of(table, 1, "a").path


@pytest.mark.parametrize("name", ["", "_x", ".x", "a/b", "../a", "a b"])
def test_write_file_name_that_is_no_part_of_a_path_is_refused(disk: Place, name: str) -> None:
    with pytest.raises(ValueError, match="expected letters"):
        write_file(disk.location, FORMAT, rows_of(1, "a"), name=name, partition={"status": "ok"})


def test_write_file_without_rows_is_refused(disk: Place) -> None:
    with pytest.raises(ValueError, match="there are no rows"):
        write_file(disk.location, FORMAT, rows_of(1), name="x", partition={"status": "ok"})


def test_check_file_finds_rows_and_statistics_that_pyarrow_computes(place: Place) -> None:
    """With so many row groups the footer takes a second request."""
    format = TableFormat(
        pa.schema([("number", pa.int64()), ("text", pa.string()), ("empty", pa.string())]),
        statistics=("number", "text", "empty"),
    )
    rows = pa.table(
        {
            "number": [number * 7 % 1000 - 500 for number in range(1000)],
            "text": ["ü" if number == 3 else None if number % 5 else "a" for number in range(1000)],
            "empty": pa.nulls(1000, pa.string()),
        }
    )
    file = write_file(place.location, format, rows, name="x", row_group_by="number")
    checked = check_file(place.location, format, file)
    assert checked.num_rows == 1000
    extremes = {name: pc.min_max(rows[name]).as_py() for name in ("number", "text")}
    assert checked.statistics == {
        "numRecords": 1000,
        "minValues": {name: found["min"] for name, found in extremes.items()},
        "maxValues": {name: found["max"] for name, found in extremes.items()},
        "nullCount": {name: rows[name].null_count for name in rows.column_names},
    }
    footer = pq.read_metadata(pa.BufferReader((place.location / file.path).read_bytes()))
    assert footer.serialized_size > 65_536


def test_check_file_string_too_long_for_statistics_has_none(disk: Place) -> None:
    """A reader must not skip the file for a least value that is not its least."""
    format = TableFormat(pa.schema([("text", pa.string())]), statistics=("text",))
    rows = pa.table({"text": ["m", "a" * 100_000]})
    checked = check_file(disk.location, format, write_file(disk.location, format, rows, name="x"))
    assert (checked.statistics["minValues"], checked.statistics["maxValues"]) == ({}, {})


def test_write_file_footer_has_no_values_of_texts_but_of_columns_with_statistics(
    disk: Place,
) -> None:
    """A footer is read as a whole by who looks for a row; texts would be most of it."""
    rows = pa.table({"number": [1, 2], "user": ["u1", "u2"], "text": ["the least", "the most"]})
    format = TableFormat(rows.schema, statistics=("user",))
    file = write_file(disk.location, format, rows, name="x")
    data = (disk.location / file.path).read_bytes()
    footer = pq.read_metadata(pa.BufferReader(data))
    columns = [footer.row_group(0).column(number) for number in range(3)]
    statistics = [column.statistics for column in columns]
    assert [(each.min, each.max) for each in statistics if each and each.has_min_max] == [
        (1, 2),
        ("u1", "u2"),
    ]
