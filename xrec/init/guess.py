"""Guess which file of a folder is which table, and which of its columns xrec needs.

The guess goes by the names of columns and files (`names`). A table of users or items needs a key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec.config import REVIEW_COLUMNS, TABLE_COLUMNS
from xrec.data import SPLITS
from xrec.errors import DataError
from xrec.init import names
from xrec.init.files import Column, File, Folder, likeliest

ColumnNames = str | list[str] | None
Columns = dict[str, ColumnNames]

_LEAST_LENGTH = 0.5  # rows of the interactions, relative to the explanations
_LEAST_OVERLAP = 0.5  # share of the pairs' ids that a file of users or items must contain
_MOST_PROFILE_COLUMNS = 6
_MOST_WITHOUT_TIME = 0.05  # largest share of the reviews in a split by time
_MOST_DIGITS = 0.2  # largest share of the characters of a name


@dataclass(frozen=True)
class Guess:
    """The file of each table, and which of its columns fills each column of xrec.

    columns: by table, then by xrec's column; lists are joined into one text, None stays empty.
    reviews: the file of reviews from which texts are to be written; None if texts already exist.
    """

    files: Mapping[str, str]
    columns: Mapping[str, Columns]
    reviews: File | None = None

    def source(self, folder: Folder) -> dict[str, Any]:
        """Return the `source` that reads these tables."""
        known = REVIEW_COLUMNS if self.reviews else TABLE_COLUMNS
        values = {"kind": "reviews" if self.reviews else "tables", **folder.settings}
        values |= {"files": dict(self.files), "columns": self._differing(known)}
        if folder.location.is_file() and self.reviews:
            values["files"] = {}
        elif folder.location.is_file():
            values["uri"] = values["uri"].rpartition("/")[0]
        return values

    def _differing(self, known: Mapping[str, Sequence[str]]) -> Columns:
        """Return the columns of xrec that have other names in the files, with those names.

        A key is prefixed with the table's name unless all tables use the same name.
        """
        found: Columns = {}
        for column in dict.fromkeys(name for each in known.values() for name in each):
            tables = [table for table in self.columns if column in known[table]]
            theirs = {t: self.columns[t][column] for t in tables if column in self.columns[t]}
            if len(theirs) == len(tables) and len(set(map(str, theirs.values()))) == 1:
                theirs = {"": next(iter(theirs.values()))}
            for table, name in theirs.items():
                if name != column:
                    found[f"{table}.{column}" if table else column] = name
        return found


@dataclass(frozen=True)
class _Pairs:
    """A file of pairs with its two id columns, and its text column if it has one."""

    file: File
    user: Column
    item: Column
    text: Column | None

    def is_named(self, table: str) -> bool:
        return names.table_of(self.file.name.partition(".")[0]) == table

    @property
    def columns(self) -> Columns:
        """The columns that hold the ids and, if there is one, the split."""
        named = [c for c in self.file.columns if names.rank(c.known_as, "split") is not None]
        split = likeliest((c for c in named if c.counts and {*c.counts} <= {*SPLITS}), "split")
        of_split: Columns = {} if split is None else {"split": split.name}
        return {"user_id": self.user.name, "item_id": self.item.name, **of_split}


def guess_tables(folder: Folder) -> Guess:
    """Find the tables; raise DataError, which lists the columns, if no file has pairs."""
    found = [pairs for file in folder.files if (pairs := _pairs(file)) is not None]
    if not found:
        raise DataError(
            "no file has both a user id and an item id in each row, so there are no "
            f"interactions; saw the columns\n{seen_columns(folder)}\nspecify the ids with "
            "--columns user_id=<column>,item_id=<column>",
            code="no_interactions",
            saw=tuple(each.name for each in folder.files),
        )
    explained = _explained(found)
    interactions = _interactions(found, explained)
    tables = {"interactions": interactions.file.name}
    columns = {"interactions": interactions.columns}
    used = [interactions]
    if explained is not None and explained.text is not None:
        used.append(explained)
        tables["explanations"] = explained.file.name
        columns["explanations"] = {**explained.columns, "explanation": explained.text.name}
    for table in ("users", "items"):
        if (entity := _entity(folder.files, table, used, [*tables.values()])) is not None:
            tables[table], columns[table] = entity[0].name, _entity_columns(*entity, table)
    text = interactions.text if explained is interactions else None
    if text is not None and "users" not in tables and names.is_review(text.known_as):
        return _reviews(interactions, text, tables, columns)  # profiles: keep the texts
    order = [table for table in TABLE_COLUMNS if table in tables]
    return Guess({table: tables[table] for table in order}, {t: columns[t] for t in order})


def seen_columns(folder: Folder) -> str:
    """Return one line per file, which lists its columns."""
    return "\n".join(
        f"  {file.name}: {', '.join(column.name for column in file.columns)}"
        for file in folder.files
    )


def _pairs(file: File) -> _Pairs | None:
    given_first = sorted(file.columns, key=lambda column: column.ours is None)
    roles = [(names.id_role(column.known_as), column) for column in given_first]
    user = next((column for role, column in roles if role == "user"), None)
    item = next((column for role, column in roles if role == "item"), None)
    if user is None or item is None:
        return None
    table = names.table_of(file.name.partition(".")[0])
    if (table == "users" and user.is_key) or (table == "items" and item.is_key):
        return None  # books.csv with isbn and author, for example
    rest = [each for each in file.columns if each not in (user, item)]
    rest = [each for each in rest if each.ours or (not each.is_number and each.mean_words >= 2)]
    rest.sort(key=lambda column: -column.mean_words)
    return _Pairs(file, user, item, likeliest(rest, "explanation"))


def _explained(found: Sequence[_Pairs]) -> _Pairs | None:
    """Return the pairs with texts whose text column and file have the likeliest names."""

    def order(pairs: _Pairs) -> tuple[int, bool, int]:
        rank = names.rank(pairs.text.known_as, "explanation") if pairs.text else None
        return rank or 0, not pairs.is_named("explanations"), -pairs.file.num_rows

    return min((pairs for pairs in found if pairs.text is not None), key=order, default=None)


def _interactions(found: Sequence[_Pairs], explained: _Pairs | None) -> _Pairs:
    """Return a file without texts, not much shorter than the explanations; else the latter."""

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


def _entity(
    files: Sequence[File], table: str, pairs: Sequence[_Pairs], taken: Sequence[str]
) -> tuple[File, Column] | None:
    """Return the file of `users` or `items` and its key column, which contains ids of the pairs.

    Candidates are ranked by the file's name, then the key's name, then the share of ids in it.
    """
    role = table.removesuffix("s")
    ids = frozenset[str]().union(*(getattr(each, role).counts for each in pairs))
    found: list[tuple[tuple[bool, bool, float, int], File, Column]] = []
    for file in files:
        named = names.table_of(file.name.partition(".")[0])
        if file.name in taken or named in {"users", "items"} - {table}:
            continue
        for column in file.columns:
            of = names.id_role(column.known_as)
            if of not in (role, "any") or not column.is_key:
                continue
            held = len(ids & column.counts.keys()) / max(1, len(ids))
            if named == table or held >= _LEAST_OVERLAP:
                order = (named == table, of == role, held, -len(column.counts))
                found.append((order, file, column))
    best = max(found, key=lambda each: each[0], default=None)
    return None if best is None else best[1:]


def _entity_columns(file: File, key: Column, table: str) -> Columns:
    """Return the key, the title of items, and the profile: one column, or several to join."""
    rest = [column for column in file.columns if column is not key]
    columns: Columns = {f"{table.removesuffix('s')}_id": key.name}
    if table == "items":
        title = likeliest((column for column in rest if not column.is_number), "title")
        columns["title"] = title.name if title else None
        rest = [column for column in rest if column is not title]
    described = likeliest((column for column in rest if not column.is_number), "profile")
    parts = [
        column.name
        for column in rest
        if names.may_describe(column.name)
        and column.counts.total() >= 0.2 * file.num_rows
        and (len(column.counts) < 0.5 * file.num_rows or column.mean_words >= 2)
    ][:_MOST_PROFILE_COLUMNS]
    columns["profile"] = described.name if described is not None else parts or None
    return columns


def _reviews(
    pairs: _Pairs, text: Column, tables: Mapping[str, str], columns: Mapping[str, Columns]
) -> Guess:
    """Return the guess for a source of reviews."""
    rest = [each for each in pairs.file.columns if each not in (pairs.user, pairs.item, text)]
    titles = [each for each in rest if names.names_items(each.known_as)]
    rest = [each for each in rest if each not in titles and each.counts]
    found: dict[str, Column | None] = {
        "rating": _readable(rest, "rating"),
        "time": _readable(rest, "time"),
        "summary": likeliest((each for each in rest if not each.is_number), "summary"),
        "helpful": likeliest((each for each in rest if each.is_number), "helpful"),
        "item_title": None,
    }
    if "items" not in tables:
        own = pairs.item if _are_names(pairs.item) else None
        found["item_title"] = max(titles, key=lambda each: each.ours is not None, default=own)
    of_reviews: Columns = {"user_id": pairs.user.name, "item_id": pairs.item.name}
    of_reviews["review"] = text.name
    there = {column.name for column in pairs.file.columns} - {"helpful"}
    # None if a column has the name that xrec uses, but contains something else.
    of_reviews |= {
        ours: None if column is None else column.name
        for ours, column in found.items()
        if column is not None or ours in there
    }
    files, named = {"reviews": pairs.file.name}, {"reviews": of_reviews}
    if items := columns.get("items"):
        files["items"] = tables["items"]
        named["items"] = {"item_id": items["item_id"], "title": items.get("title")}
    return Guess(files, named, pairs.file)


def _readable(columns: Sequence[Column], meaning: names.Meaning) -> Column | None:
    """Return the likeliest column in which nearly all cells are valid."""
    named = [each for each in columns if names.rank(each.known_as, meaning) is not None]
    return likeliest((each for each in named if each.is_mostly(meaning)), meaning)


def _are_names(ids: Column) -> bool:
    """Return whether at least four in five ids look like names: several words, few digits."""
    num_names = sum(
        len(each.split()) > 1 and sum(map(str.isdigit, each)) <= _MOST_DIGITS * len(each)
        for each in ids.counts
    )
    return num_names >= 0.8 * len(ids.counts)


def rating_range(guess: Guess) -> tuple[float, float] | None:
    """Return the scale of the ratings: from 1, or the lowest rating below it, to 5, 10 or 100.

    If no rating is above 1, the scale is 0 to 1: recommended or not. None if no rating is finite.
    """
    name = guess.columns["reviews"].get("rating") if guess.reviews else None
    if not isinstance(name, str) or guess.reviews is None:
        return None
    values = [each for each in guess.reviews.column(name).parsed("rating")[1] if each is not None]
    if not values:
        return None
    if max(values) <= 1:
        return (min(0.0, *values), 1.0)
    greatest = next((scale for scale in (5.0, 10.0, 100.0) if max(values) <= scale), max(values))
    return (min(1.0, *values), greatest)


def num_without_time(guess: Guess) -> int | None:
    """Return how many reviews have no time; None if there is no column of times."""
    name = guess.columns["reviews"].get("time") if guess.reviews else None
    if not isinstance(name, str) or guess.reviews is None:
        return None
    column = guess.reviews.column(name)
    num_empty = guess.reviews.num_rows - column.counts.total()
    return num_empty + column.parsed("time")[1].count(None)


def splits_by_time(guess: Guess) -> bool:
    """Return whether nearly all reviews have a time."""
    count = num_without_time(guess)
    return (
        count is not None
        and guess.reviews is not None
        and count <= _MOST_WITHOUT_TIME * guess.reviews.num_rows
    )
