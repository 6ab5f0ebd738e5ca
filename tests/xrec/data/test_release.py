"""The public release's layout: dense ids, profiles beside the explanations."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from xrec.config.data import SplitShares
from xrec.data.release import find_release_files, read_release
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import open_location


def explained(uid: int, iid: int, **texts: str) -> str:
    """A line of data.jsonl."""
    keys = {"title": "T", "user_summary": "U", "item_summary": "I", "explanation": "E"}
    return json.dumps({"uid": uid, "iid": iid, **keys, **texts})


def _files(**changes: bytes) -> dict[str, bytes]:
    lines = [
        explained(0, 2, title=""),
        explained(4, 1, user_summary="four"),
        explained(1, 2, title="two"),
    ]
    files = {
        "total_trn.csv": b"user,item\n0,1\n3,2\n",
        "total_val.csv": b"user,item\n1,0\n",
        "total_tst.csv": b"user,item\n0,3\n",
        "data.jsonl": "\n".join(lines).encode(),
    }
    return {**files, **{name.replace("__", "."): data for name, data in changes.items()}}


@contextmanager
def _read(files: Mapping[str, bytes]) -> Iterator[Staging]:
    """The staging tables of a release, assembled."""
    with TemporaryDirectory() as folder, Staging(SplitShares()) as staging:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        read_release(staging, find_release_files(open_location(folder)))
        yield staging


def _column(staging: Staging, table: str, key: str, column: str) -> list[str]:
    return [row[0] for row in staging.sql(f"SELECT {column} FROM raw.{table} ORDER BY {key}")]


def test_read_release_ids_are_zero_to_the_largest_and_texts_the_first_that_is_not_empty():
    with _read(_files()) as staging:
        assert _column(staging, "users", "user_id", "user_id") == ["0", "1", "2", "3", "4"]
        assert _column(staging, "items", "item_id", "item_id") == ["0", "1", "2", "3"]
        assert _column(staging, "users", "user_id", "profile") == ["U", "U", "", "", "four"]
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
    with _read(_files(item_profiles__jsonl="\n".join(lines).encode())) as staging:
        profiles = _column(staging, "items", "item_id", "profile")
        assert profiles == ["zero", "one", "I", "", "", "five"]
        assert staging.num_rows["item_profiles.jsonl"] == 4
        assert staging.count("raw.explanations") == 3


def test_read_release_broken_rows_become_findings_with_their_line():
    broken = b"nope\n" + explained(1, 1).encode()
    files = _files(total_trn__csv=b"user,item\n0,1\nx,2\n3\n", data__jsonl=broken)
    with _read(files) as staging:
        rows = staging.findings().read_all().to_pylist()
        assert [(row["file"], row["line"]) for row in rows] == [
            ("data.jsonl", 1),
            ("total_trn.csv", 3),
            ("total_trn.csv", 4),
        ]
        assert list(staging.num_rows.values()) == [3, 1, 1, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"user,business\n0,1\n",
            r"total_val\.csv: missing column\(s\) item; expected user, item, "
            r"saw 'user', 'business'",
        ),
        (b"user,item\n2000000000,1\n", "user ids must be dense: the largest is 2000000000"),
    ],
)
def test_read_release_of_other_files_is_refused(data, message):
    with pytest.raises(DataError, match=message), _read(_files(total_val__csv=data)):
        pass


def test_find_release_files_takes_either_ending_and_profiles_if_there(tmp_path):
    files = {**_files(), "item_profiles.jsonl": b""}
    files["data.json"] = files.pop("data.jsonl")
    folder = open_location(str(tmp_path))
    with pytest.raises(DataError, match="saw no files"):
        find_release_files(folder)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = find_release_files(folder).values()
    assert {name for each in found for name in each} == set(files)
    for missing, shown in (("total_trn.csv", "total_trn.csv"), ("data.json", "data.jsonl")):
        (tmp_path / missing).unlink()
        with pytest.raises(DataError, match=rf"missing file\(s\) .*{shown}.*saw .*total_val\.csv"):
            find_release_files(folder)
