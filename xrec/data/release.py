"""The dataset of the public XRec release (github.com/HKUDS/XRec, folder data/).

`total_trn.csv`, `total_val.csv` and `total_tst.csv` hold the interactions of a split each, in the
columns user and item. `data.jsonl` (or `data.json`) holds an explained pair a line, with the keys
uid, iid, title, user_summary, item_summary and explanation. `item_profiles.jsonl`, with iid and
item_summary, holds the profiles of items without an explained pair too; it may be missing. Ids are
integers from 0.
"""

from collections.abc import Mapping
from functools import partial

import pyarrow as pa

from xrec.data.rows import Parser, parse_dense_id, parse_text, stream_rows
from xrec.data.source import TableFiles
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import Location

_SPLIT_FILES = {"total_trn.csv": "train", "total_val.csv": "validation", "total_tst.csv": "test"}
_EXPLANATION_FILES = ("data.jsonl", "data.json")
_PROFILE_FILE = "item_profiles.jsonl"
_OURS = {"user": "user_id", "item": "item_id", "uid": "user_id", "iid": "item_id"}
_COLUMNS: dict[str, dict[str, Parser]] = {
    **{name: {"user": parse_dense_id, "item": parse_dense_id} for name in _SPLIT_FILES},
    _PROFILE_FILE: {"iid": parse_dense_id, "item_summary": parse_text},
}
_TEXTS = ("title", "user_summary", "item_summary", "explanation")
_EXPLANATION_COLUMNS: dict[str, Parser] = {
    **dict.fromkeys(("uid", "iid"), parse_dense_id),
    **dict.fromkeys(_TEXTS, parse_text),
}
# An id far above the others is a mistake, and must not make a table of a billion users.
_MAX_IDS_PER_KNOWN_ID = 100


def find_release_files(folder: Location) -> dict[str, dict[str, Location]]:
    """The files of a release in `folder`: of each file of interactions, of profiles, explanations.

    Raises DataError, with what is missing and what is there.
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
    return {name: {name: folder / name} for name in (*_SPLIT_FILES, *profiles, explanations[0])}


def read_release(staging: Staging, files: TableFiles) -> None:
    """Read a release from its files.

    The users are all ids from 0 to the largest one in any file, and so are the items. A user or
    item without a line in data.jsonl has an empty profile and title; an item's profile in
    item_profiles.jsonl counts before that of data.jsonl. Raises DataError for a missing column.
    """
    staging.create("described", ("user_id", "item_id", *_TEXTS))
    for name, each in files.items():
        table = "interactions" if name in _SPLIT_FILES else "described"
        stream = partial(stream_rows, columns=_COLUMNS.get(name, _EXPLANATION_COLUMNS))
        staging.read(table, each, stream, partial(_as_ours, _SPLIT_FILES.get(name)))
    staging.sql("""
        INSERT INTO raw.explanations BY NAME
        SELECT user_id, item_id, explanation, split_of(user_id, item_id) AS split, file, line
        FROM raw.described WHERE user_id IS NOT NULL""")
    _describe(staging, "users", "user_id", {"profile": "user_summary"})
    _describe(staging, "items", "item_id", {"title": "title", "profile": "item_summary"})


def _as_ours(split: str | None, rows: pa.Table) -> pa.Table:
    rows = rows.rename_columns([_OURS.get(name, name) for name in rows.column_names])
    return rows if split is None else rows.append_column("split", pa.repeat(split, rows.num_rows))


def _describe(staging: Staging, table: str, key: str, texts: Mapping[str, str]) -> None:
    """Make the ids 0 to the largest one seen, each with the first of its texts that is not empty.

    texts: the columns of the raw table `described`, by ours.
    """
    seen = f"SELECT {key} FROM raw.interactions UNION SELECT {key} FROM raw.described"
    ((largest, num_seen),) = staging.sql(f"SELECT max({key}::INT), count({key}) FROM ({seen})")
    count = 0 if largest is None else largest + 1
    if count > _MAX_IDS_PER_KNOWN_ID * num_seen:
        raise DataError(
            f"{table[:-1]} ids must be dense: the largest is {largest}, but only {num_seen} "
            "different ones are there; mend that id, or use a source of the kind tables, which "
            "takes any ids",
            code="ids_not_dense",
            key=f"{table[:-1]}_id",
            saw=largest,
        )
    first = ", ".join(
        f"first({theirs} ORDER BY file, line) FILTER ({theirs} <> '') AS {ours}"
        for ours, theirs in texts.items()
    )
    filled = ", ".join(f"coalesce({ours}, '') AS {ours}" for ours in texts)
    staging.create(table)
    staging.sql(f"""
        INSERT INTO raw.{table} BY NAME SELECT {key}, {filled}
        FROM (SELECT number::TEXT AS {key} FROM range({count}) AS numbers(number))
        LEFT JOIN (SELECT {key}, {first} FROM raw.described GROUP BY {key}) USING ({key})""")
