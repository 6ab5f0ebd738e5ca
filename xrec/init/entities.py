"""The files of users and items: those with a key column that holds the ids of the pairs."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xrec.init import words
from xrec.init.files import Column, File, jaccard, share
from xrec.init.pairs import Pairs, table_fit
from xrec.init.words import Role

ColumnNames = str | list[str] | None

_LEAST_OVERLAP = 0.5  # share of the pairs' ids that a file of users or items must hold
_MOST_PROFILE_COLUMNS = 6


@dataclass(frozen=True)
class _Choice:
    """A column that may be the key of a table, and how well it serves."""

    file: File
    key: Column
    score: float


def find_entities(files: Sequence[File], pairs: Sequence[Pairs]) -> dict[str, tuple[File, Column]]:
    """The files of `users` and `items` with their key columns, as far as there are such files."""
    used = {part.file.name for part in pairs}
    rest = [file for file in files if file.name not in used]
    users = _choices(rest, "user", frozenset().union(*(part.user.values for part in pairs)))
    items = _choices(rest, "item", frozenset().union(*(part.item.values for part in pairs)))
    both = [
        (user, item)
        for user, item in itertools.product([*users, None], [*items, None])
        if user is None or item is None or user.file is not item.file
    ]
    best = max(both, key=lambda chosen: sum(choice.score for choice in chosen if choice))
    return {
        table: (choice.file, choice.key)
        for table, choice in zip(("users", "items"), best, strict=True)
        if choice is not None
    }


def _choices(files: Sequence[File], role: Role, ids: frozenset[str]) -> list[_Choice]:
    return [
        _Choice(file, column, score)
        for file in files
        for column in file.columns
        if (score := _key_score(file, column, role, ids)) is not None
    ]


def _key_score(file: File, column: Column, role: Role, ids: frozenset[str]) -> float | None:
    """How well a column serves as the key of the table of `role`; None: not at all."""
    named = words.id_role(column.name)
    fit = table_fit(file, role)
    if not column.is_key or named not in (role, "any", None):
        return None
    is_certain_by_name = fit >= 0.5 and named in (role, "any")
    if share(ids, column.values) < _LEAST_OVERLAP and not is_certain_by_name:
        return None
    return jaccard(ids, column.values) + fit + {role: 0.5, "any": 0.2}.get(named or "", 0.0)


def entity_columns(file: File, key: Column, table: str) -> dict[str, ColumnNames]:
    """Our columns of `table` in terms of the file's: the key, an item's title, and the profile."""
    rest = [column for column in file.columns if column is not key]
    columns: dict[str, ColumnNames] = {f"{table.removesuffix('s')}_id": key.name}
    if table == "items":
        title = _best(rest, words.title_rank) or _short_text(rest)
        columns["title"] = title.name if title else None
        rest = [column for column in rest if column is not title]
    described = _best(rest, words.profile_rank)
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


def _best(columns: Sequence[Column], rank: Callable[[str], int | None]) -> Column | None:
    named = [
        (number, column)
        for column in columns
        if not column.is_number and (number := rank(column.name)) is not None
    ]
    return min(named, key=lambda pair: pair[0])[1] if named else None


def _short_text(columns: Sequence[Column]) -> Column | None:
    """A column that may be a title by its values: short texts, most of them different."""
    return next(
        (
            column
            for column in columns
            if not column.is_number
            and 1 <= column.mean_words <= 8
            and len(column.values) > 0.8 * column.num_filled
            and words.may_describe(column.name)
        ),
        None,
    )
