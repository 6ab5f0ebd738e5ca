"""Tables of texts from elsewhere: each format, and what is wrong with one."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec.config.contestants import ElsewhereConfig
from xrec.config.shared import StorageConfig
from xrec.errors import DataError, StorageNotFoundError
from xrec.lab.compare.elsewhere import elsewhere_fingerprint, read_elsewhere

ROWS: list[dict[str, Any]] = [
    {"uid": 7, "iid": "a", "xrec": " A fine place. "},
    {"uid": 8, "iid": "b", "xrec": ""},
]


def read(path: Path, **names: str) -> dict[tuple[str, str], str | None]:
    given = {"user_id": "uid", "item_id": "iid", "text": "xrec", **names}
    return read_elsewhere("public", ElsewhereConfig(uri=str(path), **given), StorageConfig())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.csv", "texts.parquet"])
def test_table_of_any_format_gives_texts_by_pair(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, ROWS)) == {
        ("7", "a"): "A fine place.",
        ("8", "b"): None,
    }


def test_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", ROWS)
    with pytest.raises(DataError, match=r"missing column\(s\) says.*saw 'uid', 'iid', 'xrec'"):
        read(path, text="says")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"uid": 7, "iid": "a", "xrec": "again"}, "1 of 3 rows.*line 3.*duplicate"),
        ({"uid": None, "iid": "c", "xrec": "x"}, "1 of 3 rows.*line 3.*must be a string"),
        ({"uid": 9, "iid": "c", "xrec": ["x"]}, "1 of 3 rows.*line 3.*must be a text"),
    ],
)
def test_row_that_cannot_be_used_ends_it_with_file_and_line(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "texts.jsonl", [*ROWS, row]))


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", ROWS)
    config = ElsewhereConfig(uri=str(path))
    before = elsewhere_fingerprint(config, StorageConfig())
    assert elsewhere_fingerprint(config, StorageConfig()) == before
    write(path, ROWS[:1])
    assert elsewhere_fingerprint(config, StorageConfig()) != before


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageNotFoundError, match=r"nothing.jsonl"):
        read(tmp_path / "nothing.jsonl")
