"""Reads your own tables: users, items, interactions, explanations, dislikes (docs/data.md).

Each is one or more Parquet, CSV, or JSON Lines files. Only the interactions are required. If users
or items are missing, their IDs come from the pairs, and their profiles and titles are empty.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import TypeVar

from xrec.config import TABLE_COLUMNS, TABLE_ENDINGS, TablesSource
from xrec.data.rows import Parser, parse_description, parse_id, parse_split, parse_text, stream_rows
from xrec.data.source import TableFiles
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import Location

TableT = TypeVar("TableT", bound=str)
TABLES = tuple(TABLE_COLUMNS)
_FORMS = [f"{form}{ending}" for ending in TABLE_ENDINGS for form in ("", "[-_.][0-9]*", "/*")]
_IDS: dict[str, Parser] = {"user_id": parse_id, "item_id": parse_id}
_COLUMNS: dict[str, dict[str, Parser]] = {
    "users": {"user_id": parse_id, "profile": parse_description},
    "items": {"item_id": parse_id, "title": parse_description, "profile": parse_description},
    "interactions": _IDS,
    "explanations": {**_IDS, "explanation": parse_text},
    "dislikes": _IDS,
}
_ADVICE = "name the file's own columns in source.columns ({user_id: <column>}), or rename them"


def find_table_files(folder: Location, source: TablesSource) -> dict[str, dict[str, Location]]:
    """Return the files of each table in `folder`; raise DataError like `find_files`."""
    return find_files(folder, TABLES, source.files, "interactions")


def find_files(
    folder: Location, tables: Sequence[TableT], named: Mapping[TableT, str], needed: TableT
) -> dict[TableT, dict[str, Location]]:
    """Return the files of each table by name: those that match its pattern in `named`.

    Without a pattern, the files are the one named like the table, those named like the table plus a
    number, or those in a folder named like the table, all with the same extension.

    Raises DataError if no file matches a pattern, `needed` has no files, or a table exists in more
    than one form.
    """
    names_in = cache(lambda parent: (folder / parent if parent else folder).sizes())
    found: dict[TableT, dict[str, Location]] = {}
    for table in tables:
        patterns = [named[table]] if table in named else [f"{table}{form}" for form in _FORMS]
        forms = [names for each in patterns if (names := _matching(names_in, each))]
        key = f"source.files.{table}"
        if len(forms) > 1:
            seen = tuple(names[0] for names in forms)
            raise DataError(
                f"{folder}: more than one file for {table}: {' and '.join(seen)}; remove all "
                f"but one, or set {key} to it",
                code="several_files",
                key=key,
                saw=seen,
            )
        if not forms and (table in named or table == needed):
            usual = ", ".join(f"{table}{ending}" for ending in TABLE_ENDINGS)
            either = f"one of {usual}, or such files with a number or in the folder {table}"
            raise DataError(
                f"{folder}: the {table} are missing; expected {named.get(table, either)}, saw "
                f"{', '.join(folder.files()[:10]) or 'no files'}; check source.uri, or name the "
                f"file in {key}",
                code="missing_file",
                key=key,
                saw=named.get(table),
            )
        if forms:
            found[table] = {name: folder / name for name in forms[0]}
    return found


def _matching(names_in: Callable[[str], Collection[str]], pattern: str) -> list[str]:
    """Return the files that match `pattern`, which may have wildcards in its last part.

    names_in: returns the names of the files in a folder, given the folder's name.
    """
    parent, slash, name = pattern.rpartition("/")
    found = (
        each
        for each in names_in(parent)
        if each == name or (each[0] not in "._" and fnmatchcase(each, name))
    )
    return sorted(f"{parent}{slash}{each}" for each in found)


def read_tables(staging: Staging, files: TableFiles, source: TablesSource) -> None:
    """Read the tables from their files, in the order of `TABLES`.

    Raises DataError if a column is missing.
    """
    for table in filter(files.__contains__, TABLES):
        stream = partial(
            stream_rows,
            columns=_COLUMNS[table],
            optional={"split": parse_split} if "split" in TABLE_COLUMNS[table] else None,
            names=source.names_in(table),
            **source.format,
            advice=_ADVICE,
        )
        staging.read(table, files[table], stream)
