"""Reads the dataset of the public XRec release (github.com/HKUDS/XRec, folder data/).

`total_trn.csv`, `total_val.csv`, and `total_tst.csv` each contain the interactions of one split, in
the columns user and item. `data.jsonl` (or `data.json`) has one explained pair per line, with the
keys uid, iid, title, user_summary, item_summary, and explanation. The optional
`item_profiles.jsonl`, with iid and item_summary, also has profiles of items without explanations.
"""

from collections.abc import Mapping
from functools import partial

from xrec.data.rows import Parser, parse_id, parse_text, stream_rows
from xrec.data.source import TableFiles
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import Location

_SPLIT_FILES = {"total_trn.csv": "train", "total_val.csv": "validation", "total_tst.csv": "test"}
_EXPLANATION_FILES = ("data.jsonl", "data.json")
_PROFILE_FILE = "item_profiles.jsonl"
_IDS: dict[str, Parser] = {"user_id": parse_id, "item_id": parse_id}
_TEXTS = dict.fromkeys(("title", "user_summary", "item_summary", "explanation"), parse_text)
_PROFILES: dict[str, Parser] = {"item_id": parse_id, "item_summary": parse_text}


def find_release_files(folder: Location) -> dict[str, dict[str, Location]]:
    """Return the files of a release in `folder`; each file is a table of its own name.

    Raises DataError if a file is missing, with the files that were found.
    """
    missing = [name for name in _SPLIT_FILES if not (folder / name).is_file()]
    explanations = [name for name in _EXPLANATION_FILES if (folder / name).is_file()]
    if not explanations:
        missing.append(" or ".join(_EXPLANATION_FILES))
    if missing:
        raise DataError(
            f"{folder}: missing file(s) {', '.join(missing)}; expected the public XRec release "
            f"({', '.join(_SPLIT_FILES)}, data.jsonl), "
            f"saw {', '.join(folder.files()[:10]) or 'no files'}; check source.uri",
            code="missing_file",
            key=missing[0],
            saw=tuple(folder.files()[:10]),
        )
    profiles = [_PROFILE_FILE] if (folder / _PROFILE_FILE).is_file() else []
    return {name: {name: folder / name} for name in (*_SPLIT_FILES, explanations[0], *profiles)}


def read_release(staging: Staging, files: TableFiles) -> None:
    """Read a release from its files.

    Users and items are collected from all files. Without a line in data.jsonl, their profiles and
    titles are empty; an item's profile in item_profiles.jsonl overrides the one in data.jsonl.
    Raises DataError if a column is missing.
    """
    for name, each in files.items():
        names: dict[str, tuple[str, ...]] = {"user_id": ("uid",), "item_id": ("iid",)}
        table, columns = "described", _PROFILES if name == _PROFILE_FILE else {**_IDS, **_TEXTS}
        if split := _SPLIT_FILES.get(name):
            table = "interactions"
            names = {"user_id": ("user",), "item_id": ("item",), "split": ()}
            columns = {**_IDS, "split": partial(_given, split)}
        staging.read(table, each, partial(stream_rows, columns=columns, names=names))
    staging.fill(
        "explanations",
        """SELECT user_id, item_id, explanation, split_of(user_id, item_id) AS split, file, line
        FROM raw.described WHERE user_id IS NOT NULL""",
    )
    _describe(staging, "users", "user_id", {"profile": "user_summary"})
    _describe(staging, "items", "item_id", {"title": "title", "profile": "item_summary"})


def _given(split: str, _: object) -> str:
    """Return `split`; the parser for a file whose rows all have the same split."""
    return split


def _describe(staging: Staging, table: str, key: str, texts: Mapping[str, str]) -> None:
    """Add each ID once, with the first non-empty value of each of its texts.

    texts: maps our columns to those of the raw table `described`.
    """
    first = ", ".join(
        f"coalesce(first({theirs} ORDER BY file DESC, line) FILTER ({theirs} <> ''), '') AS {ours}"
        for ours, theirs in texts.items()
    )
    staging.fill(
        table,
        f"""SELECT {key}, {first}
        FROM (FROM raw.described UNION ALL BY NAME SELECT {key} FROM raw.interactions)
        WHERE {key} IS NOT NULL GROUP BY {key}""",
    )
