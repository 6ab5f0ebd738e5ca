"""Tables of a team's own: users, items, interactions and explanations (docs/data.md).

Each is a Parquet, CSV or JSON Lines file. Only the interactions must be there. Without users or
items, their ids are taken from the pairs, profiles and titles are empty.
"""

import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from xrec.config.data import TABLE_COLUMNS, TABLE_ENDINGS, TablesSource
from xrec.data.rows import (
    Parser,
    parse_description,
    parse_id,
    parse_split,
    parse_text,
    reject_duplicates,
    stream_rows,
)
from xrec.data.source import SourceData
from xrec.errors import DataError
from xrec.storage import Location

TableT = TypeVar("TableT", bound=str)
TABLES = tuple(TABLE_COLUMNS)
_KEYS: dict[str, str] = {"users": "user_id", "items": "item_id"}
_COLUMNS: dict[str, dict[str, Parser]] = {
    "users": {"user_id": parse_id, "profile": parse_description},
    "items": {"item_id": parse_id, "title": parse_description, "profile": parse_description},
    "interactions": {"user_id": parse_id, "item_id": parse_id},
    "explanations": {"user_id": parse_id, "item_id": parse_id, "explanation": parse_text},
}
_OPTIONAL: dict[str, dict[str, Parser]] = {
    "interactions": {"split": parse_split},
    "explanations": {"split": parse_split},
}
_ADVICE = "name the file's own columns in source.columns ({user_id: <column>}), or rename them"


def find_table_files(folder: Location, source: TablesSource) -> dict[str, Location]:
    """The files of the tables in `folder`, by file name.

    Raises DataError if the interactions or a file of `source.files` is missing, or a table is there
    in two formats.
    """
    found = find_files(folder, TABLES, source.files, "interactions")
    return {location.name: location for location in found.values()}


def find_files(
    folder: Location, tables: Sequence[TableT], named: Mapping[TableT, str], needed: TableT
) -> dict[TableT, Location]:
    """The file of each of the tables in `folder`: that of `named`, else one with the table's name.

    Raises DataError if that of `needed` or a named one is missing, or a table is there in two
    formats.
    """
    names = [*named.values(), *(name for table in tables for name in _candidates(table))]
    there = [name for name in dict.fromkeys(names) if (folder / name).is_file()]
    try:
        files = _files_of(there, tables, named, needed)
    except DataError as error:
        seen = ", ".join(folder.files()[:10]) or "no files"
        raise DataError(f"{folder}: {error}; saw {seen}") from None
    return {table: folder / name for table, name in files.items()}


def _files_of(
    names: Collection[str],
    tables: Sequence[TableT],
    named: Mapping[TableT, str],
    needed: TableT,
) -> dict[TableT, str]:
    found: dict[TableT, str] = {}
    for table in tables:
        candidates = [name for name in _candidates(table) if name in names]
        if table in named:
            found[table] = named[table]
            if found[table] not in names:
                raise DataError(f"{found[table]} is missing (source.files.{table})")
        elif len(candidates) > 1:
            raise DataError(
                f"more than one file of the {table}, {' and '.join(candidates)}; remove all but "
                f"one, or name it in source.files ({{{table}: <file>}})"
            )
        elif candidates:
            found[table] = candidates[0]
    if needed not in found:
        raise DataError(
            f"the {needed} are missing: expected one of {', '.join(_candidates(needed))}; check "
            f"source.uri, or name the file in source.files ({{{needed}: <file>}})"
        )
    return found


def _candidates(table: str) -> list[str]:
    return [f"{table}{ending}" for ending in TABLE_ENDINGS]


def read_tables(files: Mapping[str, bytes], source: TablesSource) -> SourceData:
    """Read the tables from the content of their files, by file name.

    Raises DataError for a missing column, or if the interactions are not among the files.
    """
    rows = {}
    for table, file in _files_of(files, TABLES, source.files, "interactions").items():
        rows[table] = next(
            stream_rows(
                file,
                io.BytesIO(files[file]),
                _COLUMNS[table],
                _OPTIONAL.get(table),
                names=source.names_in(table),
                delimiter=source.delimiter,
                encoding=source.encoding,
                advice=_ADVICE,
                rows_at_once=None,
            )
        )
        if table in _KEYS:
            rows[table] = reject_duplicates(rows[table], [_KEYS[table]])
    interactions = rows["interactions"].table
    explanations = rows["explanations"].table if "explanations" in rows else _no_explanations()
    pairs = [interactions, explanations]
    described = {
        table: rows[table].table if table in rows else _of_pairs(pairs, table, key)
        for table, key in _KEYS.items()
    }
    num_rows: Counter[str] = Counter()  # a file that holds two tables is read, and counts, twice
    for part in rows.values():
        num_rows[part.file] += part.num_rows
    return SourceData(
        users=described["users"].select(list(_COLUMNS["users"])),
        items=described["items"].select(list(_COLUMNS["items"])),
        interactions=interactions,
        explanations=explanations,
        findings=tuple(finding for part in rows.values() for finding in part.findings),
        num_rows=num_rows,
        missing_tables=tuple(table for table in TABLES if table not in rows),
    )


def _of_pairs(pairs: list[pa.Table], table: str, key: str) -> pa.Table:
    """Users or items without texts: each id of the pairs once.

    They are sorted, so that neither the order of rows nor of files matters.
    """
    ids = pa.concat_tables([each.select([key]) for each in pairs])[key].unique()
    texts = {name: [""] * len(ids) for name in _COLUMNS[table] if name != key}
    return pa.table({key: ids.take(pc.sort_indices(ids)), **texts})


def _no_explanations() -> pa.Table:
    names = [*_COLUMNS["explanations"], *_OPTIONAL["explanations"], "file"]
    schema = pa.schema([(name, pa.string()) for name in names] + [("line", pa.int64())])
    return schema.empty_table()
