"""Plain files of a finished run: what they hold."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tests.object_store import requests_of
from tests.xrec.bulk.exported import export, files_of, finished, target_of
from tests.xrec.bulk.toy_run import Toy
from tests.xrec.table.conftest import Place
from xrec.bulk.export_folder import SUCCESS
from xrec.bulk.plain_files import write_plain_files
from xrec.config.export import ExportConfig
from xrec.errors import ConfigError, DataError
from xrec.storage import open_location


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an export that writes rows anew make several files."""
    monkeypatch.setattr("xrec.bulk.export.WINDOW_BYTES", 4000)


def table_rows(toy: Toy, columns: list[str], status: str = "ok") -> list[tuple[Any, ...]]:
    """The rows of the table, sorted by their keys: what an export is compared with."""
    rows = toy.snapshot().dataset([("status", "=", status)]).to_table().to_pylist()
    rows.sort(key=lambda row: (row["user"], row["item"]))
    return [tuple(row[name] for name in columns) for row in rows]


def parquet_rows(files: dict[str, bytes], columns: list[str]) -> list[tuple[Any, ...]]:
    """The rows of Parquet files, sorted by their keys."""
    rows = [
        row for data in files.values() for row in pq.read_table(pa.BufferReader(data)).to_pylist()
    ]
    rows.sort(key=lambda row: (row["user"], row["item"]))
    return [tuple(row[name] for name in columns) for row in rows]


def test_export_as_parquet_copies_the_files_of_rows_that_succeeded(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = finished(place, tmp_path)
    requests = requests_of(monkeypatch)
    exported = export(place)
    assert (exported.num_rows, exported.is_new) == (36, True)
    files = files_of(place)
    assert len(files) == exported.num_files
    paths = toy.snapshot().files([("status", "=", "ok")])["path"].to_pylist()
    stem = len(paths[0].rpartition("/")[2].removesuffix(".parquet"))
    assert sorted(files.values()) == sorted((place.location / path).read_bytes() for path in paths)
    assert {name[:stem] for name in files} == {path.rpartition("/")[2][:stem] for path in paths}
    columns = ["user", "item", "text", "num_tokens", "bucket", "reason"]
    assert parquet_rows(files, columns) == table_rows(toy, columns)
    success = json.loads((target_of(place) / SUCCESS).read_text())
    assert (success["num_rows"], success["num_files"]) == (36, len(files))
    if "s3" in place.uri:
        assert requests.count("copy_object") == len(files)
        # The record, `_SUCCESS` and the pin; no content of a file went through this process.
        assert requests.count("put_object") == 3
    assert not (place.location / "_xrec" / "pins").files()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_export_as_text_holds_the_same_rows(place: Place, tmp_path: Path, format: str) -> None:
    toy = finished(place, tmp_path)
    exported = export(place, format=format)
    files = files_of(place)
    assert len(files) == exported.num_files > 3
    assert all(name.endswith(f".{format}") for name in files)
    if format == "jsonl":
        lines = [line for data in files.values() for line in data.decode().split("\n") if line]
        rows = [json.loads(line) for line in lines]
    else:
        rows = [
            {**row, "num_tokens": int(row["num_tokens"]), "reason": row["reason"] or None}
            for data in files.values()
            for row in csv.DictReader(io.StringIO(data.decode(), newline=""))
        ]
    assert list(rows[0]) == toy.run.format.table.file_schema.names
    columns = ["user", "item", "text", "num_tokens", "reason"]
    rows.sort(key=lambda row: (row["user"], row["item"]))
    assert [tuple(row[name] for name in columns) for row in rows] == table_rows(toy, columns)


def test_export_of_some_columns_as_parquet_keeps_their_types(disk: Place, tmp_path: Path) -> None:
    toy = finished(disk, tmp_path)
    export(disk, columns=["text", "user", "item", "bucket"])
    (data,) = files_of(disk).values()
    schema = pq.read_schema(pa.BufferReader(data))
    there = toy.run.format.table.file_schema
    assert schema.names == ["text", "user", "item", "bucket"]
    assert all(schema.field(name).equals(there.field(name), True) for name in schema.names)
    columns = ["user", "item", "text"]
    assert parquet_rows({"": data}, columns) == table_rows(toy, columns)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_export_in_folders_of_values_is_read_back_by_pyarrow(
    place: Place, tmp_path: Path, format: str
) -> None:
    toy = finished(place, tmp_path, ["a/b c", "50 %", "é=", "odd-1"])
    exported = export(
        place,
        format=format,
        columns=["user"],
        partition_by=["item", "num_tokens"],
        with_failed=True,
    )
    assert exported.num_rows == 48
    target = target_of(place)
    rows = pyarrow.dataset.dataset(
        target.path,
        format=format,
        partitioning=pyarrow.dataset.partitioning(
            pa.schema([("status", pa.string()), ("item", pa.string()), ("num_tokens", pa.int32())]),
            flavor="hive",
        ),
        filesystem=target.arrow_filesystem(),
    ).to_table()
    for status in ("ok", "failed"):
        there = rows.filter(pc.equal(rows["status"], status)).to_pylist()
        there.sort(key=lambda row: (row["user"], row["item"]))
        columns = ["user", "item", "num_tokens"]
        assert [tuple(row[name] for name in columns) for row in there] == table_rows(
            toy, columns, status
        )
    folders = {name.rpartition("/")[0] for name in files_of(place)}
    assert "status=failed/item=odd-1/num_tokens=__HIVE_DEFAULT_PARTITION__" in folders


def test_export_with_failed_rows_copies_them_into_a_folder_of_their_own(
    place: Place, tmp_path: Path
) -> None:
    toy = finished(place, tmp_path)
    assert export(place, with_failed=True).num_rows == 48
    files = files_of(place)
    paths = toy.snapshot().files()["path"].to_pylist()
    assert sorted(files.values()) == sorted((place.location / path).read_bytes() for path in paths)
    failed = {name: data for name, data in files.items() if name.startswith("status=failed/")}
    columns = ["user", "item", "reason", "hint"]
    assert parquet_rows(failed, columns) == table_rows(toy, columns, "failed")


def test_export_of_an_unknown_or_unfit_column_says_which_there_are(
    disk: Place, tmp_path: Path
) -> None:
    finished(disk, tmp_path)
    for settings, message in (
        ({"columns": ["text", "txt"]}, r"export.columns: 'txt' is no column .*'text'"),
        ({"partition_by": ["shop"]}, r"export.partition_by: 'shop' is no column"),
        ({"partition_by": ["status"]}, "is in no file; with with_failed"),
        ({"columns": ["text", "text"]}, "expected each column once"),
        ({"columns": ["item"], "partition_by": ["item"]}, "no column is left"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(disk, **settings)
    assert not target_of(disk).exists()


def _written(tmp_path: Path, rows: pa.Table, **settings: Any) -> list[tuple[str, int, int]]:
    """What comes of writing these rows, three at a time, to the folder `to`."""
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=2)
    settings = {"uri": "", "columns": rows.column_names, **settings}
    return list(
        write_plain_files(
            [open_location(str(tmp_path / "rows.parquet"))],
            open_location(str(tmp_path / "to")),
            ExportConfig(**settings),
            [name for name in rows.column_names if name not in settings.get("partition_by", ())],
            3,
            "x",
        )
    )


def test_write_plain_files_makes_files_of_as_many_rows_as_told(tmp_path: Path) -> None:
    rows = pa.table({"number": range(8)})
    written = _written(tmp_path, rows, format="jsonl")
    assert [(name, rows) for name, _, rows in written] == [
        ("part-00000-x.jsonl", 3),
        ("part-00001-x.jsonl", 3),
        ("part-00002-x.jsonl", 2),
    ]
    texts = [(tmp_path / "to" / name).read_text() for name, _, _ in written]
    assert texts[1] == '{"number": 3}\n{"number": 4}\n{"number": 5}\n'
    assert [size for _, size, _ in written] == [len(text) for text in texts]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ({"a": [1.0, float("nan")]}, {"format": "jsonl"}, "JSON has no NaN.*choose parquet"),
        ({"a": ["b", ""], "c": [1, 2]}, {"partition_by": ["a"]}, "'a' has an empty text"),
        ({"a": ["b"] * 5 + ["d"], "c": range(6)}, {"partition_by": ["c"]}, "more than 4 folders"),
    ],
)
def test_write_plain_files_refuses_values_that_the_form_cannot_hold(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: dict[str, list[Any]],
    settings: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr("xrec.bulk.plain_files.MOST_FOLDERS", 4)
    with pytest.raises(DataError, match=message):
        _written(tmp_path, pa.table(rows), **settings)


def test_csv_has_lists_and_structs_as_json(tmp_path: Path) -> None:
    aspects = pa.list_(pa.struct([("aspect", pa.string()), ("count", pa.int32())]))
    said = [{"aspect": 'a "quiet" garden', "count": 3}]
    rows = pa.table({"text": ["one", "two"], "aspects": pa.array([said, None], aspects)})
    pq.write_table(rows, tmp_path / "rows.parquet")
    folder = open_location(str(tmp_path))
    settings = ExportConfig(uri=str(tmp_path / "out"), format="csv")
    ((name, _, _),) = write_plain_files(
        [folder / "rows.parquet"], folder / "out", settings, rows.column_names, 10, "x"
    )
    written = (folder / "out" / name).read_text()
    first, second = csv.DictReader(io.StringIO(written, newline=""))
    assert json.loads(first["aspects"]) == said
    assert (second["text"], second["aspects"]) == ("two", "")
