"""Snapshots: files that are skipped by the log alone, rows that are the same as without it."""

from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import file_of
from xrec.table import Filter, Snapshot, Table, TableFormat, write_file

ROWS = [(bucket, status) for bucket in range(8) for status in ("ok", "failed")]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Sixteen files, each with one row of one bucket and status."""
    from xrec.config.shared import StorageConfig

    table = Place(str(tmp_path_factory.mktemp("table")), StorageConfig()).table()
    writer = table.take_over("driver")
    writer.commit([file_of(table, bucket, f"u{bucket}", status=status) for bucket, status in ROWS])
    return table.snapshot()


@pytest.mark.parametrize(
    ("filter", "is_kept"),
    [
        (("bucket", "=", 3), lambda bucket, status: bucket == 3),
        (("bucket", "!=", 3), lambda bucket, status: bucket != 3),
        (("bucket", "<", 3), lambda bucket, status: bucket < 3),
        (("bucket", "<=", 3), lambda bucket, status: bucket <= 3),
        (("bucket", ">", 3), lambda bucket, status: bucket > 3),
        (("bucket", ">=", 3), lambda bucket, status: bucket >= 3),
        (("bucket", "in", [1, 6, 99]), lambda bucket, status: bucket in (1, 6)),
        (("bucket", "in", []), lambda bucket, status: False),
        (("status", "=", "ok"), lambda bucket, status: status == "ok"),
        (("status", "!=", "ok"), lambda bucket, status: status != "ok"),
        (("user", "=", "u3"), lambda bucket, status: bucket == 3),
    ],
)
def test_snapshot_filter_keeps_these_rows_and_opens_only_their_files(
    snapshot: Snapshot, filter: Filter, is_kept: Any
) -> None:
    expected = sorted((bucket, status) for bucket, status in ROWS if is_kept(bucket, status))
    rows = snapshot.dataset([filter]).to_table().to_pylist()
    assert sorted((row["bucket"], row["status"]) for row in rows) == expected
    by_log = len(ROWS) if filter[0] == "user" else len(expected)  # user has no statistics
    assert snapshot.files([filter]).num_rows == by_log


def test_snapshot_filters_hold_all_together(snapshot: Snapshot) -> None:
    filters: list[Filter] = [("bucket", ">", 5), ("status", "=", "failed")]
    assert snapshot.files(filters)["min.bucket"].to_pylist() == [6, 7]
    assert snapshot.dataset(filters).to_table()["user"].to_pylist() == ["u6", "u7"]


def test_snapshot_filter_on_unknown_column_or_operator_is_refused(snapshot: Snapshot) -> None:
    with pytest.raises(ValueError, match="'colour': the table has"):
        snapshot.files([("colour", "=", 1)])
    with pytest.raises(ValueError, match="expected one of"):
        snapshot.files([("bucket", "~", 1)])  # type: ignore[list-item]


def test_snapshot_dataset_has_the_table_s_schema_also_without_rows(
    snapshot: Snapshot, disk: Place
) -> None:
    empty = disk.table().snapshot()
    assert empty.rows == 0
    assert empty.dataset().to_table().schema.equals(snapshot.dataset().to_table().schema)
    assert snapshot.rows == 16
    assert snapshot.files().schema.equals(empty.files().schema)
    assert snapshot.format.schema.field("bucket").metadata == {b"comment": b"hash of user"}


def test_snapshot_file_without_statistics_is_never_skipped(disk: Place) -> None:
    """A file has none for a column whose strings are very long, or all null."""
    format = TableFormat(pa.schema([("text", pa.string())]), statistics=("text",))
    table = Table.create(disk.uri, format, run="this-run")
    long = "m" * 100_000
    columns = ([long], [None], ["a"])
    writer = table.take_over("driver")
    writer.commit(
        [
            write_file(
                table.location, format, pa.table({"text": pa.array(column, pa.string())}), name="x"
            )
            for column in columns
        ]
    )
    filters: list[Filter] = [("text", "=", long)]
    assert table.snapshot().files(filters).num_rows == 2
    assert table.snapshot().dataset(filters).to_table()["text"].to_pylist() == [long]
