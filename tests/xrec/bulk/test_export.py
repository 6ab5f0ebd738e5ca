"""Plain files of a published version: what they hold, and that they are whole or say that not."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from tests.xrec.bulk.conftest import Place, Toys
from tests.xrec.bulk.test_rules_publish import Stopped
from tests.xrec.bulk.toy_run import Toy, toy_run
from xrec.bulk import Exported, export_run, is_exported
from xrec.bulk.export import RECORD, SUCCESS
from xrec.bulk.plain_files import write_plain_files
from xrec.config.export import ExportConfig
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
    DataError,
    TableError,
)
from xrec.storage import Location, open_location
from xrec.storage.local import LocalLocation
from xrec.storage.s3 import S3Location

ODD_ITEMS = ["a", 'says "no", or\nnot; é🙂', "comma, and\ttab", "odd-1"]


def finished(place: Place, folder: Path, items: list[str] = ODD_ITEMS) -> Toy:
    """A run that is published; the rows of items `odd...` failed."""
    toy = toy_run(place, folder, items)
    assert toy.complete() is not None
    return toy


def config_of(place: Place, **settings: Any) -> ExportConfig:
    """An export into the folder beside a place."""
    return ExportConfig(**{"uri": f"{place.uri} export", **settings})


def export(place: Place, version: int | None = None, **settings: Any) -> Exported:
    """Export what is published at `place` into the folder beside it."""
    config = config_of(place, **settings)
    return export_run(place.uri, config, version=version, storage=place.storage)


def target_of(place: Place) -> Location:
    """The folder that `export` writes to."""
    return open_location(f"{place.uri} export", place.storage)


def exported_files(place: Place) -> dict[str, bytes]:
    """The data files of the export, with their content."""
    target = target_of(place)
    names = (name for name in target.files() if name not in (RECORD, SUCCESS))
    return {name: (target / name).read_bytes() for name in names}


def success_of(place: Place) -> dict[str, Any] | None:
    """What `_SUCCESS` says; None if it is not there."""
    file = target_of(place) / SUCCESS
    return json.loads(file.read_text()) if file.is_file() else None


def table_rows(toy: Toy, columns: list[str], status: str = "ok") -> list[tuple[Any, ...]]:
    """The rows of the table, sorted by their keys: what an export is compared with."""
    return in_order(toy.published().dataset(status=status).to_table().to_pylist(), columns)


def in_order(rows: list[dict[str, Any]], columns: list[str]) -> list[tuple[Any, ...]]:
    """Some columns of rows, sorted by their keys."""
    rows = sorted(rows, key=lambda row: (row["user"], row["item"]))
    return [tuple(row[name] for name in columns) for row in rows]


COLUMNS = ["user", "item", "text", "num_tokens", "reason"]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_export_holds_the_rows_that_succeeded(place: Place, tmp_path: Path, format: str) -> None:
    toy = finished(place, tmp_path)
    exported = export(place, format=format)
    assert (exported.num_rows, exported.version, exported.is_new) == (36, 0, True)
    files = exported_files(place)
    assert len(files) == exported.num_files > 2
    assert all(name.endswith(f".{format}") for name in files)
    rows: list[dict[str, Any]] = []
    for data in files.values():
        if format == "parquet":
            rows += pq.read_table(pa.BufferReader(data)).to_pylist()
        elif format == "jsonl":
            rows += [json.loads(line) for line in data.decode().split("\n") if line]
        else:
            text = io.StringIO(data.decode(), newline="")
            rows += [
                {**row, "num_tokens": int(row["num_tokens"]), "reason": row["reason"] or None}
                for row in csv.DictReader(text)
            ]
    assert list(rows[0]) == [n for n in toy.run.format.table_schema.names if n != "status"]
    assert in_order(rows, COLUMNS) == table_rows(toy, COLUMNS)
    sizes = {name: len(data) for name, data in files.items()}
    assert success_of(place) == {"version": 0, "num_rows": 36, "files": sizes}


def test_export_of_some_columns_keeps_their_order_and_types(disk: Place, tmp_path: Path) -> None:
    toy = finished(disk, tmp_path)
    export(disk, columns=["text", "user", "item", "bucket"])
    (data,) = exported_files(disk).values()
    table = pq.read_table(pa.BufferReader(data))
    assert table.schema.names == ["text", "user", "item", "bucket"]
    there = toy.run.format.table_schema
    assert all(table.schema.field(n).type == there.field(n).type for n in table.schema.names)
    assert in_order(table.to_pylist(), COLUMNS[:3]) == table_rows(toy, COLUMNS[:3])


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_export_in_folders_of_values_is_read_back_by_pyarrow(
    place: Place, tmp_path: Path, format: str
) -> None:
    toy = finished(place, tmp_path, ["a/b c", "50 %", "é=", "odd-1"])
    settings = {"columns": ["user"], "partition_by": ["item", "num_tokens"], "with_failed": True}
    assert export(place, format=format, **settings).num_rows == 48
    target = target_of(place)
    fields = [("status", pa.string()), ("item", pa.string()), ("num_tokens", pa.int32())]
    rows = pads.dataset(
        target.path,
        format=format,
        partitioning=pads.partitioning(pa.schema(fields), flavor="hive"),
        filesystem=target.arrow_filesystem(),
    ).to_table()
    columns = ["user", "item", "num_tokens"]
    for status in ("ok", "failed"):
        there = rows.filter(pc.equal(rows["status"], status)).to_pylist()
        assert in_order(there, columns) == table_rows(toy, columns, status)
    folders = {name.rpartition("/")[0] for name in exported_files(place)}
    assert "status=failed/item=odd-1/num_tokens=__HIVE_DEFAULT_PARTITION__" in folders


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


def _written(folder: Path, rows: pa.Table, **settings: Any) -> list[tuple[str, int, int]]:
    """What comes of writing these rows to the folder `to`."""
    pq.write_table(rows, folder / "rows.parquet", row_group_size=2)
    columns = [name for name in rows.column_names if name not in settings.get("partition_by", ())]
    config = ExportConfig(**{"uri": "", **settings})
    dataset, target = pads.dataset(str(folder / "rows.parquet")), open_location(str(folder / "to"))
    return list(write_plain_files(dataset, target, config, columns, "", "x"))


def test_write_plain_files_makes_files_of_about_as_many_bytes_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.bulk.plain_files.WINDOW_BYTES", 20)
    written = _written(tmp_path, pa.table({"number": range(7)}), format="jsonl")
    assert [(name, rows) for name, _, rows in written] == [
        ("part-00000-x.jsonl", 4),
        ("part-00001-x.jsonl", 3),
    ]
    texts = [(tmp_path / "to" / name).read_text() for name, _, _ in written]
    assert texts[1] == '{"number": 4}\n{"number": 5}\n{"number": 6}\n'
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
    ((name, _, _),) = _written(tmp_path, rows, format="csv")
    text = io.StringIO((tmp_path / "to" / name).read_text(), newline="")
    first, second = csv.DictReader(text)
    assert json.loads(first["aspects"]) == said
    assert (second["text"], second["aspects"]) == ("two", "")


# It is whole, or says that it is not.


class Watch:
    """Calls `before` ahead of everything that is written or deleted in the export's folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: str):
        self.before: Callable[[int], None] = lambda number: None
        self.number = 0
        for kind in (LocalLocation, S3Location):
            for name in ("write_bytes", "create_bytes", "delete"):
                monkeypatch.setattr(kind, name, self._watched(getattr(kind, name), folder))

    def _watched(self, original: Any, folder: str) -> Any:
        def watched(location: Location, *arguments: Any) -> Any:
            if location.uri.startswith(folder):
                self.number += 1
                self.before(self.number - 1)
            return original(location, *arguments)

        return watched


@pytest.mark.usefixtures("small_windows")
def test_export_that_is_there_is_left_as_it_is_and_one_that_lost_a_file_is_made_whole(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(place, tmp_path)
    settings = config_of(place)
    assert not is_exported(place.uri, settings, 0, place.storage)
    first, before = export(place), exported_files(place)
    assert is_exported(place.uri, settings, 0, place.storage)
    watch = Watch(monkeypatch, target_of(place).uri)
    again = export(place)
    assert (again.is_new, again.num_rows, again.num_files) == (False, 36, first.num_files)
    assert watch.number == 1  # whether the record is there
    (target_of(place) / min(before)).delete()
    assert export(place).is_new
    assert exported_files(place) == before


@pytest.mark.usefixtures("small_windows")
def test_export_stopped_at_any_moment_is_never_taken_for_whole_and_goes_on(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(disk, tmp_path)
    export(disk)
    whole = exported_files(disk)
    watch = Watch(monkeypatch, target_of(disk).uri)
    is_stopped, moment = True, 0

    def stop(number: int) -> None:
        if number == moment:
            raise Stopped

    while is_stopped:
        target_of(disk).delete()
        watch.number, watch.before = 0, stop
        try:
            export(disk, format="parquet")
            is_stopped = False
        except Stopped:
            moment += 1
        watch.before = lambda number: None
        if success_of(disk) is not None:
            assert exported_files(disk) == whole
        assert export(disk).num_files == len(whole)
        assert exported_files(disk) == whole
    assert moment > 4


def test_export_of_another_version_or_other_settings_is_refused(
    place: Place, tmp_path: Path
) -> None:
    toy = finished(place, tmp_path)
    export(place)
    toy.heal()
    toy.complete(retry=["odd"])
    before = exported_files(place)
    for settings, field in (({}, "version"), ({"format": "csv", "version": 0}, "format")):
        with pytest.raises(ArtifactMismatchError, match=rf"(?s)another export:\n.*{field}: "):
            export(place, **settings)
    assert exported_files(place) == before
    assert not export(place, version=0).is_new


def test_export_never_writes_among_files_that_are_not_its_own(place: Place, tmp_path: Path) -> None:
    finished(place, tmp_path)
    target = target_of(place)
    (target / "photos" / "cat.parquet").write_bytes(b"a cat")
    with pytest.raises(ArtifactMismatchError, match=r"of no export, such as photos/cat\.parquet"):
        export(place)
    assert target.files() == ["photos/cat.parquet"]
    (target / "photos").delete()
    export(place)
    (target / "photos" / "cat.parquet").write_bytes(b"a cat")
    with pytest.raises(ArtifactMismatchError, match=r"changed meanwhile, such as photos/cat"):
        export(place)
    assert success_of(place) is None
    (target / RECORD).write_bytes(b"{}")
    with pytest.raises(ArtifactMismatchError, match="not a record that this xrec reads"):
        export(place)


def test_export_in_or_around_the_table_is_refused(disk: Place, tmp_path: Path) -> None:
    finished(disk, tmp_path)
    for uri in (disk.uri, f"{disk.uri}/export", str(Path(disk.uri).parent)):
        with pytest.raises(ConfigError, match="a folder of its own"):
            export(disk, uri=uri)


def test_export_of_what_is_not_published_is_refused(place: Place, toys: Toys) -> None:
    with pytest.raises(ArtifactNotFoundError, match="nothing was published there"):
        export(place)
    toys("a").drive()
    with pytest.raises(ArtifactNotFoundError, match="nothing was published there"):
        export(place)
    toys("a").publish()
    with pytest.raises(TableError, match="version 99 is not there"):
        export(place, version=99)
    assert not target_of(place).exists()
