"""Plain tables: any ids, files and columns of any names, optional tables and splits."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig, SplitShares, TablesSource
from xrec.data.staging import Staging
from xrec.data.tables import TABLES, find_table_files, read_tables
from xrec.errors import ConfigError, DataError
from xrec.storage import content_hash, open_location

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


@dataclass(frozen=True)
class Read:
    """The raw tables, in the order of the files and lines, and what was left out."""

    tables: dict[str, list[dict[str, Any]]]
    findings: list[tuple[str, int, str]]
    num_rows: dict[str, int]
    hashes: dict[str, str]

    def __getitem__(self, column: str) -> list[str]:
        table, name = column.split(".")
        return [row[name] for row in self.tables[table]]


def _read(contents: dict[str, bytes], /, **settings: Any) -> Read:
    with TemporaryDirectory() as folder, Staging(SplitShares(validation=0, test=0)) as staging:
        for name, data in contents.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        source = _source(**settings)
        read_tables(staging, find_table_files(open_location(folder), source), source)
        queries = {name: f"FROM raw.{name} ORDER BY file, line" for name in TABLES}
        tables = {
            name: staging.table(query).drop_columns(["file", "line"]).to_pylist()
            for name, query in queries.items()
            if staging.has(name)
        }
        found = staging.findings().read_all().to_pylist()
        findings = [(row["file"], row["line"], row["reason"]) for row in found]
        return Read(tables, findings, dict(staging.num_rows), staging.hashes)


def test_read_tables_mixed_formats_and_splits():
    source = _read(FILES)
    assert source["users.user_id"] == ["ann", "bob", "ann"]
    assert source.tables["items"] == [{"item_id": "7", "title": "Seven", "profile": "p"}]
    assert source["interactions.split"] == ["test", "train"]
    assert source["explanations.split"] == ["train"]
    assert source.findings == [
        ("interactions.csv", 4, "split must be one of train, validation, test"),
    ]
    counts = dict(zip(FILES, (3, 1, 3, 1), strict=True))
    assert list(source.num_rows.items()) == list(counts.items())  # in the order of reading
    assert source.hashes == {name: content_hash(data) for name, data in FILES.items()}
    packed = _read({f"{name}.gz": gzip.compress(data) for name, data in FILES.items()})
    assert packed.tables == source.tables


@pytest.mark.parametrize("form", ["interactions-{}.csv", "interactions/{}.csv", "all/x{}.csv.gz"])
def test_read_tables_of_many_files_has_the_rows_of_all(form):
    parts = {form.format(n): f"user_id,item_id\nu{n},7\n,8\n".encode() for n in range(12)}
    packed = {
        name: gzip.compress(data) if name.endswith("gz") else data for name, data in parts.items()
    }
    files = {"interactions": "all/x*.csv.gz"} if form.startswith("all") else {}
    source = _read({"users.csv": FILES["users.csv"], **packed}, files=files)
    assert sorted(source["interactions.user_id"]) == sorted(f"u{n}" for n in range(12))
    assert source.num_rows == {"users.csv": 3, "interactions (12 files)": 24}
    assert set(source.hashes) == {*packed, "users.csv"}
    assert {(file, line) for file, line, _ in source.findings} == {(name, 3) for name in packed}


def test_read_tables_lists_among_joined_columns_are_written_out():
    users = b'{"user_id": "ann", "likes": ["tea", "cake"], "age": 34, "pets": [], "at": {"x": 1}}\n'
    files = {"interactions.csv": FILES["interactions.csv"], "users.jsonl": users}
    source = _read(files, columns={"users.profile": ["likes", "age", "pets", "at"]})
    assert source["users.profile"] == ["likes: tea, cake; age: 34; at: {'x': 1}"]
    assert _read(files, columns={"users.profile": None})["users.profile"] == [""]


def test_read_tables_in_the_encoding_of_the_config_has_texts_without_html():
    users = "user_id,profile\nann,hört <b>Jazz</b> &amp; mehr\n".encode("cp1252")
    files = {"interactions.csv": FILES["interactions.csv"], "users.csv": users}
    assert _read(files, encoding="latin1")["users.profile"] == ["hört Jazz & mehr"]
    assert ("users.csv", 2, "profile must be valid UTF-8") in _read(files).findings


def test_read_tables_files_columns_and_delimiter_of_the_config():
    source = _read(SHOP, **SHOP_SETTINGS, delimiter=";")
    assert source["users.user_id"] == ["ann", "bob"]
    assert source["users.profile"] == ["city: Leeds; age: 34", ""]
    assert source["items.item_id"] == ["7", "8"]
    assert (source["items.title"], source["items.profile"]) == (["Seven", ""], ["A tool.", ""])
    for table in ("interactions", "explanations"):
        assert source[f"{table}.user_id"] == ["ann", "bob"]
        assert source[f"{table}.item_id"] == ["7", "8"]
    assert source["explanations.explanation"] == ["sharp", "light"]
    assert source.num_rows["reviews.csv"] == 4  # read for two tables


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
    assert source.findings == [("interactions.csv", 2, "user_id (customer) must not be empty")]


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
        (
            {"users-1.csv": b""},
            {},
            r"more than one file of the users, users\.csv and users-1\.csv; remove all but one",
        ),
        ({}, {"users": "users/*.csv"}, r"users/\*\.csv is missing \(source\.files\.users\)"),
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
        found = find_table_files(folder, source).values()
        assert {name for each in found for name in each} == set(there) - {"users.jsonl"}
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
