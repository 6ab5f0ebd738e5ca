"""Plain tables of any names and columns, and the public release: dense ids, profiles with pairs."""

import gzip
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest

from tests.errors import raises
from xrec.config import PrepareConfig, SplitShares, TablesSource, parse_config
from xrec.data.release import find_release_files, is_release, read_release
from xrec.data.sources import TABLES, find_table_files, read_tables
from xrec.data.staging import Staging
from xrec.errors import ConfigError, DataError
from xrec.storage import content_hash, open_location

FILES = {
    "users.csv": b"user_id,profile\nann,likes tea\nbob,\nann,again\n",
    "items.jsonl": b'{"item_id": 7, "title": "Seven", "profile": "p"}\n',
    "interactions.csv": b"user_id,item_id,split\nann,7,test\nbob,7,\nann,7,nope\n",
    "explanations.csv": b"user_id,item_id,explanation\nann,7,because\n",
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
    if form.endswith("gz"):
        parts = {name: gzip.compress(data) for name, data in parts.items()}
    files = {"interactions": "all/x*.csv.gz"} if form.startswith("all") else {}
    source = _read({"users.csv": FILES["users.csv"], **parts}, files=files)
    assert sorted(source["interactions.user_id"]) == sorted(f"u{n}" for n in range(12))
    assert source.num_rows == {"users.csv": 3, "interactions (12 files)": 24}
    assert set(source.hashes) == {*parts, "users.csv"}
    assert {(file, line) for file, line, _ in source.findings} == {(name, 3) for name in parts}


def test_read_tables_in_the_encoding_of_the_config_has_texts_without_html():
    users = "user_id,profile\nann,hört <b>Jazz</b> &amp; mehr\n".encode("cp1252")
    files = {"interactions.csv": FILES["interactions.csv"], "users.csv": users}
    assert _read(files, encoding="latin1")["users.profile"] == ["hört Jazz & mehr"]
    assert ("users.csv", 2, "profile must be valid UTF-8") in _read(files).findings


def test_read_tables_files_columns_and_delimiter_of_the_config():
    reviews = b"customer;product;why\nann;7;sharp\nbob;8;light\n"
    people = b'{"customer": "ann", "likes": ["tea", "cake"], "pets": [], "at": {"x": 1}}\n'
    shop = {"customers.jsonl": people, "products.csv": b"sku;name\n7;Seven\n", "r.csv": reviews}
    files = ("customers.jsonl", "products.csv", "r.csv", "r.csv")
    columns = {"user_id": "customer", "item_id": "product", "explanation": "why"}
    columns |= {"items.item_id": "sku", "items.title": "name", "items.profile": ["sku", "name"]}
    columns |= {"users.profile": ["likes", "pets", "at"]}
    settings = {"files": dict(zip(TABLES[:4], files, strict=True)), "columns": columns}
    source = _read(shop, **settings, delimiter=";")
    assert source["users.profile"] == ["likes: tea, cake; at: {'x': 1}"]
    assert source.tables["items"] == [
        {"item_id": "7", "title": "Seven", "profile": "sku: 7; name: Seven"}
    ]
    for table in ("interactions", "explanations"):
        assert source[f"{table}.user_id"] == ["ann", "bob"]
        assert source[f"{table}.item_id"] == ["7", "8"]
    assert source["explanations.explanation"] == ["sharp", "light"]
    assert source.num_rows["r.csv"] == 4  # read for two tables


def test_read_tables_columns_of_other_names_are_named_in_errors_and_findings():
    interactions, columns = {"interactions.csv": b"customer,item_id\n,7\n"}, {"user_id": "customer"}
    source = _read(interactions, columns=columns)
    assert source.findings == [("interactions.csv", 2, "user_id (customer) must not be empty")]
    with raises(DataError, "missing_column", "part", ("customer", "item_id")):
        _read(interactions, columns={**columns, "interactions.split": "part"})


@pytest.mark.parametrize(
    ("change", "files", "refused"),
    [
        ({"interactions.csv": None}, {}, ("missing_file", "interactions", None)),
        ({}, {"users": "users/*.csv"}, ("missing_file", "users", "users/*.csv")),
        ({}, {"users": "people.csv"}, ("missing_file", "users", "people.csv")),
        ({"users.jsonl": b""}, {}, ("several_files", "users", ("users.csv", "users.jsonl"))),
        ({"users-1.csv": b""}, {}, ("several_files", "users", ("users.csv", "users-1.csv"))),
        ({"items.jsonl": None, "explanations.csv": None}, {}, None),
        ({"users.jsonl": b""}, {"users": "users.csv"}, None),
    ],
)
def test_find_table_files_needs_interactions_and_one_file_a_table(tmp_path, change, files, refused):
    there = {name: data for name, data in {**FILES, **change}.items() if data is not None}
    for name, data in there.items():
        (tmp_path / name).write_bytes(data)
    folder, source = open_location(str(tmp_path)), _source(files=files)
    if refused is None:
        found = find_table_files(folder, source).values()
        assert {name for each in found for name in each} == set(there) - {"users.jsonl"}
        return
    code, table, saw = refused
    with raises(DataError, code, f"source.files.{table}", saw) as raised:
        find_table_files(folder, source)
    assert code == "several_files" or "explanations.csv" in str(raised.value)  # what is there


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"columns": {"user": "customer"}}, "source"),
        ({"columns": {"users.title": "x"}}, "source"),
        ({"columns": {"user_id": None}}, "source"),
        ({"columns": {"user_id": ["a", "b"]}}, "source"),
        ({"files": {"users": "users.xlsx"}}, "source"),
        ({"encoding": "martian"}, "source.encoding"),
    ],
)
def test_tables_source_wrong_names_are_config_errors(settings, key):
    source = {"kind": "tables", "uri": "raw", **settings}
    with raises(ConfigError, "value_error", key):
        parse_config(PrepareConfig, {"workspace": "w", "source": source})


def explained(uid: int, iid: int, **texts: str) -> str:
    """A line of data.jsonl."""
    keys = {"title": "T", "user_summary": "U", "item_summary": "I", "explanation": "E"}
    return json.dumps({"uid": uid, "iid": iid, **keys, **texts})


def _release(**changes: bytes) -> dict[str, bytes]:
    lines = [explained(0, 2, title=""), explained(4, 1, user_summary="four")]
    lines.append(explained(1, 2, title="two"))
    files = {
        "total_trn.csv": b"user,item\n0,1\n3,2\n",
        "total_val.csv": b"user,item\n1,0\n",
        "total_tst.csv": b"user,item\n0,3\n",
        "data.jsonl": "\n".join(lines).encode(),
    }
    return {**files, **{name.replace("__", "."): data for name, data in changes.items()}}


@contextmanager
def _staged(files: Mapping[str, bytes]) -> Iterator[Staging]:
    """The staging tables of a release, assembled."""
    with TemporaryDirectory() as folder, Staging(SplitShares()) as staging:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        read_release(staging, find_release_files(open_location(folder)))
        yield staging


def _column(staging: Staging, table: str, key: str, column: str) -> list[str]:
    return [row[0] for row in staging.sql(f"SELECT {column} FROM raw.{table} ORDER BY {key}")]


def test_read_release_users_and_items_are_those_of_all_files_with_their_first_texts():
    with _staged(_release()) as staging:
        assert _column(staging, "users", "user_id", "user_id") == ["0", "1", "3", "4"]
        assert _column(staging, "items", "item_id", "item_id") == ["0", "1", "2", "3"]
        assert _column(staging, "users", "user_id", "profile") == ["U", "U", "", "four"]
        assert _column(staging, "items", "item_id", "title") == ["", "T", "two", ""]
        assert _column(staging, "items", "item_id", "profile") == ["", "I", "I", ""]
        query = "SELECT user_id, item_id, split FROM raw.interactions ORDER BY file, line"
        assert staging.sql(query) == [
            ("0", "1", "train"),
            ("3", "2", "train"),
            ("1", "0", "validation"),
            ("0", "3", "test"),
        ]
        assert staging.count("raw.explanations") == 3


def test_read_release_profiles_of_all_items_count_before_those_of_the_pairs():
    texts = {0: "zero", 1: "one", 2: "", 5: "five"}
    lines = (json.dumps({"iid": item, "item_summary": text}) for item, text in texts.items())
    with _staged(_release(item_profiles__jsonl="\n".join(lines).encode())) as staging:
        profiles = _column(staging, "items", "item_id", "profile")
        assert profiles == ["zero", "one", "I", "", "five"]
        assert staging.num_rows["item_profiles.jsonl"] == 4
        assert staging.count("raw.explanations") == 3


def test_find_release_files_takes_either_ending_and_profiles_if_there(tmp_path):
    files = {**_release(), "item_profiles.jsonl": b""}
    files["data.json"] = files.pop("data.jsonl")
    folder = open_location(str(tmp_path))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = find_release_files(folder).values()
    assert {name for each in found for name in each} == set(files)
    assert is_release(folder)
    for name in ("data.json", "trn.pkl"):  # as in a clone without Git LFS
        (tmp_path / name).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:46a3b7"
        )
    with raises(DataError, "missing_file", "trn.pkl"):
        find_release_files(folder)


def pickled(*lines: str) -> bytes:
    """Explained pairs as a clone of the release has them: of texts as objects, shuffled."""
    rows = pd.DataFrame(map(json.loads, lines), range(len(lines), 0, -1))
    texts = {name: object for name in rows if rows[name].dtype != "int64"}
    return pickle.dumps(rows.astype(texts).set_axis(rows.columns.astype(object), axis=1))


@pytest.mark.parametrize("has_training", [True, False])
def test_read_release_pickles_have_its_own_splits_if_training_is_among_them(has_training):
    lines = [explained(user, user % 5) for user in range(40)]
    pickles = {"trn.pkl": lines[:20], "val.pkl": lines[20:25], "tst.pkl": lines[25:]}
    files = _release(data__jsonl=b"{broken") if has_training else _release()
    if not has_training:
        del files["data.jsonl"], pickles["trn.pkl"], pickles["val.pkl"]
        pickles["tst.pkl"] = lines
    with _staged({**files, **{name: pickled(*of) for name, of in pickles.items()}}) as staging:
        found = dict(staging.sql("SELECT split, count(*) FROM raw.explanations GROUP BY split"))
    own = {"train": 20, "validation": 5, "test": 15}
    assert (found == own) == has_training
    assert sum(found.values()) == 40
    assert len(found) == 3


class Command:
    def __init__(self, *call: Any):
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("call", [(os.system, "touch {}"), (pd.read_pickle, "{}"), (list,)])
def test_read_release_pickle_with_anything_but_a_table_is_an_error_and_runs_nothing(tmp_path, call):
    mark = tmp_path / "mark"
    data = pickle.dumps(Command(call[0], *(each.format(mark) for each in call[1:])))
    with raises(DataError, "broken_file", "trn.pkl"), _staged(_release(trn__pkl=data)):
        pass
    assert not mark.exists()
