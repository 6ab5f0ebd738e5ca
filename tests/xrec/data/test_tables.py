"""Plain tables: any ids, files and columns of any names, optional tables and splits."""

import gzip
import json
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
    "customers.csv": b"customer;city;age\nann;Leeds;34\nbob;;\n",
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


def test_read_tables_mixed_formats_splits_and_repeated_ids():
    source = _read(FILES)
    assert source.users.to_pydict() == {"user_id": ["ann", "bob"], "profile": ["likes tea", ""]}
    assert source.items.to_pylist() == [{"item_id": "7", "title": "Seven", "profile": "p"}]
    assert source.interactions["split"].to_pylist() == ["test", None]
    assert source.explanations["split"].to_pylist() == [None]
    assert source.missing_tables == ()
    assert [(f.file, f.line, f.reason) for f in source.findings] == [
        ("users.csv", 4, "duplicate of an earlier user_id"),
        ("interactions.csv", 4, "split must be one of train, validation, test"),
    ]
    counts = dict(zip(FILES, (3, 1, 3, 1), strict=True))
    assert list(source.num_rows.items()) == list(counts.items())  # in the order of reading
    packed = _read({f"{name}.gz": gzip.compress(data) for name, data in FILES.items()})
    assert packed.users.equals(source.users)
    assert packed.items.equals(source.items)


def test_read_tables_lists_among_joined_columns_are_written_out():
    users = b'{"user_id": "ann", "likes": ["tea", "cake"], "age": 34, "pets": [], "at": {"x": 1}}\n'
    files = {"interactions.csv": FILES["interactions.csv"], "users.jsonl": users}
    source = _read(files, columns={"users.profile": ["likes", "age", "pets", "at"]})
    assert source.users["profile"].to_pylist() == ["likes: tea, cake; age: 34; at: {'x': 1}"]
    assert _read(files, columns={"users.profile": None}).users["profile"].to_pylist() == [""]


def test_read_tables_in_the_encoding_of_the_config_has_texts_without_html():
    users = "user_id,profile\nann,hört <b>Jazz</b> &amp; mehr\n".encode("cp1252")
    files = {"interactions.csv": FILES["interactions.csv"], "users.csv": users}
    assert _read(files, encoding="latin1").users["profile"].to_pylist() == ["hört Jazz & mehr"]
    assert [each.reason for each in _read(files).findings if each.file == "users.csv"] == [
        "profile must be valid UTF-8"
    ]


def test_read_tables_files_columns_and_delimiter_of_the_config():
    source = _read(SHOP, **SHOP_SETTINGS, delimiter=";")
    users, items = {"user_id": ["ann", "bob"]}, {"item_id": ["7", "8"]}
    assert source.users.to_pydict() == {**users, "profile": ["city: Leeds; age: 34", ""]}
    texts = {"title": ["Seven", ""], "profile": ["A tool.", ""]}
    assert source.items.to_pydict() == {**items, **texts}
    for pairs in (source.interactions, source.explanations):
        assert pairs.select(["user_id", "item_id"]).to_pydict() == {**users, **items}
    assert source.explanations["explanation"].to_pylist() == ["sharp", "light"]
    assert source.num_rows["reviews.csv"] == 4  # read for two tables


def test_read_tables_without_users_and_items_takes_their_ids_from_the_pairs():
    interactions = {"interactions.csv": b"user_id,item_id\nzoe,9\nann,7\n"}
    source = _read({**interactions, "explanations.csv": b"user_id,item_id,explanation\nbob,8,x\n"})
    none = [""] * 3
    assert source.users.to_pydict() == {"user_id": ["ann", "bob", "zoe"], "profile": none}
    assert source.items.to_pydict() == {
        "item_id": ["7", "8", "9"],
        "title": none,
        "profile": none,
    }
    assert source.missing_tables == ("users", "items")
    assert source.findings == ()
    source = _read(interactions)
    assert source.explanations.num_rows == 0
    assert source.missing_tables == ("users", "items", "explanations")


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            "customer,item",
            {"user_id": "client"},
            r"interactions\.csv: missing column\(s\) client, item_id; expected user_id \(client\), "
            r"item_id, saw 'customer', 'item'; name the file's own columns in source\.columns",
        ),
        ("user_id,item_id", {"interactions.split": "part"}, r"missing column\(s\) part"),
    ],
)
def test_read_tables_missing_column_is_refused(header, columns, message):
    with pytest.raises(DataError, match=message):
        _read({"interactions.csv": f"{header}\nann,7\n".encode()}, columns=columns)


def test_read_tables_finding_names_the_file_s_own_column():
    source = _read({"interactions.csv": b"customer,item_id\n,7\n"}, columns={"user_id": "customer"})
    assert [f.reason for f in source.findings] == ["user_id (customer) must not be empty"]


@pytest.mark.parametrize(
    ("change", "files", "message"),
    [
        (
            {"interactions.csv": None},
            {},
            r"the interactions are missing: expected one of interactions\.parquet, .*; saw expl",
        ),
        (
            {},
            {"users": "people.csv"},
            r"people\.csv is missing \(source\.files\.users\); saw explanations\.csv",
        ),
        (
            {"users.jsonl": b""},
            {},
            r"more than one file of the users, users\.csv and users\.jsonl; remove all but one",
        ),
        ({"users.csv": None}, {}, None),
        ({"items.jsonl": None, "explanations.csv": None}, {}, None),
        ({"users.jsonl": b""}, {"users": "users.csv"}, None),
    ],
)
def test_find_table_files_needs_interactions_and_one_file_a_table(tmp_path, change, files, message):
    there = {name: data for name, data in {**FILES, **change}.items() if data is not None}
    for name, data in there.items():
        (tmp_path / name).write_bytes(data)
    folder, source = open_location(str(tmp_path)), _source(files=files)
    if message is None:
        assert set(find_table_files(folder, source)) == set(there) - {"users.jsonl"}
        return
    with pytest.raises(DataError, match=message):
        find_table_files(folder, source)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"user": "customer"}}, r"'user' is none of our columns; expected user_id,"),
        ({"columns": {"users.title": "x"}}, r"'users\.title' .*expected user_id, profile"),
        ({"columns": {"user_id": None}}, r"user_id must be the name of one column, saw None"),
        ({"columns": {"user_id": ["a", "b"]}}, r"user_id must be the name of one column"),
        ({"encoding": "martian"}, r"'martian' is no encoding; expected a name such as cp1252"),
        ({"files": {"users": "users.xlsx"}}, r"'users\.xlsx' must end in one of"),
        ({"files": {"user": "users.csv"}}, r"source: files: 'user' is no table; expected users,"),
    ],
)
def test_tables_source_wrong_names_are_config_errors(settings, message):
    source = {"kind": "tables", "uri": "raw", **settings}
    with pytest.raises(ConfigError, match=message):
        parse_config(PrepareConfig, json.loads(json.dumps({"workspace": "w", "source": source})))
