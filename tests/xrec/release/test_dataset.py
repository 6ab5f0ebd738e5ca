"""The public release's layout: dense ids, profiles beside the explanations."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from xrec.errors import DataError
from xrec.release.dataset import find_release_files, read_release
from xrec.storage import open_location


def _explained(uid: int, iid: int, **texts: str) -> str:
    keys = {"title": "T", "user_summary": "U", "item_summary": "I", "explanation": "E"}
    return json.dumps({"uid": uid, "iid": iid, **keys, **texts})


def _files(**changes: bytes) -> dict[str, bytes]:
    explained = [
        _explained(0, 2, title=""),
        _explained(4, 1, user_summary="four"),
        _explained(1, 2, title="two"),
    ]
    files = {
        "total_trn.csv": b"user,item\n0,1\n3,2\n",
        "total_val.csv": b"user,item\n1,0\n",
        "total_tst.csv": b"user,item\n0,3\n",
        "data.jsonl": "\n".join(explained).encode(),
    }
    return {**files, **{name.replace("__", "."): data for name, data in changes.items()}}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_read_release_ids_are_zero_to_the_largest_of_any_file() -> None:
    source = read_release(_files())
    assert source.users["user_id"].to_pylist() == ["0", "1", "2", "3", "4"]
    assert source.items["item_id"].to_pylist() == ["0", "1", "2", "3"]


def test_read_release_profiles_are_the_first_non_empty_else_empty() -> None:
    source = read_release(_files())
    assert source.users["profile"].to_pylist() == ["U", "U", "", "", "four"]
    assert source.items["title"].to_pylist() == ["", "T", "two", ""]
    assert source.items["profile"].to_pylist() == ["", "I", "I", ""]


def test_read_release_profiles_of_all_items_count_before_those_of_the_pairs() -> None:
    lines = [{"iid": 0, "item_summary": "zero"}, {"iid": 1, "item_summary": "one"}]
    lines += [{"iid": 2, "item_summary": ""}, {"iid": 5, "item_summary": "five"}]
    profiles = "\n".join(map(json.dumps, lines)).encode()
    source = read_release(_files(item_profiles__jsonl=profiles))
    assert source.items["item_id"].to_pylist() == ["0", "1", "2", "3", "4", "5"]
    assert source.items["profile"].to_pylist() == ["zero", "one", "I", "", "", "five"]
    assert source.num_rows["item_profiles.jsonl"] == 4


def test_find_release_files_profiles_of_all_items_are_found_if_there(tmp_path: Path) -> None:
    _write(tmp_path, _files())
    folder = open_location(str(tmp_path))
    assert "item_profiles.jsonl" not in find_release_files(folder)
    (tmp_path / "item_profiles.jsonl").write_text('{"iid": 0, "item_summary": "zero"}\n')
    assert find_release_files(folder)["item_profiles.jsonl"].is_file()


def test_read_release_each_file_is_a_split() -> None:
    rows = read_release(_files()).interactions.to_pylist()
    assert [(row["user_id"], row["item_id"], row["split"]) for row in rows] == [
        ("0", "1", "train"),
        ("3", "2", "train"),
        ("1", "0", "validation"),
        ("0", "3", "test"),
    ]


def test_read_release_broken_rows_become_findings_with_their_line() -> None:
    source = read_release(
        _files(
            total_trn__csv=b"user,item\n0,1\nx,2\n3\n",
            data__jsonl=b"nope\n" + _explained(1, 1).encode(),
        )
    )
    assert [(finding.file, finding.line) for finding in source.findings] == [
        ("total_trn.csv", 3),
        ("total_trn.csv", 4),
        ("data.jsonl", 1),
    ]
    assert source.num_rows == {
        "total_trn.csv": 3,
        "total_val.csv": 1,
        "total_tst.csv": 1,
        "data.jsonl": 2,
    }


def test_read_release_wrong_column_raises_data_error() -> None:
    with pytest.raises(
        DataError,
        match=r"total_val\.csv: missing column\(s\) item; expected user, item, "
        r"saw 'user', 'business'",
    ):
        read_release(_files(total_val__csv=b"user,business\n0,1\n"))


def test_read_release_one_huge_id_raises_instead_of_making_a_billion_users() -> None:
    with pytest.raises(DataError, match="user ids must be dense: the largest is 2000000000"):
        read_release(_files(total_tst__csv=b"user,item\n2000000000,1\n"))


def test_find_release_files_accepts_data_json(tmp_path: Path) -> None:
    files = _files()
    _write(
        tmp_path,
        {
            **{name: data for name, data in files.items() if name != "data.jsonl"},
            "data.json": files["data.jsonl"],
        },
    )
    assert list(find_release_files(open_location(str(tmp_path)))) == [
        "total_trn.csv",
        "total_val.csv",
        "total_tst.csv",
        "data.json",
    ]


@pytest.mark.parametrize("missing", ["total_trn.csv", "total_tst.csv", "data.jsonl"])
def test_find_release_files_missing_file_raises_naming_it_and_what_is_there(
    tmp_path: Path, missing: str
) -> None:
    _write(tmp_path, {name: data for name, data in _files().items() if name != missing})
    with pytest.raises(DataError, match=rf"missing file\(s\) {missing}.*saw .*total_val\.csv"):
        find_release_files(open_location(str(tmp_path)))


def test_find_release_files_missing_folder_raises_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="saw no files"):
        find_release_files(open_location(str(tmp_path / "nowhere")))
