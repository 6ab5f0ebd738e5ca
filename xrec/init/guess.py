"""Guess which file of a folder is which table, and which of its columns xrec needs.

The guess goes by the names of columns and files (`names`). A table of users or items needs a key.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec.config import REVIEW_COLUMNS, TABLE_COLUMNS
from xrec.data import SPLITS
from xrec.errors import DataError
from xrec.init import names
from xrec.init.files import ENCODING, Column, File, Folder, likeliest

Columns = dict[str, str | list[str] | None]
"""The file's columns by xrec's; lists are joined into one text, None stays empty."""

_LEAST_LENGTH = 0.5  # rows of the interactions, relative to the explanations
_LEAST_OVERLAP = 0.5  # share of the pairs' IDs that a file of users or items must contain
_MOST_PROFILE_COLUMNS = 6
_MOST_WITHOUT_TIME = 0.05  # largest share of the reviews in a split by time
_MOST_DIGITS = 0.2  # largest share of the characters of a name


@dataclass(frozen=True)
class Guess:
    """The file of each table, and its columns.

    reviews: the file of reviews from which texts are to be written; None if texts already exist.
    is_release: whether the folder is a dataset of the public XRec release, whose tables are known.
    """

    files: Mapping[str, str]
    columns: Mapping[str, Columns]
    reviews: File | None = None
    is_release: bool = False

    def source(self, folder: Folder) -> dict[str, Any]:
        """Return the `source` that reads these tables, without settings that have their default."""
        uri, files = folder.location.uri, dict(self.files)
        if self.is_release:
            return {"kind": "xrec_release", "uri": uri}
        if folder.location.is_file() and self.reviews:
            files = {}
        elif folder.location.is_file():
            uri = uri.rpartition("/")[0]
        values = {
            "kind": None if self.reviews else "tables",
            "uri": uri,
            "delimiter": folder.delimiter,
            "encoding": ENCODING if folder.foreign else None,
            "files": files,
            "columns": self._differing(),
        }
        return {name: value for name, value in values.items() if value not in (None, {}, ",")}

    def _differing(self) -> Columns:
        """Return the columns of xrec that have other names in the files, with those names.

        A key is prefixed with the table's name unless all tables use the same name.
        """
        known, found = REVIEW_COLUMNS if self.reviews else TABLE_COLUMNS, Columns()
        for column in dict.fromkeys(name for each in known.values() for name in each):
            tables = [table for table in self.columns if column in known[table]]
            theirs = {t: self.columns[t][column] for t in tables if column in self.columns[t]}
            if len(theirs) == len(tables) and len(set(map(str, theirs.values()))) == 1:
                theirs = {"": next(iter(theirs.values()))}
            for table, name in theirs.items():
                if name != column:
                    found[f"{table}.{column}" if table else column] = name
        return found

    def of_reviews(self, ours: str) -> Column | None:
        """Return the column of the reviews that is ours, if there is one."""
        if self.reviews is None:
            return None
        return self.reviews.column(self.columns["reviews"].get(ours))

    @property
    def rating_range(self) -> tuple[float, float] | None:
        """The scale of the ratings: from 1, or the lowest rating below it, to 5, 10 or 100.

        If no rating is above 1, the scale is 0 to 1: recommended or not. None if no rating is
        finite.
        """
        column = self.of_reviews("rating")
        values = [each for each in column.parsed("rating")[1] if each is not None] if column else []
        if not values:
            return None
        if max(values) <= 1:
            return (min(0.0, *values), 1.0)
        greatest = next(
            (scale for scale in (5.0, 10.0, 100.0) if max(values) <= scale), max(values)
        )
        return (min(1.0, *values), greatest)

    @property
    def num_without_time(self) -> int:
        """The number of reviews without a time."""
        num_reviews = self.reviews.num_rows if self.reviews else 0
        if (column := self.of_reviews("time")) is None:
            return num_reviews
        return num_reviews - column.counts.total() + column.parsed("time")[1].count(None)

    @property
    def splits_by_time(self) -> bool:
        """Whether nearly all reviews have a time."""
        num_reviews = self.reviews.num_rows if self.reviews else 0
        return self.num_without_time <= _MOST_WITHOUT_TIME * num_reviews


@dataclass(frozen=True)
class _Pairs:
    """A file of pairs with its two ID columns, and its text column if it has one."""

    file: File
    user: Column
    item: Column
    text: Column | None

    @property
    def columns(self) -> Columns:
        """The columns that hold the IDs and, if there is one, the split."""
        splits = (each for each in self.file.columns if {*each.counts} <= {*SPLITS} and each.counts)
        split = likeliest(splits, "split")
        of_split: Columns = {} if split is None else {"split": split.name}
        return {"user_id": self.user.name, "item_id": self.item.name, **of_split}


def guess_tables(folder: Folder) -> Guess:
    """Find the tables; raise DataError, which lists the columns, if no file has pairs."""
    found = [pairs for file in folder.files if (pairs := _pairs(file)) is not None]
    if not found:
        raise DataError(
            "no file has both a user id and an item id in each row, so there are no "
            f"interactions; saw the columns\n{folder.seen_columns()}\nspecify the ids with "
            "--columns user_id=<column>,item_id=<column>",
            code="no_interactions",
            saw=tuple(each.name for each in folder.files),
        )
    said = next((pairs for pairs in found if pairs.file.column("aspect")), None)
    found = [pairs for pairs in found if pairs is not said]
    explained = _explained(found)
    interactions = _interactions(found, explained) if found else None
    files, columns, used = dict[str, str](), dict[str, Columns](), list[_Pairs]()
    if interactions is not None:
        files["interactions"], columns["interactions"] = (
            interactions.file.name,
            interactions.columns,
        )
        used.append(interactions)
    if said is not None:
        names_used = [n for n in ("aspect", "opinion", "sentiment") if said.file.column(n)]
        files["aspects"] = said.file.name
        columns["aspects"] = {**said.columns, **{name: name for name in names_used}}
        used.append(said)
    if explained is not None and explained.text is not None:
        used.append(explained)
        files["explanations"] = explained.file.name
        columns["explanations"] = {**explained.columns, "explanation": explained.text.name}
    for table in ("users", "items"):
        if (entity := _entity(folder.files, table, used, [*files.values()])) is not None:
            files[table], columns[table] = entity[0].name, _entity_columns(*entity, table)
    text = interactions.text if interactions and explained is interactions else None
    if (
        interactions
        and text is not None
        and said is None
        and "users" not in files
        and names.is_review(text.known_as)
    ):
        return _reviews(interactions, text, files, columns)  # profiles: keep the texts
    order = [table for table in TABLE_COLUMNS if table in files]
    return Guess({table: files[table] for table in order}, {t: columns[t] for t in order})


def _pairs(file: File) -> _Pairs | None:
    given_first = sorted(file.columns, key=lambda column: not column.is_given)
    roles = [(names.id_role(column.known_as), column) for column in given_first]
    user = next((column for role, column in roles if role == "user"), None)
    item = next((column for role, column in roles if role == "item"), None)
    if user is None or item is None:
        return None
    if (file.table == "users" and user.is_key) or (file.table == "items" and item.is_key):
        return None  # books.csv with isbn and author, for example
    texts = [
        each
        for each in _without(file, user, item)
        if each.is_given or (not each.is_number and each.mean_words >= 2)
    ]
    texts.sort(key=lambda column: -column.mean_words)
    return _Pairs(file, user, item, likeliest(texts, "explanation"))


def _without(file: File, *taken: Column | None) -> list[Column]:
    return [column for column in file.columns if column not in taken]


def _explained(found: Sequence[_Pairs]) -> _Pairs | None:
    """Return the pairs with texts whose text column and file have the likeliest names."""

    def order(pairs: _Pairs) -> tuple[int, bool, int]:
        rank = names.rank(pairs.text.known_as, "explanation") if pairs.text else None
        return rank or 0, pairs.file.table != "explanations", -pairs.file.num_rows

    return min((pairs for pairs in found if pairs.text is not None), key=order, default=None)


def _interactions(found: Sequence[_Pairs], explained: _Pairs | None) -> _Pairs:
    """Return a file without texts, not much shorter than the explanations; else the latter."""
    candidates = [
        pairs
        for pairs in found
        if explained is None
        or (
            pairs is not explained
            and pairs.file.num_rows >= _LEAST_LENGTH * explained.file.num_rows
            and (pairs.text is None or pairs.file.table == "interactions")
        )
    ]
    by_name = sorted(candidates, key=lambda p: (p.file.table != "interactions", -p.file.num_rows))
    best = next(iter(by_name), explained)
    assert best is not None
    return best


def _entity(
    files: Iterable[File], table: str, pairs: Sequence[_Pairs], taken: Sequence[str]
) -> tuple[File, Column] | None:
    """Return the file of `users` or `items` and its key column, which contains IDs of the pairs.

    Candidates are ranked by the file's name, then the key's name, then the share of IDs in it.
    """
    role = table.removesuffix("s")
    ids = frozenset[str]().union(*(getattr(each, role).counts for each in pairs))
    found: list[tuple[tuple[bool, bool, float, int], File, Column]] = []
    for file in files:
        if file.name in taken or file.table in {"users", "items"} - {table}:
            continue
        for column in file.columns:
            of = names.id_role(column.known_as)
            if of not in (role, "any") or not column.is_key:
                continue
            held = len(ids & column.counts.keys()) / max(1, len(ids))
            if file.table == table or held >= _LEAST_OVERLAP:
                order = (file.table == table, of == role, held, -len(column.counts))
                found.append((order, file, column))
    best = max(found, key=lambda each: each[0], default=None)
    return None if best is None else best[1:]


def _entity_columns(file: File, key: Column, table: str) -> Columns:
    """Return the key, the title of items, and the profile: one column, or several to join."""
    columns: Columns = {f"{table.removesuffix('s')}_id": key.name}
    texts = [column for column in _without(file, key) if not column.is_number]
    title = likeliest(texts, "title") if table == "items" else None
    if table == "items":
        columns["title"] = title.name if title else None
    described = likeliest((column for column in texts if column is not title), "profile")
    parts = [
        column.name
        for column in _without(file, key, title)
        if names.may_describe(column.name)
        and column.counts.total() >= 0.2 * file.num_rows
        and (len(column.counts) < 0.5 * file.num_rows or column.mean_words >= 2)
    ][:_MOST_PROFILE_COLUMNS]
    columns["profile"] = described.name if described is not None else parts or None
    return columns


def _reviews(
    pairs: _Pairs, text: Column, files: Mapping[str, str], columns: Mapping[str, Columns]
) -> Guess:
    """Return the guess for a source of reviews."""
    rest = _without(pairs.file, pairs.user, pairs.item, text)
    titles = [each for each in rest if names.names_items(each.known_as)]
    rest = [each for each in rest if each not in titles and each.counts]
    found: dict[str, Column | None] = {
        "rating": _valid(rest, "rating"),
        "time": _valid(rest, "time"),
        "summary": likeliest((each for each in rest if not each.is_number), "summary"),
        "helpful": likeliest((each for each in rest if each.is_number), "helpful"),
        "item_title": None,
    }
    if "items" not in files:
        own = pairs.item if _are_names(pairs.item) else None
        found["item_title"] = max(titles, key=lambda each: each.is_given, default=own)
    # None if a column has the name that xrec uses, but contains something else.
    same = {column.name for column in pairs.file.columns} - {"helpful"}
    of_reviews: Columns = {
        "user_id": pairs.user.name,
        "item_id": pairs.item.name,
        "review": text.name,
        **{our: each.name if each else None for our, each in found.items() if each or our in same},
    }
    if (items := columns.get("items")) is None:
        return Guess({"reviews": pairs.file.name}, {"reviews": of_reviews}, pairs.file)
    of_items: Columns = {"item_id": items["item_id"], "title": items.get("title")}
    both = {"reviews": pairs.file.name, "items": files["items"]}
    return Guess(both, {"reviews": of_reviews, "items": of_items}, pairs.file)


def _valid(columns: Iterable[Column], meaning: names.Meaning) -> Column | None:
    """Return the likeliest column in which nearly all cells are valid."""
    named = (each for each in columns if names.rank(each.known_as, meaning) is not None)
    return likeliest((each for each in named if each.is_mostly(meaning)), meaning)


def _are_names(ids: Column) -> bool:
    """Return whether at least four in five IDs look like names: several words, few digits."""
    num_names = sum(
        len(each.split()) > 1 and sum(map(str.isdigit, each)) <= _MOST_DIGITS * len(each)
        for each in ids.counts
    )
    return num_names >= 0.8 * len(ids.counts)
