"""Which file of a folder is which table, and which of its columns is which of ours.

The names of columns and files say so (`words`). A table of users or items also has a key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xrec.config import TABLE_COLUMNS, TableColumns
from xrec.data.rows import SPLITS
from xrec.errors import DataError
from xrec.init import words
from xrec.init.files import Column, File, likeliest

ColumnNames = str | list[str] | None

_LEAST_LENGTH = 0.5  # of the interactions, in rows, against the explanations
_LEAST_OVERLAP = 0.5  # share of the pairs' ids that a file of users or items must hold
_MOST_PROFILE_COLUMNS = 6


@dataclass(frozen=True)
class Guess:
    """The file of each table found, and our columns in terms of theirs.

    columns: by table, then by our column; a list is joined to one text, None stays empty.
    """

    files: Mapping[str, str]
    columns: Mapping[str, Mapping[str, ColumnNames]]


@dataclass(frozen=True)
class _Pairs:
    """A file of pairs with its two id columns, and the column of explanations if it has one."""

    file: File
    user: Column
    item: Column
    text: Column | None

    def is_named(self, table: str) -> bool:
        """Whether the file's name speaks of `table`."""
        return words.table_of_file(self.file.stem) == table


def differing_names(
    columns: Mapping[str, Mapping[str, ColumnNames]], known: TableColumns
) -> dict[str, ColumnNames]:
    """Our columns of the tables `known` that have other names in the files, and these names.

    This is the value of `source.columns`. A key has the table's name before it unless all tables
    agree.
    """
    found: dict[str, ColumnNames] = {}
    for column in dict.fromkeys(name for names in known.values() for name in names):
        tables = [table for table in columns if column in known[table]]
        theirs = {table: columns[table][column] for table in tables if column in columns[table]}
        if len(theirs) == len(tables) and len(set(map(str, theirs.values()))) == 1:
            theirs = {"": next(iter(theirs.values()))}
        for table, name in theirs.items():
            if name != column:
                found[f"{table}.{column}" if table else column] = name
    return found


def guess_tables(files: Sequence[File]) -> Guess:
    """Find the tables.

    Raises DataError, with the columns seen, if no file has pairs of users and items.
    """
    found = [pairs for file in files if (pairs := _pairs(file)) is not None]
    if not found:
        raise DataError(
            "no file has an id of a user and an id of an item in each row, so there are no "
            f"interactions; saw the columns\n{seen_columns(files)}\nname the ids with "
            "--columns user_id=<column>,item_id=<column>",
            code="no_interactions",
            saw=tuple(each.name for each in files),
        )
    explained = _explained(found)
    interactions = _interactions(found, explained)
    tables = {"interactions": interactions.file.name}
    columns = {"interactions": _pair_columns(interactions)}
    if explained is not None and explained.text is not None:
        tables["explanations"] = explained.file.name
        columns["explanations"] = {**_pair_columns(explained), "explanation": explained.text.name}
    used = [pairs for pairs in (interactions, explained) if pairs is not None]
    for table in ("users", "items"):
        if entity := _entity(files, table, used, tables):
            file, key = entity
            tables[table] = file.name
            columns[table] = _entity_columns(file, key, table)
    order = [table for table in TABLE_COLUMNS if table in tables]
    return Guess(
        {table: tables[table] for table in order}, {table: columns[table] for table in order}
    )


def seen_columns(files: Sequence[File]) -> str:
    """A line for each file with its columns."""
    return "\n".join(
        f"  {file.name}: {', '.join(column.name for column in file.columns)}" for file in files
    )


def _pairs(file: File) -> _Pairs | None:
    """The pairs of a file with a column that is named like an id of a user, and one of an item."""
    given_first = sorted(file.columns, key=lambda column: column.ours is None)
    roles = [(words.id_role(column.known_as), column) for column in given_first]
    user = next((column for role, column in roles if role == "user"), None)
    item = next((column for role, column in roles if role == "item"), None)
    if user is None or item is None:
        return None
    table = words.table_of_file(file.stem)
    if (table == "users" and user.is_key) or (table == "items" and item.is_key):
        return None  # books.csv with isbn and author, for example
    rest = [
        column
        for column in file.columns
        if column not in (user, item)
        and (column.ours or (not column.is_number and column.mean_words >= 2))
    ]
    rest.sort(key=lambda column: -column.mean_words)
    return _Pairs(file, user, item, likeliest(rest, "explanation"))


def _explained(found: Sequence[_Pairs]) -> _Pairs | None:
    """The pairs with explanations: those whose column and file have the likeliest names."""

    def order(pairs: _Pairs) -> tuple[int, bool, int]:
        assert pairs.text is not None
        rank = words.rank(pairs.text.known_as, "explanation")
        assert rank is not None
        return rank, not pairs.is_named("explanations"), -pairs.file.num_rows

    return min((pairs for pairs in found if pairs.text is not None), key=order, default=None)


def _interactions(found: Sequence[_Pairs], explained: _Pairs | None) -> _Pairs:
    """Another file than the explanations if it has no texts and is not much shorter, else these."""

    def is_candidate(pairs: _Pairs) -> bool:
        if explained is None:
            return True
        is_long = pairs.file.num_rows >= _LEAST_LENGTH * explained.file.num_rows
        has_no_texts = pairs.text is None or pairs.is_named("interactions")
        return pairs is not explained and is_long and has_no_texts

    def order(pairs: _Pairs) -> tuple[bool, int]:
        return not pairs.is_named("interactions"), -pairs.file.num_rows

    best = min(filter(is_candidate, found), key=order, default=explained)
    assert best is not None
    return best


def _pair_columns(pairs: _Pairs) -> dict[str, ColumnNames]:
    columns: dict[str, ColumnNames] = {"user_id": pairs.user.name, "item_id": pairs.item.name}
    splits = [
        each for each in pairs.file.columns if each.counts and each.counts.keys() <= set(SPLITS)
    ]
    split = likeliest(splits, "split")
    return columns if split is None else {**columns, "split": split.name}


def _entity(
    files: Sequence[File], table: str, pairs: Sequence[_Pairs], taken: Mapping[str, str]
) -> tuple[File, Column] | None:
    """The file of `users` or `items` and its key, which holds ids of the pairs.

    By the name of the file, then by that of the key, then by the ids that it holds.
    """
    role = table.removesuffix("s")
    ids = frozenset[str]().union(*(getattr(each, role).counts for each in pairs))
    found: list[tuple[tuple[bool, bool, float, int], File, Column]] = []
    for file in files:
        named = words.table_of_file(file.stem)
        if file.name in taken.values() or named in {"users", "items"} - {table}:
            continue
        for column in file.columns:
            held = len(ids & column.counts.keys()) / max(1, len(ids))
            is_key = column.is_key and words.id_role(column.known_as) in (role, "any")
            if is_key and (named == table or held >= _LEAST_OVERLAP):
                is_own = words.id_role(column.known_as) == role
                order = (named == table, is_own, held, -len(column.counts))
                found.append((order, file, column))
    best = max(found, key=lambda each: each[0], default=None)
    return None if best is None else best[1:]


def _entity_columns(file: File, key: Column, table: str) -> dict[str, ColumnNames]:
    """Our columns of `table` in terms of the file's: the key, an item's title, and the profile."""
    rest = [column for column in file.columns if column is not key]
    columns: dict[str, ColumnNames] = {f"{table.removesuffix('s')}_id": key.name}
    if table == "items":
        title = likeliest((column for column in rest if not column.is_number), "title")
        columns["title"] = title.name if title else None
        rest = [column for column in rest if column is not title]
    described = likeliest((column for column in rest if not column.is_number), "profile")
    if described is not None:
        columns["profile"] = described.name
        return columns
    parts = [
        column.name
        for column in rest
        if words.may_describe(column.name)
        and column.counts.total() >= 0.2 * file.num_rows
        and (len(column.counts) < 0.5 * file.num_rows or column.mean_words >= 2)
    ][:_MOST_PROFILE_COLUMNS]
    columns["profile"] = parts or None
    return columns
