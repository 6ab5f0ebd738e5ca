"""The files whose rows are pairs of a user and an item, and those of users and of items.

The names of their columns say so, or else their values: a column of pairs that holds the keys of
another file points to it, and a file of users or items has a key column that holds the pairs' ids.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xrec.init import words
from xrec.init.files import Column, File, jaccard, likeliest, share
from xrec.init.words import Role

ColumnNames = str | list[str] | None

_LEAST_WORDS = 4.0  # of a text that is taken for an explanation by its length alone
_LEAST_OVERLAP = 0.5  # share of the pairs' ids that a file of users or items must hold
_MOST_PROFILE_COLUMNS = 6


@dataclass(frozen=True)
class Pairs:
    """A file of pairs with its two id columns, and the text column if it has one."""

    file: File
    user: Column
    item: Column
    text: Column | None
    notes: tuple[str, ...] = ()


def find_pairs(files: Sequence[File]) -> list[Pairs]:
    """Every file of pairs that is found by names; if there is none, the best one by values."""
    by_name = [pairs for file in files if (pairs := _pairs_by_name(file, files)) is not None]
    if by_name:
        return by_name
    by_values = max(_pairs_by_values(files), key=lambda scored: scored[0], default=None)
    return [by_values[1]] if by_values else []


def _pairs_by_name(file: File, files: Sequence[File]) -> Pairs | None:
    """The pairs of a file with a column that is named like an id of a user or an item.

    The other id may have another name: see `_other_id`.
    """
    roles = {column.name: words.id_role(column.name) for column in file.columns}
    users = [column for column in file.columns if roles[column.name] == "user"]
    items = [column for column in file.columns if roles[column.name] == "item"]
    if not users and not items:
        return None
    known = users or items
    table = words.table_of_file(file.stem)
    if table == "users" and users and users[0].is_key:
        return None
    if table == "items" and items and items[0].is_key:
        return None  # books.csv with isbn and author, for example
    if users and items:
        return Pairs(file, users[0], items[0], _text(file, (users[0], items[0])))
    if len(known[0].values) >= 0.98 * file.num_rows:
        return None  # each once: a table of users or items
    other = _other_id(file, known[0], files)
    if other is None:
        return None
    user, item = (known[0], other) if users else (other, known[0])
    role = "item" if users else "user"
    note = f"{file.name}: {other.name} is taken for the id of the {role}"
    return Pairs(file, user, item, _text(file, (user, item)), (note,))


def _other_id(file: File, known: Column, files: Sequence[File]) -> Column | None:
    """The second id: a column that holds another file's keys, else the only one that can be it."""
    rest = [
        column
        for column in file.columns
        if column is not known and not column.is_key and words.may_be_item_id(column.name)
    ]
    keys = [
        column.values
        for other in files
        if other is not file
        for column in other.columns
        if column.is_key and not column.values >= known.values
    ]
    pointing = [column for column in rest if any(share(column.values, key) > 0.9 for key in keys)]
    if pointing:
        return pointing[0]
    short = [column for column in rest if column.mean_words < 2 and len(column.values) > 2]
    return short[0] if len(short) == 1 else None


def _pairs_by_values(files: Sequence[File]) -> Iterator[tuple[float, Pairs]]:
    """Each file with two columns that hold the keys of two other files, with a score."""
    for file in files:
        links = [
            (column, other, key, jaccard(column.values, key.values))
            for column in file.columns
            for other in files
            if other is not file
            for key in other.columns
            if key.is_key and not column.is_key and share(column.values, key.values) > 0.9
        ]
        for (user, users, _, left), (item, items, _, right) in itertools.permutations(links, 2):
            if user is item or users is items:
                continue
            note = (
                f"{file.name}: {user.name} is taken for the id of the user and {item.name} for "
                f"that of the item, since they hold the keys of {users.name} and {items.name}"
            )
            pairs = Pairs(file, user, item, _text(file, (user, item)), (note,))
            yield left + right + _table_fit(users, "user") + _table_fit(items, "item"), pairs


def _text(file: File, ids: tuple[Column, Column]) -> Column | None:
    """The column of explanations: by its name, else the one with the longest texts."""
    rest = [
        column
        for column in file.columns
        if column not in ids and not column.is_number and column.mean_words >= 2
    ]
    rest.sort(key=lambda column: -column.mean_words)
    if named := likeliest(rest, "explanation"):
        return named
    return rest[0] if rest and rest[0].mean_words >= _LEAST_WORDS else None


def find_entities(files: Sequence[File], pairs: Sequence[Pairs]) -> dict[str, tuple[File, Column]]:
    """The files of `users` and `items` with their key columns, as far as there are such files."""
    used = {part.file.name for part in pairs}
    ids: dict[Role, frozenset[str]] = {
        "user": frozenset().union(*(part.user.values for part in pairs)),
        "item": frozenset().union(*(part.item.values for part in pairs)),
    }
    scored = [
        (_key_score(file, column, role, ids[role]), f"{role}s", file, column)
        for role in ids
        for file in files
        if file.name not in used
        for column in file.columns
    ]
    found: dict[str, tuple[File, Column]] = {}
    for score, table, file, column in sorted(scored, key=lambda each: -each[0]):
        is_taken = any(file is taken for taken, _ in found.values())
        if score > 0 and table not in found and not is_taken:
            found[table] = (file, column)
    return found


def _key_score(file: File, column: Column, role: Role, ids: frozenset[str]) -> float:
    """How well a column serves as the key of the table of `role`; 0: not at all."""
    named = words.id_role(column.name)
    fit = _table_fit(file, role)
    if not column.is_key or named not in (role, "any", None):
        return 0.0
    is_certain_by_name = fit >= 0.5 and named in (role, "any")
    if share(ids, column.values) < _LEAST_OVERLAP and not is_certain_by_name:
        return 0.0
    return jaccard(ids, column.values) + fit + {role: 0.5, "any": 0.2}.get(named or "", 0.0)


def entity_columns(file: File, key: Column, table: str) -> dict[str, ColumnNames]:
    """Our columns of `table` in terms of the file's: the key, an item's title, and the profile."""
    rest = [column for column in file.columns if column is not key]
    texts = [column for column in rest if not column.is_number]
    columns: dict[str, ColumnNames] = {f"{table.removesuffix('s')}_id": key.name}
    if table == "items":
        title = likeliest(texts, "title") or _short_text(texts)
        columns["title"] = title.name if title else None
        rest = [column for column in rest if column is not title]
        texts = [column for column in texts if column is not title]
    described = likeliest(texts, "profile")
    if described is not None:
        columns["profile"] = described.name
        return columns
    parts = [
        column.name
        for column in rest
        if words.may_describe(column.name)
        and words.id_role(column.name) not in (table.removesuffix("s"), "any")
        and column.num_filled >= 0.2 * file.num_rows
        and (len(column.values) < 0.5 * file.num_rows or column.mean_words >= 2)
    ][:_MOST_PROFILE_COLUMNS]
    columns["profile"] = parts or None
    return columns


def _short_text(columns: Sequence[Column]) -> Column | None:
    """A column that may be a title by its values: short texts, most of them different."""
    return next(
        (
            column
            for column in columns
            if 1 <= column.mean_words <= 8
            and len(column.values) > 0.8 * column.num_filled
            and words.may_describe(column.name)
        ),
        None,
    )


def _table_fit(file: File, role: Role) -> float:
    """How much a file's name and columns speak for a table of users or of items."""
    table = words.table_of_file(file.stem)
    named = {"users": "user", "items": "item"}.get(table or "")
    score = 0.0 if named is None else (0.5 if named == role else -0.5)
    has_title = likeliest(file.columns, "title") is not None
    return score + (0.1 if has_title == (role == "item") else 0.0)
