"""A folder that holds reviews, and no texts made from them: `xrec annotate` is to write these."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec.annotate.cells import parse_time
from xrec.config.annotate import ReviewsSource
from xrec.init import words
from xrec.init.entities import ColumnNames
from xrec.init.files import Column, Folder
from xrec.init.guess import Guess

_SCALES = (5.0, 10.0, 100.0)
_GOOD_SHARE = 0.75  # of a scale: four of five stars
_LOOKED_AT = 1000


@dataclass(frozen=True)
class FoundReviews:
    """The reviews of a folder, and what their ratings and times are like.

    rating_range, min_rating: null if there are no ratings. has_times: whether the split can be by
    time. columns: our columns in terms of the file's, for a reader.
    """

    source: ReviewsSource
    rating_range: tuple[float, float] | None
    min_rating: float | None
    has_times: bool
    columns: Mapping[str, Mapping[str, ColumnNames]]

    def settings(self) -> dict[str, Any]:
        """The values of the section `annotate` that fit the reviews."""
        values: dict[str, Any] = {"source": self.source.model_dump(exclude_defaults=True)}
        values["source"]["kind"] = "reviews"
        if self.rating_range is not None:
            values["min_rating"] = self.min_rating
            values["rating_range"] = list(self.rating_range)
        values["split"] = {"by": "time" if self.has_times else "hash"}
        return values


def find_reviews(folder: Folder, guess: Guess) -> FoundReviews | None:
    """The reviews, if the explanations that were found are such and no table of users is there.

    Who has profiles of users has texts of their own: these are used as they are.
    """
    file_name, columns = guess.files.get("explanations"), guess.columns.get("explanations")
    if file_name is None or columns is None or "users" in guess.files:
        return None
    file = next(file for file in folder.files if file.name == file_name)
    text = file.column(str(columns["explanation"]))
    if not words.is_review(text.name) or guess.files["interactions"] != file_name:
        return None
    taken = {str(columns["user_id"]), str(columns["item_id"]), text.name}
    rest = [column for column in file.columns if column.name not in taken]
    ours: dict[str, ColumnNames] = {
        "user_id": columns["user_id"],
        "item_id": columns["item_id"],
        "review": text.name,
    }
    rating = _named(rest, words.rating_rank, lambda column: column.is_number)
    time = _named(rest, words.time_rank, _holds_times)
    summary = _named(rest, words.summary_rank, lambda column: not column.is_number)
    helpful = _named(rest, words.helpful_rank, lambda column: column.is_number)
    found = {"rating": rating, "time": time, "summary": summary, "helpful": helpful}
    for name, column in found.items():
        if column is not None:
            ours[name] = column.name
        elif name != "helpful" and any(each.name == name for each in rest):
            ours[name] = None  # a column of our name that holds something else
    tables = {"reviews": ours, **_item_columns(guess)}
    scale = _scale(rating) if rating is not None else None
    return FoundReviews(
        _source(folder, guess, file_name, tables),
        scale,
        None if scale is None else _good(scale),
        time is not None and time.num_filled == file.num_rows and _is_of_each_row(time),
        tables,
    )


def _item_columns(guess: Guess) -> dict[str, dict[str, ColumnNames]]:
    columns = guess.columns.get("items")
    if columns is None:
        return {}
    return {"items": {"item_id": columns["item_id"], "title": columns.get("title")}}


def _source(
    folder: Folder, guess: Guess, name: str, tables: Mapping[str, Mapping[str, ColumnNames]]
) -> ReviewsSource:
    files = {"reviews": name, **({"items": guess.files["items"]} if "items" in tables else {})}
    alone = len(folder.contents) == 1 and folder.location.is_file()
    return ReviewsSource.model_validate(
        {
            "kind": "reviews",
            "uri": folder.location.shared_uri,
            "files": {} if alone else files,
            "columns": _differing(tables),
            "delimiter": folder.delimiter,
        }
    )


def _differing(tables: Mapping[str, Mapping[str, ColumnNames]]) -> dict[str, ColumnNames]:
    """Our columns that have other names there; with the table's name where tables differ."""
    found: dict[str, ColumnNames] = {}
    items = tables.get("items", {})
    for column, theirs in tables["reviews"].items():
        is_shared = column == "item_id" and items.get("item_id", theirs) != theirs
        if theirs != column:
            found[f"reviews.{column}" if is_shared else column] = theirs
    for column, theirs in items.items():
        if theirs != column and not (column == "item_id" and found.get("item_id") == theirs):
            found[f"items.{column}" if column == "item_id" else column] = theirs
    return found


def _named(
    columns: Sequence[Column],
    rank: Callable[[str], int | None],
    fits: Callable[[Column], bool],
) -> Column | None:
    named = [
        (number, column)
        for column in columns
        if (number := rank(column.name)) is not None and column.values and fits(column)
    ]
    return min(named, key=lambda pair: pair[0])[1] if named else None


def _holds_times(column: Column) -> bool:
    try:
        for value in sorted(column.values)[:_LOOKED_AT]:
            parse_time(value)
    except ValueError:
        return False
    return True


def _is_of_each_row(time: Column) -> bool:
    """False if a value is read as a missing time, as `nan` is: such rows need another split."""
    return not any(map(_is_missing_time, time.values))


def _is_missing_time(value: str) -> bool:
    try:
        return parse_time(value) is None
    except ValueError:
        return False  # its row is rejected


def _scale(rating: Column) -> tuple[float, float] | None:
    """The scale of the ratings: from 1, or from 0 if one is that low, to 5, 10 or 100.

    Where all are 1 at most it is 0 to 1: recommended or not. None without a finite number.
    """
    values = [value for value in map(float, rating.values) if math.isfinite(value)]
    if not values:
        return None
    if max(values) <= 1:
        return (min(0.0, *values), 1.0)
    greatest = next((scale for scale in _SCALES if max(values) <= scale), max(values))
    return (min(1.0, min(values)), greatest)


def _good(scale: tuple[float, float]) -> float:
    """The least rating that is praise: 4 of 1 to 5, 8 of 1 to 10, 1 of 0 to 1."""
    least, greatest = scale
    return round(least + _GOOD_SHARE * (greatest - least))
