"""Tables of a team's own: users, items, interactions, explanations, dislikes (docs/data.md).

Each is one or many Parquet, CSV or JSON Lines files. Only the interactions must be there. Without
users or items, their ids are taken from the pairs, profiles and titles are empty.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import TypeVar

from xrec.config import TABLE_COLUMNS, TABLE_ENDINGS, TablesSource
from xrec.data.rows import Parser, parse_description, parse_id, parse_split, parse_text, stream_rows
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import Location

TableT = TypeVar("TableT", bound=str)
NamesIn = Callable[[str], Collection[str]]
"""The names of the files in a folder, which is given by its name below the source's."""
TABLES = tuple(TABLE_COLUMNS)
_COLUMNS: dict[str, dict[str, Parser]] = {
    "users": {"user_id": parse_id, "profile": parse_description},
    "items": {"item_id": parse_id, "title": parse_description, "profile": parse_description},
    "interactions": {"user_id": parse_id, "item_id": parse_id},
    "explanations": {"user_id": parse_id, "item_id": parse_id, "explanation": parse_text},
    "dislikes": {"user_id": parse_id, "item_id": parse_id},
}
_OPTIONAL: dict[str, dict[str, Parser]] = {
    "interactions": {"split": parse_split},
    "explanations": {"split": parse_split},
}
_ADVICE = "name the file's own columns in source.columns ({user_id: <column>}), or rename them"


def find_table_files(folder: Location, source: TablesSource) -> dict[str, dict[str, Location]]:
    """The files of each table in `folder`, by their names below it.

    Raises DataError if the interactions or a file of `source.files` is missing, or it is not clear
    which files are those of a table.
    """
    return find_files(folder, TABLES, source.files, "interactions")


def find_files(
    folder: Location, tables: Sequence[TableT], named: Mapping[TableT, str], needed: TableT
) -> dict[TableT, dict[str, Location]]:
    """The files of each of the tables in `folder`: those that the pattern of `named` matches.

    Without a pattern, a table is the file of its name, the files of its name and a number, or those
    in the folder of its name, with one and the same ending.

    Raises DataError if those of `needed` or of a pattern are missing, or a table is there in two
    forms.
    """
    names_in = cache(lambda parent: (folder / parent if parent else folder).sizes())
    try:
        found = {table: _files_of(names_in, table, named.get(table)) for table in tables}
        if not found[needed]:
            names = ", ".join(f"{needed}{ending}" for ending in TABLE_ENDINGS)
            raise DataError(
                f"the {needed} are missing: expected one of {names}, or such files numbered or in "
                f"the folder {needed}; check source.uri, or name the file in source.files "
                f"({{{needed}: <file>}})",
                code="missing_file",
                key=f"source.files.{needed}",
            )
    except DataError as error:
        seen = ", ".join(folder.files()[:10]) or "no files"
        raise DataError(
            f"{folder}: {error}; saw {seen}", code=error.code, key=error.key, saw=error.saw
        ) from None
    return {
        table: {name: folder / name for name in names} for table, names in found.items() if names
    }


def _files_of(names_in: NamesIn, table: str, pattern: str | None) -> list[str]:
    if pattern is not None:
        names = _matching(names_in, pattern)
        if not names:
            raise DataError(
                f"{pattern} is missing (source.files.{table})",
                code="missing_file",
                key=f"source.files.{table}",
                saw=pattern,
            )
        return names
    patterns = [
        f"{table}{form}{ending}" for ending in TABLE_ENDINGS for form in ("", "[-_.][0-9]*", "/*")
    ]
    forms = [names for each in patterns if (names := _matching(names_in, each))]
    if len(forms) > 1:
        raise DataError(
            f"more than one file of the {table}, {' and '.join(names[0] for names in forms)}; "
            f"remove all but one, or name it in source.files ({{{table}: <file>}})",
            code="several_files",
            key=f"source.files.{table}",
            saw=tuple(names[0] for names in forms),
        )
    return forms[0] if forms else []


def _matching(names_in: NamesIn, pattern: str) -> list[str]:
    """The files that match `pattern`, which may have wildcards in its last part."""
    parent, slash, name = pattern.rpartition("/")
    found = (
        each
        for each in names_in(parent)
        if each == name or (each[0] not in "._" and fnmatchcase(each, name))
    )
    return sorted(f"{parent}{slash}{each}" for each in found)


def read_tables(
    staging: Staging, files: Mapping[str, Mapping[str, Location]], source: TablesSource
) -> None:
    """Read the tables from their files, in the order of `TABLES`.

    Raises DataError for a missing column.
    """
    for table in TABLES:
        if table in files:
            stream = partial(
                stream_rows,
                columns=_COLUMNS[table],
                optional=_OPTIONAL.get(table),
                names=source.names_in(table),
                **source.format,
                advice=_ADVICE,
            )
            staging.read(table, files[table], stream)
