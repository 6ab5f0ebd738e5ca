"""Plain tables of any names and columns, and the public release: dense ids, profiles with pairs."""

import gzip
import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest

from tests.errors import raises
from xrec.config import SplitShares, TablesSource
from xrec.data.release import find_release_files, is_release, read_release
from xrec.data.sources import TABLES, find_table_files, read_tables
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import Location, content_hash, open_location

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


def _read(contents: Mapping[str, bytes], read: Callable[[Staging, Location], None]) -> Read:
    with TemporaryDirectory() as folder, Staging(SplitShares(validation=0, test=0)) as staging:
        for name, data in contents.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        read(staging, open_location(folder))
        tables = {
            name: staging.table(f"FROM raw.{name} ORDER BY file, line")
            .drop_columns(["file", "line"])
            .to_pylist()
            for name in TABLES
            if staging.has(name)
        }
        found = staging.findings().read_all().to_pylist()
        findings = [(row["file"], row["line"], row["reason"]) for row in found]
        return Read(tables, findings, dict(staging.num_rows), staging.hashes)


def _read_tables(contents: Mapping[str, bytes], /, **settings: Any) -> Read:
    source = _source(**settings)
    return _read(
        contents,
        lambda staging, folder: read_tables(staging, find_table_files(folder, source), source),
    )


def test_read_tables_mixed_formats_and_splits():
    source = _read_tables(FILES)
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
    packed = _read_tables({f"{name}.gz": gzip.compress(data) for name, data in FILES.items()})
    assert packed.tables == source.tables


@pytest.mark.parametrize("form", ["interactions-{}.csv", "interactions/{}.csv", "all/x{}.csv.gz"])
def test_read_tables_of_many_files_has_the_rows_of_all(form):
    parts = {form.format(n): f"user_id,item_id\nu{n},7\n,8\n".encode() for n in range(12)}
    if form.endswith("gz"):
        parts = {name: gzip.compress(data) for name, data in parts.items()}
    files = {"interactions": "all/x*.csv.gz"} if form.startswith("all") else {}
    source = _read_tables({"users.csv": FILES["users.csv"], **parts}, files=files)
    assert sorted(source["interactions.user_id"]) == sorted(f"u{n}" for n in range(12))
    assert source.num_rows == {"users.csv": 3, "interactions (12 files)": 24}
    assert set(source.hashes) == {*parts, "users.csv"}
    assert {(file, line) for file, line, _ in source.findings} == {(name, 3) for name in parts}


def test_read_tables_files_columns_delimiter_and_encoding_of_the_config():
    reviews = "customer;product;why\nann;7;schön\nbob;8;light\n".encode("latin1")
    people = b'{"customer": "ann", "likes": ["tea", "cake"], "pets": [], "at": {"x": 1}}\n'
    shop = {"customers.jsonl": people, "products.csv": b"sku;name\n7;Seven\n", "r.csv": reviews}
    files = ("customers.jsonl", "products.csv", "r.csv", "r.csv")
    columns = {"user_id": "customer", "item_id": "product", "explanation": "why"}
    columns |= {"items.item_id": "sku", "items.title": "name", "items.profile": ["sku", "name"]}
    columns |= {"users.profile": ["likes", "pets", "at"]}
    settings = {"files": dict(zip(TABLES[:4], files, strict=True)), "columns": columns}
    source = _read_tables(shop, **settings, delimiter=";", encoding="latin1")
    assert source["users.profile"] == ["likes: tea, cake; at: {'x': 1}"]
    assert source.tables["items"] == [
        {"item_id": "7", "title": "Seven", "profile": "sku: 7; name: Seven"}
    ]
    for table in ("interactions", "explanations"):
        assert source[f"{table}.user_id"] == ["ann", "bob"]
        assert source[f"{table}.item_id"] == ["7", "8"]
    assert source["explanations.explanation"] == ["schön", "light"]
    assert source.num_rows["r.csv"] == 4  # read for two tables


def test_read_tables_names_the_files_own_columns_in_errors_and_findings():
    interactions, columns = {"interactions.csv": b"customer,item_id\n,7\n"}, {"user_id": "customer"}
    source = _read_tables(interactions, columns=columns)
    assert source.findings == [("interactions.csv", 2, "user_id (customer) must not be empty")]
    with raises(DataError, "missing_column", "part", ("customer", "item_id")):
        _read_tables(interactions, columns={**columns, "interactions.split": "part"})


@pytest.mark.parametrize(
    ("change", "files", "refused"),
    [
        ({"interactions.csv": None}, {}, ("missing_file", "interactions", None)),
        ({}, {"users": "users/*.csv"}, ("missing_file", "users", "users/*.csv")),
        ({}, {"users": "people.csv"}, ("missing_file", "users", "people.csv")),
        ({"users.jsonl": b""}, {}, ("several_files", "users", ("users.csv", "users.jsonl"))),
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


def _read_release(files: Mapping[str, bytes]) -> Read:
    return _read(files, lambda staging, folder: read_release(staging, find_release_files(folder)))


def test_read_release_has_users_and_items_of_all_files_with_their_first_texts():
    release = _read_release(_release())
    users = sorted((row["user_id"], row["profile"]) for row in release.tables["users"])
    assert users == [("0", "U"), ("1", "U"), ("3", ""), ("4", "four")]
    items = sorted(tuple(row.values()) for row in release.tables["items"])
    assert items == [("0", "", ""), ("1", "T", "I"), ("2", "two", "I"), ("3", "", "")]
    assert [tuple(row.values()) for row in release.tables["interactions"]] == [
        ("0", "1", "train"),
        ("3", "2", "train"),
        ("1", "0", "validation"),
        ("0", "3", "test"),
    ]
    assert len(release.tables["explanations"]) == 3


def test_read_release_prefers_profiles_of_all_items_to_those_of_pairs():
    texts = {0: "zero", 1: "one", 2: "", 5: "five"}
    lines = (json.dumps({"iid": item, "item_summary": text}) for item, text in texts.items())
    release = _read_release(_release(item_profiles__jsonl="\n".join(lines).encode()))
    profiles = {row["item_id"]: row["profile"] for row in release.tables["items"]}
    assert profiles == {"0": "zero", "1": "one", "2": "I", "3": "", "5": "five"}
    assert release.num_rows["item_profiles.jsonl"] == 4
    assert len(release.tables["explanations"]) == 3


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
    """Return explained pairs as in a clone of the release: texts are objects, rows are shuffled."""
    rows = pd.DataFrame(map(json.loads, lines), range(len(lines), 0, -1))
    texts = {name: object for name in rows if rows[name].dtype != "int64"}
    return pickle.dumps(rows.astype(texts).set_axis(rows.columns.astype(object), axis=1))


@pytest.mark.parametrize("has_training", [True, False])
def test_read_release_uses_the_splits_of_pickles_if_training_is_among_them(has_training):
    lines = [explained(user, user % 5) for user in range(40)]
    files = _release(data__jsonl=b"{broken")
    if has_training:
        splits = {"trn.pkl": lines[:20], "val.pkl": lines[20:25], "tst.pkl": lines[25:]}
        files |= {name: pickled(*of_split) for name, of_split in splits.items()}
    else:
        files["tst.pkl"] = pickled(*lines)
        del files["data.jsonl"]
    own = {"train": 20, "validation": 5, "test": 15}
    by_shares = {"train": 40}
    counts = Counter(_read_release(files)["explanations.split"])
    assert counts == (own if has_training else by_shares)


class Command:
    def __init__(self, *call: Any):
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("call", [(os.system, "touch {}"), (pd.read_pickle, "{}"), (list,)])
def test_read_release_refuses_a_pickle_of_anything_but_a_table_and_runs_nothing(tmp_path, call):
    mark = tmp_path / "mark"
    data = pickle.dumps(Command(call[0], *(each.format(mark) for each in call[1:])))
    with raises(DataError, "broken_file", "trn.pkl"):
        _read_release(_release(trn__pkl=data))
    assert not mark.exists()
