"""Plain tables: any ids, files and columns of any names, optional tables and splits."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig, TablesSource
from xrec.data.source import SourceData
from xrec.data.tables import find_table_files, read_tables
from xrec.errors import ConfigError, DataError
from xrec.storage import open_location

FILES = {
    "users.csv": b"user_id,profile\nann,likes tea\nbob,\nann,again\n",
    "items.jsonl": b'{"item_id": 7, "title": "Seven", "profile": "p"}\n',
    "interactions.csv": b"user_id,item_id,split\nann,7,test\nbob,7,\nann,7,nope\n",
    "explanations.csv": b"user_id,item_id,explanation\nann,7,because\n",
}
SHOP = {
    "customers.csv": b"customer,city,age\nann,Leeds,34\nbob,,\n",
    "products.jsonl": b'{"sku": 7, "name": "Seven", "text": "A tool."}\n'
    b'{"sku": 8, "name": "", "text": ""}\n',
    "reviews.csv": b"customer;product;why\nann;7;sharp\nbob;8;light\n",
}
SHOP_SETTINGS: dict[str, Any] = {
    "files": {
        "users": "customers.csv",
        "items": "products.jsonl",
        "interactions": "reviews.csv",
        "explanations": "reviews.csv",
    },
    "columns": {
        "user_id": "customer",
        "item_id": "product",
        "items.item_id": "sku",
        "users.profile": ["city", "age"],
        "items.title": "name",
        "items.profile": "text",
        "explanation": "why",
    },
}


def _source(**settings: Any) -> TablesSource:
    return TablesSource(kind="tables", uri="raw", **settings)


def _read(contents: dict[str, bytes], /, **settings: Any) -> SourceData:
    return read_tables(contents, _source(**settings))


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_read_tables_mixed_formats_give_string_ids() -> None:
    source = _read(FILES)
    assert source.users.to_pylist() == [
        {"user_id": "ann", "profile": "likes tea"},
        {"user_id": "bob", "profile": ""},
    ]
    assert source.items.to_pylist() == [{"item_id": "7", "title": "Seven", "profile": "p"}]
    assert source.explanations["split"].to_pylist() == [None]
    assert source.missing_tables == ()


def test_read_tables_splits_are_kept_and_wrong_ones_are_findings() -> None:
    source = _read(FILES)
    assert source.interactions["split"].to_pylist() == ["test", None]
    assert [(f.file, f.line, f.reason) for f in source.findings] == [
        ("users.csv", 4, "duplicate of an earlier user_id"),
        ("interactions.csv", 4, "split must be one of train, validation, test"),
    ]


def test_read_tables_ratings_are_numbers_and_others_are_none() -> None:
    rated = b"user_id,item_id,explanation,stars\nann,7,good,4.5\nann,8,bad,two\nbob,7,ok,\n"
    files = {**FILES, "explanations.csv": rated}
    source = _read(files, columns={"rating": "stars"})
    assert source.explanations["rating"].to_pylist() == ["4.5", None, None]
    assert not [each for each in source.findings if each.file == "explanations.csv"]


def test_read_tables_lists_among_joined_columns_are_written_out() -> None:
    users = b'{"user_id": "ann", "likes": ["tea", "cake"], "age": 34, "pets": [], "at": {"x": 1}}\n'
    files = {name: text for name, text in FILES.items() if name != "users.csv"}
    columns = {"users.profile": ["likes", "age", "pets", "at"]}
    source = _read({**files, "users.jsonl": users}, columns=columns)
    assert source.users["profile"].to_pylist() == ["likes: tea, cake; age: 34; at: {'x': 1}"]


def test_read_tables_row_counts_come_in_reading_order() -> None:
    assert list(_read(FILES).num_rows.items()) == [
        ("users.csv", 3),
        ("items.jsonl", 1),
        ("interactions.csv", 3),
        ("explanations.csv", 1),
    ]


def test_read_tables_files_and_columns_of_other_names() -> None:
    files = {**SHOP, "reviews.csv": SHOP["reviews.csv"].replace(b";", b",")}
    source = _read(files, **SHOP_SETTINGS)
    assert source.users.to_pylist() == [
        {"user_id": "ann", "profile": "city: Leeds; age: 34"},
        {"user_id": "bob", "profile": ""},
    ]
    assert source.items.to_pylist() == [
        {"item_id": "7", "title": "Seven", "profile": "A tool."},
        {"item_id": "8", "title": "", "profile": ""},
    ]
    for pairs in (source.interactions, source.explanations):
        assert pairs.select(["user_id", "item_id"]).to_pylist() == [
            {"user_id": "ann", "item_id": "7"},
            {"user_id": "bob", "item_id": "8"},
        ]
    assert source.explanations["explanation"].to_pylist() == ["sharp", "light"]
    assert source.num_rows["reviews.csv"] == 4  # read for two tables


def test_read_tables_delimiter_of_the_config() -> None:
    source = _read(
        {"reviews.csv": SHOP["reviews.csv"]},
        delimiter=";",
        files={"interactions": "reviews.csv"},
        columns={"user_id": "customer", "item_id": "product"},
    )
    assert source.interactions["user_id"].to_pylist() == ["ann", "bob"]


def test_read_tables_gzipped_files_equal_plain_ones() -> None:
    packed = {f"{name}.gz": gzip.compress(data) for name, data in FILES.items()}
    assert _read(packed).users.equals(_read(FILES).users)
    assert _read(packed).items.equals(_read(FILES).items)


def test_read_tables_cut_gzip_file_raises_data_error() -> None:
    cut = gzip.compress(FILES["interactions.csv"])[:-9]
    with pytest.raises(DataError, match=r"interactions\.csv\.gz: not a readable gzip file"):
        _read({"interactions.csv.gz": cut})


def test_read_tables_without_users_and_items_takes_their_ids_from_the_pairs() -> None:
    files = {
        "interactions.csv": b"user_id,item_id\nzoe,9\nann,7\n",
        "explanations.csv": b"user_id,item_id,explanation\nbob,8,fine\n",
    }
    source = _read(files)
    assert source.users.to_pylist() == [
        {"user_id": name, "profile": ""} for name in ("ann", "bob", "zoe")
    ]
    assert source.items.to_pylist() == [
        {"item_id": name, "title": "", "profile": ""} for name in ("7", "8", "9")
    ]
    assert source.missing_tables == ("users", "items")
    assert source.findings == ()


def test_read_tables_without_explanations_has_none() -> None:
    source = _read({"interactions.csv": b"user_id,item_id\nann,7\n"})
    assert source.explanations.num_rows == 0
    assert source.missing_tables == ("users", "items", "explanations")


def test_read_tables_null_column_leaves_the_profile_empty() -> None:
    files = {"interactions.csv": FILES["interactions.csv"], "users.csv": b"user_id\nann\nbob\n"}
    source = _read(files, columns={"users.profile": None})
    assert source.users["profile"].to_pylist() == ["", ""]


def test_read_tables_missing_column_names_those_expected_those_seen_and_the_setting() -> None:
    files = {"interactions.csv": b"customer,item\nann,7\n"}
    with pytest.raises(
        DataError,
        match=r"interactions\.csv: missing column\(s\) client, item_id; "
        r"expected user_id \(client\), item_id, "
        r"saw 'customer', 'item'; name the file's own columns in source\.columns",
    ):
        _read(files, columns={"user_id": "client"})


def test_read_tables_mapped_split_must_be_there() -> None:
    with pytest.raises(DataError, match=r"missing column\(s\) part"):
        _read(
            {"interactions.csv": b"user_id,item_id\nann,7\n"},
            columns={"interactions.split": "part"},
        )


def test_read_tables_finding_names_the_file_s_own_column() -> None:
    source = _read({"interactions.csv": b"customer,item_id\n,7\n"}, columns={"user_id": "customer"})
    assert [f.reason for f in source.findings] == ["user_id (customer) must not be empty"]


def test_read_tables_without_interactions_raises_data_error() -> None:
    with pytest.raises(DataError, match=r"the interactions are missing: .* saw orders\.csv;"):
        _read({"orders.csv": b"user_id,item_id\nann,7\n"})


def test_find_table_files_missing_interactions_raises(tmp_path: Path) -> None:
    _write(tmp_path, {name: data for name, data in FILES.items() if name != "interactions.csv"})
    with pytest.raises(
        DataError,
        match=r"the interactions are missing: expected one of interactions\.parquet, .*, saw",
    ):
        find_table_files(open_location(str(tmp_path)), _source())


@pytest.mark.parametrize("missing", ["users.csv", "items.jsonl", "explanations.csv"])
def test_find_table_files_other_tables_may_be_missing(tmp_path: Path, missing: str) -> None:
    files = {name: data for name, data in FILES.items() if name != missing}
    _write(tmp_path, files)
    assert set(find_table_files(open_location(str(tmp_path)), _source())) == set(files)


def test_find_table_files_named_file_that_is_missing_raises(tmp_path: Path) -> None:
    _write(tmp_path, FILES)
    with pytest.raises(DataError, match=r"people\.csv is missing \(source\.files\.users\); saw"):
        find_table_files(open_location(str(tmp_path)), _source(files={"users": "people.csv"}))


def test_find_table_files_two_formats_of_one_table_raises(tmp_path: Path) -> None:
    _write(tmp_path, {**FILES, "users.jsonl": b""})
    with pytest.raises(DataError, match=r"saw users\.csv and users\.jsonl; remove all but one"):
        find_table_files(open_location(str(tmp_path)), _source())
    named = find_table_files(open_location(str(tmp_path)), _source(files={"users": "users.csv"}))
    assert "users.csv" in named


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"user": "customer"}}, r"'user' is none of our columns; expected user_id,"),
        ({"columns": {"users.title": "x"}}, r"'users\.title' .*expected user_id, profile"),
        ({"columns": {"user_id": None}}, r"user_id must be the name of one column, saw None"),
        ({"columns": {"user_id": ["a", "b"]}}, r"user_id must be the name of one column"),
        ({"files": {"users": "users.xlsx"}}, r"'users\.xlsx' must end in one of"),
        ({"files": {"user": "users.csv"}}, r"source\.(tables\.)?files"),
    ],
)
def test_tables_source_wrong_names_are_config_errors(
    settings: dict[str, Any], message: str
) -> None:
    source = {"kind": "tables", "uri": "raw", **settings}
    with pytest.raises(ConfigError, match=message):
        parse_config(PrepareConfig, json.loads(json.dumps({"workspace": "w", "source": source})))
