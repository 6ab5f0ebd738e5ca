"""Which file of a folder is which table, and which of its columns is which of ours.

First by names (`words`), then by values: a column of the pairs that holds the keys of another file
points to it.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from xrec.config.data import TABLE_COLUMNS
from xrec.data.columns import SPLITS
from xrec.errors import DataError
from xrec.init import words
from xrec.init.files import Column, File
from xrec.init.words import Role

_LEAST_OVERLAP = 0.5  # share of the pairs' ids that a file of users or items must hold
_MOST_PROFILE_COLUMNS = 6
_FEWEST_WORDS = 4.0  # of a text that is taken for an explanation by its length alone

ColumnNames = str | list[str] | None


@dataclass(frozen=True)
class Guess:
    """The file of each table found, our columns in terms of theirs, and what of it is uncertain.

    columns: by table, then by our column; a list is joined to one text, None stays empty.
    unused: files that hold no table of ours.
    """

    files: Mapping[str, str]
    columns: Mapping[str, Mapping[str, ColumnNames]]
    notes: tuple[str, ...]
    unused: tuple[str, ...]

    def settings(self) -> dict[str, ColumnNames]:
        """The value of `source.columns`: the names that differ from ours.

        A key has the table's name before it unless all tables agree.
        """
        found: dict[str, ColumnNames] = {}
        for column in dict.fromkeys(name for names in TABLE_COLUMNS.values() for name in names):
            theirs = {
                table: names[column] for table, names in self.columns.items() if column in names
            }
            is_of_one_table = sum(column in names for names in TABLE_COLUMNS.values()) == 1
            is_the_same = len(theirs) > 1 and len(set(map(str, theirs.values()))) == 1
            if theirs and (is_of_one_table or is_the_same):
                theirs = {"": next(iter(theirs.values()))}
            for table, name in theirs.items():
                if name != column:
                    found[f"{table}.{column}" if table else column] = name
        return found


@dataclass(frozen=True)
class _Pairs:
    """A file of pairs with its two id columns, and the text column if it has one."""

    file: File
    user: Column
    item: Column
    text: Column | None
    notes: tuple[str, ...] = field(default=())


def guess_tables(files: Sequence[File]) -> Guess:
    """Find the tables.

    Raises DataError, with the columns seen, if no file has pairs of users and items.
    """
    found = _all_pairs(files)
    if not found:
        seen = "\n".join(
            f"  {file.name}: {', '.join(column.name for column in file.columns)}" for file in files
        )
        raise DataError(
            "no file has an id of a user and an id of an item in each row, so there are no "
            f"interactions; saw the columns\n{seen}\nname the id columns user_id and item_id, or "
            "write the project file by hand, with source.files and source.columns"
        )
    explained = _explained(found)
    interactions = _interactions(found, explained)
    tables = {"interactions": interactions.file.name}
    columns = {"interactions": _pair_columns(interactions)}
    notes = list(interactions.notes)
    if explained is not None and explained.text is not None:
        tables["explanations"] = explained.file.name
        columns["explanations"] = {
            **_pair_columns(explained),
            "explanation": explained.text.name,
        }
        if words.explanation_rank(explained.text.name) is None:
            notes.append(
                f"{explained.file.name}: {explained.text.name} is taken for the explanation, "
                "since its texts are the longest"
            )
    entities = _entities(files, [pairs for pairs in (interactions, explained) if pairs])
    for role, table in (("user", "users"), ("item", "items")):
        if role in entities:
            file, key = entities[role]
            tables[table] = file.name
            columns[table] = _entity_columns(file, key, table)
    order = [table for table in TABLE_COLUMNS if table in tables]
    return Guess(
        {table: tables[table] for table in order},
        {table: columns[table] for table in order},
        tuple(dict.fromkeys(notes)),
        tuple(file.name for file in files if file.name not in tables.values()),
    )


def _all_pairs(files: Sequence[File]) -> list[_Pairs]:
    by_name = [pairs for file in files if (pairs := _pairs_by_name(file, files)) is not None]
    if by_name:
        return by_name
    by_values = max(_pairs_by_values(files), key=lambda scored: scored[0], default=None)
    return [by_values[1]] if by_values else []


def _pairs_by_name(file: File, files: Sequence[File]) -> _Pairs | None:
    """The pairs of a file with a column that is named like an id of a user or an item.

    The other id may have another name: see `_other_id`.
    """
    roles = {column.name: words.id_role(column.name) for column in file.columns}
    users = [column for column in file.columns if roles[column.name] == "user"]
    items = [column for column in file.columns if roles[column.name] == "item"]
    if not users and not items:
        return None
    known = users or items
    if users and items:
        return _Pairs(file, users[0], items[0], _text(file, (users[0], items[0])))
    if len(known[0].values) >= 0.98 * file.num_rows:
        return None  # each once: a table of users or items
    other = _other_id(file, known[0], files)
    if other is None:
        return None
    user, item = (known[0], other) if users else (other, known[0])
    role = "item" if users else "user"
    note = f"{file.name}: {other.name} is taken for the id of the {role}"
    return _Pairs(file, user, item, _text(file, (user, item)), (note,))


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
    pointing = [column for column in rest if any(_share(column.values, key) > 0.9 for key in keys)]
    if pointing:
        return pointing[0]
    short = [column for column in rest if column.mean_words < 2 and len(column.values) > 2]
    return short[0] if len(short) == 1 else None


def _pairs_by_values(files: Sequence[File]) -> Iterator[tuple[float, _Pairs]]:
    """Each file with two columns that hold the keys of two other files, with a score."""
    for file in files:
        links = [
            (column, other, key, _jaccard(column.values, key.values))
            for column in file.columns
            for other in files
            if other is not file
            for key in other.columns
            if key.is_key and not column.is_key and _share(column.values, key.values) > 0.9
        ]
        for (user, users, _, left), (item, items, _, right) in itertools.permutations(links, 2):
            if user is item or users is items:
                continue
            note = (
                f"{file.name}: {user.name} is taken for the id of the user and {item.name} for "
                f"that of the item, since they hold the keys of {users.name} and {items.name}"
            )
            pairs = _Pairs(file, user, item, _text(file, (user, item)), (note,))
            yield left + right + _fit(users, "user") + _fit(items, "item"), pairs


def _fit(file: File, role: Role) -> float:
    """How much a file's name and columns speak for a table of users or of items."""
    table = words.table_of_file(file.stem)
    named = {"users": "user", "items": "item"}.get(table or "")
    score = 0.0 if named is None else (0.5 if named == role else -0.5)
    has_title = any(words.title_rank(column.name) is not None for column in file.columns)
    return score + (0.1 if has_title == (role == "item") else 0.0)


def _text(file: File, ids: tuple[Column, Column]) -> Column | None:
    """The column of explanations: by its name, else the one with the longest texts."""
    rest = [
        column
        for column in file.columns
        if column not in ids and not column.is_number and column.mean_words >= 2
    ]
    named = [column for column in rest if words.explanation_rank(column.name) is not None]
    if named:
        return min(
            named, key=lambda column: (words.explanation_rank(column.name), -column.mean_words)
        )
    longest = max(rest, key=lambda column: column.mean_words, default=None)
    return longest if longest and longest.mean_words >= _FEWEST_WORDS else None


def _explained(found: Sequence[_Pairs]) -> _Pairs | None:
    """The pairs with explanations: those whose column and file have the likeliest names."""

    def order(pairs: _Pairs) -> tuple[int, int, int]:
        assert pairs.text is not None
        rank = words.explanation_rank(pairs.text.name)
        is_named = words.table_of_file(pairs.file.stem) == "explanations"
        return 99 if rank is None else rank, 0 if is_named else 1, -pairs.file.num_rows

    return min((pairs for pairs in found if pairs.text is not None), key=order, default=None)


def _interactions(found: Sequence[_Pairs], explained: _Pairs | None) -> _Pairs:
    """The pairs of another file than the explanations if there is one, else these."""

    def order(pairs: _Pairs) -> tuple[int, int, int]:
        is_named = words.table_of_file(pairs.file.stem) == "interactions"
        return 1 if pairs is explained else 0, 0 if is_named else 1, -pairs.file.num_rows

    return min(found, key=order)


def _pair_columns(pairs: _Pairs) -> dict[str, ColumnNames]:
    columns: dict[str, ColumnNames] = {"user_id": pairs.user.name, "item_id": pairs.item.name}
    split = next(
        (
            column.name
            for column in pairs.file.columns
            if words.split_rank(column.name) is not None
            and column.values
            and column.values <= set(SPLITS)
        ),
        None,
    )
    return columns if split is None else {**columns, "split": split}


def _entities(files: Sequence[File], pairs: Sequence[_Pairs]) -> dict[str, tuple[File, Column]]:
    """The files of users and items, by role: those with a key column that holds the pairs' ids."""
    used = {part.file.name for part in pairs}
    ids = {
        "user": frozenset().union(*(part.user.values for part in pairs)),
        "item": frozenset().union(*(part.item.values for part in pairs)),
    }
    roles: tuple[Role, ...] = ("user", "item")
    scored: dict[str, list[tuple[float, File, Column]]] = {"user": [], "item": []}
    for file in files:
        for column in file.columns if file.name not in used else ():
            for role in roles:
                score = _key_score(file, column, role, ids[role])
                if score is not None:
                    scored[role].append((score, file, column))
    choices = [[*scored[role], None] for role in roles]
    best: tuple[float, dict[str, tuple[File, Column]]] = (0.0, {})
    for user, item in itertools.product(*choices):
        if user and item and user[1] is item[1]:
            continue
        total = (user[0] if user else 0.0) + (item[0] if item else 0.0)
        if total > best[0]:
            chosen = {"user": user, "item": item}
            best = (total, {role: part[1:] for role, part in chosen.items() if part})
    return best[1]


def _key_score(file: File, column: Column, role: Role, ids: frozenset[str]) -> float | None:
    """How well a column serves as the key of the table of `role`; None: not at all."""
    named = words.id_role(column.name)
    fit = _fit(file, role)
    if not column.is_key or named not in (role, "any", None):
        return None
    is_certain_by_name = fit >= 0.5 and named in (role, "any")
    if _share(ids, column.values) < _LEAST_OVERLAP and not is_certain_by_name:
        return None
    return _jaccard(ids, column.values) + fit + {role: 0.5, "any": 0.2}.get(named or "", 0.0)


def _entity_columns(file: File, key: Column, table: str) -> dict[str, ColumnNames]:
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
        and words.id_role(column.name) is None
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


def _share(of: frozenset[str], in_: frozenset[str]) -> float:
    return len(of & in_) / len(of) if of else 0.0


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    union = len(left | right)
    return len(left & right) / union if union else 0.0
