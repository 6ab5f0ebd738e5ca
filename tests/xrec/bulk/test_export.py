"""Exports: plain files of a published version, and `_SUCCESS` only beside a complete set."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.world.here import Killed, Place
from tests.xrec.bulk.toy_run import die_here
from xrec.bulk import export_run
from xrec.bulk.read import SUCCESS, Exported, _with_json_cells
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError, TableError
from xrec.storage import Location, open_location, row_groups

ODD_ITEMS = ["a", 'says "no", or\nnot; é🙂', "comma, and\ttab", "odd-1"]


def export(place: Place, version: int | None = None, **settings: Any) -> Exported:
    """Export a version of the table at `place` to the folder beside it."""
    settings = {"to": f"{place.uri} export", "storage": place.storage, **settings}
    return export_run(place.uri, version=version, **settings)


def target_of(place: Place) -> Location:
    return open_location(f"{place.uri} export", place.storage)


def exported_files(place: Place) -> dict[str, bytes]:
    target = target_of(place)
    names = (name for name in target.files() if name != SUCCESS)
    return {name: (target / name).read_bytes() for name in names}


def parsed(data: bytes, format: str) -> list[dict[str, Any]]:
    if format == "parquet":
        return pq.read_table(pa.BufferReader(data)).to_pylist()
    rows = csv.DictReader(io.StringIO(data.decode(), newline=""))
    return [{**row, "num_tokens": int(row["num_tokens"]), "reason": None} for row in rows]


def in_order(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    columns = ("user", "item", "text", "num_tokens", "reason")
    return sorted(tuple(row[name] for name in columns) for row in rows)


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_export_has_the_rows_that_succeeded(there, here, format):
    toys = there if format == "parquet" else here
    toys.patch.setattr("xrec.bulk.read.ROWS_PER_FILE", 10)
    toy = toys(ODD_ITEMS)
    toy.complete()
    exported = export(toys, format=format)
    assert (exported.num_rows, exported.version) == (36, 0)
    files = exported_files(toys)
    assert len(files) == exported.num_files > 2
    assert all(name.endswith(f".{format}") for name in files)
    rows = [row for data in files.values() for row in parsed(data, format)]
    assert list(rows[0]) == [n for n in toy.run.format.table_schema.names if n != "status"]
    assert in_order(rows) == in_order(toy.published().dataset().to_table().to_pylist())
    assert json.loads((target_of(toys) / SUCCESS).read_text()) == {
        "version": 0,
        "num_rows": 36,
        "files": {name: len(data) for name, data in files.items()},
    }


def test_csv_has_lists_as_json():
    aspects = [{"aspect": 'a "quiet" garden', "count": 3}]
    rows = pa.table({"text": ["one", "two"], "aspects": [aspects, None]})
    (first, second) = _with_json_cells(rows).to_pylist()
    assert json.loads(first["aspects"]) == aspects
    assert second == {"text": "two", "aspects": None}


def test_export_to_a_folder_that_is_not_empty_is_refused(here):
    toy = here("a")
    toy.complete()
    columns = ["text", "user", "bucket"]

    def some_groups(tables: Iterator[pa.Table], num_rows: int) -> Iterator[pa.Table]:
        yield next(row_groups(tables, num_rows))
        die_here()

    with here.patch.context() as patch:
        patch.setattr("xrec.bulk.read.row_groups", some_groups)
        with pytest.raises(Killed):
            export(here)
    for num_files in (1, 2):  # first a part, then a complete export
        assert len(target_of(here).files()) == num_files
        with raises(ArtifactMismatchError, "not_empty"):
            export(here)
        target_of(here).delete()
        export(here, columns=columns)
    schema = pq.read_schema(pa.BufferReader(*exported_files(here).values()))
    assert schema.equals(pa.schema([toy.run.format.table_schema.field(name) for name in columns]))


def test_export_without_a_version_of_unknown_columns_or_into_the_table_is_refused(here):
    for do in (lambda: None, here("a").drive):
        do()
        with raises(ArtifactNotFoundError, "no_table"):
            export(here)
    here("a").publish()
    with raises(TableError, "no_version", saw=99):
        export(here, version=99)
    for columns, code in (
        (["status"], "unknown_column"),
        (["text", "text"], "no_or_same_columns"),
    ):
        with raises(ConfigError, code, "columns", columns):
            export(here, columns=columns)
    assert not target_of(here).exists()
    for uri in (here.uri, f"{here.uri}/export", str(Path(here.uri).parent)):
        with raises(ConfigError, "around_table", "to"):
            export(here, to=uri)
