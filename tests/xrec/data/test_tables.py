"""Plain tables: any ids, three formats, optional splits."""

from pathlib import Path

import pytest

from xrec.data.tables import find_table_files, read_tables
from xrec.errors import DataError
from xrec.storage import open_location

FILES = {
    "users.csv": b"user_id,profile\nann,likes tea\nbob,\nann,again\n",
    "items.jsonl": b'{"item_id": 7, "title": "Seven", "profile": "p"}\n',
    "interactions.csv": b"user_id,item_id,split\nann,7,test\nbob,7,\nann,7,nope\n",
    "explanations.csv": b"user_id,item_id,explanation\nann,7,because\n",
}


def test_read_tables_mixed_formats_give_string_ids() -> None:
    source = read_tables(FILES)
    assert source.users.to_pylist() == [
        {"user_id": "ann", "profile": "likes tea"},
        {"user_id": "bob", "profile": ""},
    ]
    assert source.items.to_pylist() == [{"item_id": "7", "title": "Seven", "profile": "p"}]
    assert source.explanations["split"].to_pylist() == [None]


def test_read_tables_splits_are_kept_and_wrong_ones_are_findings() -> None:
    source = read_tables(FILES)
    assert source.interactions["split"].to_pylist() == ["test", None]
    assert [(f.file, f.line, f.reason) for f in source.findings] == [
        ("users.csv", 4, "duplicate of an earlier user_id"),
        ("interactions.csv", 4, "split must be one of train, validation, test"),
    ]


def test_read_tables_row_counts_come_in_reading_order() -> None:
    assert list(read_tables(FILES).num_rows.items()) == [
        ("users.csv", 3),
        ("items.jsonl", 1),
        ("interactions.csv", 3),
        ("explanations.csv", 1),
    ]


@pytest.mark.parametrize("missing", list(FILES))
def test_find_table_files_missing_table_raises_naming_it(tmp_path: Path, missing: str) -> None:
    for name, data in FILES.items():
        if name != missing:
            (tmp_path / name).write_bytes(data)
    table = missing.partition(".")[0]
    with pytest.raises(
        DataError,
        match=rf"the {table} are missing: expected one of {table}\.parquet, {table}\.csv, {table}\.jsonl, saw",
    ):
        find_table_files(open_location(str(tmp_path)))


def test_find_table_files_two_formats_of_one_table_raises(tmp_path: Path) -> None:
    for name, data in {**FILES, "users.jsonl": b""}.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=r"saw users\.csv and users\.jsonl; remove all but one"):
        find_table_files(open_location(str(tmp_path)))
