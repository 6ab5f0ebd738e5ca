"""The files of users and items: those with a key column that holds the ids of the pairs."""

from collections.abc import Sequence

from xrec.init import words
from xrec.init.files import Column, File, jaccard, likeliest, share
from xrec.init.pairs import Pairs, table_fit
from xrec.init.words import Role

ColumnNames = str | list[str] | None

_LEAST_OVERLAP = 0.5  # share of the pairs' ids that a file of users or items must hold
_MOST_PROFILE_COLUMNS = 6


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
    fit = table_fit(file, role)
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
