"""The sources of a dataset: your own tables, or whatever a job adds.

Your own tables are users, items, interactions, explanations, dislikes, and aspects (docs/data.md),
each in one or more files. Only the interactions are required, or aspects in their place. If users
or items are missing, their IDs come from the pairs, and their profiles and titles are empty.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import TypeVar

from xrec.config import TABLE_COLUMNS, TABLE_ENDINGS, TablesSource
from xrec.data.rows import (
    Parser,
    parse_aspect,
    parse_description,
    parse_id,
    parse_sentiment,
    parse_split,
    parse_text,
    stream_rows,
)
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import Location, Manifest, request_each

TableT = TypeVar("TableT", bound=str)
Files = Mapping[str, Mapping[str, Location]]
"""The files of each table, by file name."""
LISTING = "listing"  # a metric in the manifest: pairs of a file name and a stamp
TABLES = tuple(TABLE_COLUMNS)
_FORMS = [f"{form}{ending}" for ending in TABLE_ENDINGS for form in ("", "[-_.][0-9]*", "/*")]
_IDS: dict[str, Parser] = {"user_id": parse_id, "item_id": parse_id}
_COLUMNS: dict[str, dict[str, Parser]] = {
    "users": {"user_id": parse_id, "profile": parse_description},
    "items": {"item_id": parse_id, "title": parse_description, "profile": parse_description},
    "interactions": _IDS,
    "explanations": {**_IDS, "explanation": parse_text},
    "dislikes": _IDS,
    "aspects": {**_IDS, "aspect": parse_aspect},
}
_SPLIT: dict[str, Parser] = {"split": parse_split}
_OPTIONAL: dict[str, dict[str, Parser]] = {
    "interactions": _SPLIT,
    "explanations": _SPLIT,
    "aspects": {"opinion": parse_text, "sentiment": parse_sentiment, **_SPLIT},
}
_PAIRS_OF_ASPECTS = """
    SELECT user_id, item_id, coalesce(
            arg_min(split, list_position(['test', 'validation', 'train'], split)),
            split_of(user_id, item_id)) AS split,
        arg_min(line, (file, line)) AS line, min(file) AS file
    FROM raw.aspects GROUP BY user_id, item_id"""
_ADVICE = "name the file's own columns in source.columns ({user_id: <column>}), or rename them"


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from: its files, and how they are read.

    name: the name of the source in messages.
    read: adds the rows to the staging tables.
    files: the files of each table.
    inputs: fingerprints of the artifacts that the rows come from, by kind.
    """

    name: str
    read: Callable[[Staging], None]
    files: Files = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def listing(self) -> dict[str, str]:
        """Return a stamp of each file that changes with its content; the files are not read."""
        locations = self._locations()
        stamps = request_each(lambda location: location.stamp(), locations.values())
        return dict(zip(locations, stamps, strict=True))

    def hashes(self, there: Manifest) -> dict[str, str]:
        """Return the inputs of a dataset from this source: its artifacts, and a hash of each file.

        there: the existing dataset. Files that have not changed since then are not read.
        """
        before, locations = dict(there.metrics.get(LISTING, ())), self._locations()
        hashes = {
            name: there.inputs[name] if before.get(name) == stamp else locations[name].digest()
            for name, stamp in self.listing().items()
        }
        return {**self.inputs, **hashes}

    def _locations(self) -> dict[str, Location]:
        return {name: location for each in self.files.values() for name, location in each.items()}


def find_table_files(folder: Location, source: TablesSource) -> dict[str, dict[str, Location]]:
    """Return the files of each table in `folder`; raise DataError like `find_files`."""
    return find_files(folder, TABLES, source.files, ("interactions", "aspects"))


def find_files(
    folder: Location,
    tables: Sequence[TableT],
    named: Mapping[TableT, str],
    needed: Sequence[TableT],
) -> dict[TableT, dict[str, Location]]:
    """Return the files of each table by name: those that match its pattern in `named`.

    Without a pattern, the files are the one named like the table, those named like the table plus a
    number, or those in a folder named like the table, all with the same extension.

    needed: tables of which one must have files. Raises DataError if none has, if no file matches a
    pattern, or if a table exists in more than one form.
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
        if forms:
            found[table] = {name: folder / name for name in forms[0]}
    required = [*named, *([] if found.keys() & {*needed} else needed[:1])]
    for table in (table for table in required if table not in found):
        key = f"source.files.{table}"
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


def read_tables(staging: Staging, files: Files, source: TablesSource) -> None:
    """Read the tables from their files, in the order of `TABLES`.

    Without a table of interactions, they are the pairs of the aspects. Raises DataError if a column
    is missing.
    """
    for table in filter(files.__contains__, TABLES):
        stream = partial(
            stream_rows,
            columns=_COLUMNS[table],
            optional=_OPTIONAL.get(table),
            names=source.names_in(table),
            **source.format,
            advice=_ADVICE,
        )
        staging.read(table, files[table], stream)
    if not staging.has("interactions"):
        staging.fill("interactions", _PAIRS_OF_ASPECTS)
