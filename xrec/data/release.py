"""The dataset of the public XRec release (github.com/HKUDS/XRec, folder data/).

`total_trn.csv`, `total_val.csv` and `total_tst.csv` hold the interactions of a split each, in the
columns user and item. `data.jsonl` (or `data.json`) holds an explained pair a line, with the keys
uid, iid, title, user_summary, item_summary and explanation. `item_profiles.jsonl`, with iid and
item_summary, holds the profiles of items without an explained pair too; it may be missing. Ids are
integers from 0.
"""

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa

from xrec.data.rows import FileRows, Parser, parse_dense_id, parse_text, stream_rows
from xrec.data.source import SourceData
from xrec.errors import DataError
from xrec.storage import Location

_SPLIT_FILES = {"total_trn.csv": "train", "total_val.csv": "validation", "total_tst.csv": "test"}
_EXPLANATION_FILES = ("data.jsonl", "data.json")
_PROFILE_FILE = "item_profiles.jsonl"
_PAIR_COLUMNS: dict[str, Parser] = {"user": parse_dense_id, "item": parse_dense_id}
_TEXTS = ("title", "user_summary", "item_summary", "explanation")
_EXPLANATION_COLUMNS: dict[str, Parser] = {
    **dict.fromkeys(("uid", "iid"), parse_dense_id),
    **dict.fromkeys(_TEXTS, parse_text),
}
_PROFILE_COLUMNS: dict[str, Parser] = {"iid": parse_dense_id, "item_summary": parse_text}
# An id far above the others is a mistake, and must not make a table of a billion users.
_MAX_IDS_PER_KNOWN_ID = 100


def find_release_files(folder: Location) -> dict[str, Location]:
    """The files of a release in `folder`.

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
            f"saw {', '.join(folder.files()[:10]) or 'no files'}; check source.uri"
        )
    profiles = [_PROFILE_FILE] if (folder / _PROFILE_FILE).is_file() else []
    return {name: folder / name for name in (*_SPLIT_FILES, explanations[0], *profiles)}


def read_release(files: Mapping[str, bytes]) -> SourceData:
    """Read a release from the content of its files.

    The users are all ids from 0 to the largest one in any file, and so are the items. A user or
    item without a line in data.jsonl has an empty profile and title; an item's profile in
    item_profiles.jsonl counts before that of data.jsonl. Raises DataError for a missing column.
    """
    explanation_file = next(name for name in _EXPLANATION_FILES if name in files)
    pairs = [_read(files, name, _PAIR_COLUMNS) for name in _SPLIT_FILES]
    explained = _read(files, explanation_file, _EXPLANATION_COLUMNS)
    read = [*pairs, explained]
    described = explained.table.select(list(_PROFILE_COLUMNS))
    if _PROFILE_FILE in files:
        read.append(_read(files, _PROFILE_FILE, _PROFILE_COLUMNS))
        described = pa.concat_tables([read[-1].table.select(list(_PROFILE_COLUMNS)), described])
    interactions = pa.concat_tables([_interactions(rows) for rows in pairs])
    users = _dense_ids("user", [interactions["user_id"], explained.table["uid"]])
    items = _dense_ids("item", [interactions["item_id"], described["iid"]])
    user_profiles = _texts(explained.table, "uid", "user_summary", len(users))
    titles = _texts(explained.table, "iid", "title", len(items))
    item_profiles = _texts(described, "iid", "item_summary", len(items))
    return SourceData(
        users=pa.table([users, user_profiles], ["user_id", "profile"]),
        items=pa.table([items, titles, item_profiles], ["item_id", "title", "profile"]),
        interactions=interactions,
        explanations=_explanations(explained),
        findings=tuple(finding for rows in read for finding in rows.findings),
        num_rows={rows.file: rows.num_rows for rows in read},
    )


def _read(files: Mapping[str, bytes], name: str, columns: Mapping[str, Parser]) -> FileRows:
    return next(stream_rows(name, io.BytesIO(files[name]), columns, rows_at_once=None))


def _interactions(rows: FileRows) -> pa.Table:
    split = pa.array([_SPLIT_FILES[rows.file]] * rows.table.num_rows, pa.string())
    return rows.table.rename_columns({"user": "user_id", "item": "item_id"}).append_column(
        "split", split
    )


def _explanations(rows: FileRows) -> pa.Table:
    table = rows.table.rename_columns({"uid": "user_id", "iid": "item_id"})
    table = table.select(["user_id", "item_id", "explanation", "file", "line"])
    return table.append_column("split", pa.nulls(table.num_rows, pa.string()))


def _dense_ids(what: str, columns: Sequence[pa.ChunkedArray]) -> list[str]:
    """The ids 0 to the largest one seen, as strings."""
    seen = {int(value) for column in columns for value in column.unique().to_pylist()}
    count = max(seen, default=-1) + 1
    if count > _MAX_IDS_PER_KNOWN_ID * len(seen):
        raise DataError(
            f"{what} ids must be dense: the largest is {count - 1}, but only {len(seen)} different "
            "ones are there; mend that id, or use a source of the kind tables, which takes any ids"
        )
    return [str(index) for index in range(count)]


def _texts(rows: pa.Table, id_column: str, text_column: str, count: int) -> list[str]:
    """The first text of each id that is not empty, else the empty text."""
    texts = [""] * count
    for row_id, text in rows.select([id_column, text_column]).to_pandas().itertuples(index=False):
        texts[int(row_id)] = texts[int(row_id)] or text
    return texts
