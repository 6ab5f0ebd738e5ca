"""Tables of a team's own: users, items, interactions and explanations.

Each is a Parquet, CSV or JSON Lines file.

Our columns: users user_id, profile; items item_id, title, profile; interactions user_id, item_id;
explanations user_id, item_id, explanation. The last two may have a split (train, validation or
test), and explanations a rating. Ids are strings or integers. Files and columns of other names are
named in the config (`files`, `columns`).

Only the interactions must be there. Without users or items, their ids are taken from the pairs,
profiles and titles are empty. Without explanations, no adapter can be trained.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xrec.config.data import TABLE_COLUMNS, TablesSource
from xrec.config.table_files import TABLE_ENDINGS
from xrec.data.columns import (
    Parser,
    parse_description,
    parse_id,
    parse_rating,
    parse_split,
    parse_text,
)
from xrec.data.rows import FileRows, read_rows, reject_duplicates
from xrec.data.source import SourceData
from xrec.errors import DataError
from xrec.storage import Location

TABLES = tuple(TABLE_COLUMNS)
_COLUMNS: dict[str, dict[str, Parser]] = {
    "users": {"user_id": parse_id, "profile": parse_description},
    "items": {"item_id": parse_id, "title": parse_description, "profile": parse_description},
    "interactions": {"user_id": parse_id, "item_id": parse_id},
    "explanations": {"user_id": parse_id, "item_id": parse_id, "explanation": parse_text},
}
_OPTIONAL: dict[str, dict[str, Parser]] = {
    "interactions": {"split": parse_split},
    "explanations": {"split": parse_split, "rating": parse_rating},
}
_ADVICE = "name the file's own columns in source.columns ({user_id: <column>}), or rename them"


def find_table_files(folder: Location, source: TablesSource) -> dict[str, Location]:
    """The files of the tables in `folder`, by file name.

    Raises DataError if the interactions or a file of `source.files` is missing, or a table is there
    in two formats.
    """
    found = {table: _find(folder, table, source) for table in TABLES}
    if found["interactions"] is None:
        raise DataError(f"{folder}: {_no_interactions(folder.files())}")
    return {name: folder / name for name in found.values() if name is not None}


def read_tables(files: Mapping[str, bytes], source: TablesSource) -> SourceData:
    """Read the tables from the content of their files, by file name.

    Raises DataError if the interactions are not among them, or for a missing column.
    """
    if _file_of("interactions", files, source) is None:
        raise DataError(_no_interactions(sorted(files)))
    rows = {
        table: _read_table(table, file, files[file], source)
        for table in TABLES
        if (file := _file_of(table, files, source)) is not None
    }
    for table, key in (("users", "user_id"), ("items", "item_id")):
        if table in rows:
            rows[table] = reject_duplicates(rows[table], [key])
    interactions = rows["interactions"].table
    explanations = (
        rows["explanations"].table if "explanations" in rows else _no_rows("explanations")
    )
    pairs = [interactions, explanations]
    users = rows["users"].table if "users" in rows else _users_of(pairs)
    items = rows["items"].table if "items" in rows else _items_of(pairs)
    return SourceData(
        users=users.select(["user_id", "profile"]),
        items=items.select(["item_id", "title", "profile"]),
        interactions=interactions,
        explanations=explanations,
        findings=tuple(finding for part in rows.values() for finding in part.findings),
        num_rows=_rows_of_files(rows.values()),
        missing_tables=tuple(table for table in TABLES if table not in rows),
    )


def _read_table(table: str, file: str, data: bytes, source: TablesSource) -> FileRows:
    return read_rows(
        file,
        data,
        _COLUMNS[table],
        _OPTIONAL.get(table),
        names=source.names_in(table),
        delimiter=source.delimiter,
        advice=_ADVICE,
    )


def _rows_of_files(parts: Iterable[FileRows]) -> dict[str, int]:
    """The number of rows of each file, in the order of reading.

    A file that holds two tables is read twice, so its rows count twice.
    """
    num_rows: dict[str, int] = {}
    for part in parts:
        num_rows[part.file] = num_rows.get(part.file, 0) + part.num_rows
    return num_rows


def _users_of(pairs: list[pa.Table]) -> pa.Table:
    ids = _ids_of(pairs, "user_id")
    return pa.table({"user_id": ids, "profile": [""] * len(ids)})


def _items_of(pairs: list[pa.Table]) -> pa.Table:
    ids = _ids_of(pairs, "item_id")
    return pa.table({"item_id": ids, "title": [""] * len(ids), "profile": [""] * len(ids)})


def _ids_of(pairs: list[pa.Table], column: str) -> pa.Array:
    """Each id once, sorted, so that neither the order of rows nor of files matters."""
    ids = pa.concat_tables([table.select([column]) for table in pairs])[column].unique()
    return ids.take(pc.sort_indices(ids))


def _no_rows(table: str) -> pa.Table:
    columns = [*_COLUMNS[table], *_OPTIONAL.get(table, {}), "file"]
    schema = pa.schema([(name, pa.string()) for name in columns] + [("line", pa.int64())])
    return schema.empty_table()


def _find(folder: Location, table: str, source: TablesSource) -> str | None:
    """The file of a table: that of the config, else one with the table's name, else None."""
    if table in source.files:
        name = source.files[table]
        if not (folder / name).is_file():
            raise DataError(
                f"{folder}: {name} is missing (source.files.{table}); "
                f"saw {', '.join(folder.files()[:10]) or 'no files'}"
            )
        return name
    names = [name for name in _candidates(table) if (folder / name).is_file()]
    if len(names) > 1:
        raise DataError(
            f"{folder}: expected one of {', '.join(_candidates(table))}, "
            f"saw {' and '.join(names)}; remove all but one, or name it in source.files "
            f"({{{table}: <file>}})"
        )
    return names[0] if names else None


def _no_interactions(names: Sequence[str]) -> str:
    return (
        f"the interactions are missing: expected one of {', '.join(_candidates('interactions'))}, "
        f"saw {', '.join(names[:10]) or 'no files'}; check source.uri, or name the file in "
        "source.files ({interactions: <file>})"
    )


def _file_of(table: str, names: Collection[str], source: TablesSource) -> str | None:
    """The table's file among those that were found."""
    if table in source.files:
        return source.files[table]
    return next((name for name in _candidates(table) if name in names), None)


def _candidates(table: str) -> list[str]:
    return [f"{table}{ending}" for ending in TABLE_ENDINGS]
