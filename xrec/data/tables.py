"""Plain tables of a team's own: users, items, interactions, explanations, each as .parquet, .csv or .jsonl.

Columns: users user_id, profile; items item_id, title, profile; interactions user_id, item_id; explanations user_id,
item_id, explanation. Ids are strings or integers. The last two may have a split (train, validation or test).
"""

from collections.abc import Mapping

from xrec.data.columns import Parser, parse_id, parse_split, parse_text
from xrec.data.rows import FileRows, read_rows, reject_duplicates
from xrec.data.source import SourceData
from xrec.errors import DataError
from xrec.storage import Location

_FORMATS = ("parquet", "csv", "jsonl")
_COLUMNS: dict[str, dict[str, Parser]] = {
    "users": {"user_id": parse_id, "profile": parse_text},
    "items": {"item_id": parse_id, "title": parse_text, "profile": parse_text},
    "interactions": {"user_id": parse_id, "item_id": parse_id},
    "explanations": {"user_id": parse_id, "item_id": parse_id, "explanation": parse_text},
}
_OPTIONAL: dict[str, dict[str, Parser]] = {
    "interactions": {"split": parse_split},
    "explanations": {"split": parse_split},
}


def find_table_files(folder: Location) -> dict[str, Location]:
    """The file of each table in `folder`; raises DataError if one is missing, or there in two formats."""
    return {name: folder / name for name in (_table_file(folder, table) for table in _COLUMNS)}


def read_tables(files: Mapping[str, bytes]) -> SourceData:
    """Read the tables from the content of their files (name with format to content); raises DataError for a missing column."""
    tables = {name.partition(".")[0]: _read_table(name, data) for name, data in files.items()}
    users = reject_duplicates(tables["users"], ["user_id"])
    items = reject_duplicates(tables["items"], ["item_id"])
    in_order = (users, items, tables["interactions"], tables["explanations"])
    return SourceData(
        users=users.table.select(["user_id", "profile"]),
        items=items.table.select(["item_id", "title", "profile"]),
        interactions=tables["interactions"].table,
        explanations=tables["explanations"].table,
        findings=tuple(finding for rows in in_order for finding in rows.findings),
        num_rows={rows.file: rows.num_rows for rows in in_order},
    )


def _read_table(file: str, data: bytes) -> FileRows:
    table = file.partition(".")[0]
    return read_rows(file, data, _COLUMNS[table], _OPTIONAL.get(table))


def _table_file(folder: Location, table: str) -> str:
    candidates = [f"{table}.{suffix}" for suffix in _FORMATS]
    names = [name for name in candidates if (folder / name).is_file()]
    if len(names) == 1:
        return names[0]
    wanted = f"one of {', '.join(candidates)}"
    if names:
        raise DataError(
            f"{folder}: expected {wanted}, saw {' and '.join(names)}; remove all but one"
        )
    hint = (
        "; if there are none yet, give the file with its header only"
        if table == "explanations"
        else ""
    )
    seen = ", ".join(folder.files()[:10]) or "no files"
    raise DataError(
        f"{folder}: the {table} are missing: expected {wanted}, saw {seen}; check source.uri{hint}"
    )
