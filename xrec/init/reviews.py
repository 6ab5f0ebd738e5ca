"""A folder that holds reviews, and no texts made from them: `xrec annotate` is to write these."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xrec.annotate.cells import parse_time
from xrec.config.annotate import REVIEW_COLUMNS, ReviewsSource
from xrec.init import words
from xrec.init.files import Column, File, Folder, likeliest
from xrec.init.guess import ColumnNames, Guess, differing_names

_SCALES = (5.0, 10.0, 100.0)
_GOOD_SHARE = 0.75  # of a scale: four of five stars
_LOOKED_AT = 1000


@dataclass(frozen=True)
class FoundReviews:
    """The reviews of a folder, and what their ratings and times are like.

    rating_range: null if there are no ratings. has_times: whether the split can be by time.
    files, columns: by table, reviews and perhaps items, as in a `Guess`.
    """

    source: ReviewsSource
    files: Mapping[str, str]
    columns: Mapping[str, Mapping[str, ColumnNames]]
    rating_range: tuple[float, float] | None
    has_times: bool

    @property
    def min_rating(self) -> float | None:
        """The least rating that is praise: 4 of 1 to 5, 8 of 1 to 10, 1 of 0 to 1."""
        if self.rating_range is None:
            return None
        least, greatest = self.rating_range
        return round(least + _GOOD_SHARE * (greatest - least))

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
    name, columns = guess.files.get("explanations"), guess.columns.get("explanations")
    if name is None or columns is None or "users" in guess.files:
        return None
    if not words.is_review(str(columns["explanation"])) or guess.files["interactions"] != name:
        return None
    file = next(file for file in folder.files if file.name == name)
    rest = [each for each in file.columns if each.name not in columns.values() and each.values]
    numbers = [column for column in rest if column.is_number]
    timed = [each for each in rest if words.rank(each.name, "time") is not None]
    rating, time = likeliest(numbers, "rating"), likeliest(filter(_holds_times, timed), "time")
    found = {
        "rating": rating,
        "time": time,
        "summary": likeliest((each for each in rest if not each.is_number), "summary"),
        "helpful": likeliest(numbers, "helpful"),
    }
    of_reviews = {"user_id": columns["user_id"], "item_id": columns["item_id"]}
    of_reviews |= {"review": columns["explanation"], **_names(found, file)}
    tables = {"reviews": of_reviews, **_item_columns(guess)}
    files = {"reviews": name, **({"items": guess.files["items"]} if "items" in tables else {})}
    return FoundReviews(
        _source(folder, files, tables),
        files,
        tables,
        _scale(rating) if rating is not None else None,
        time is not None and time.num_filled == file.num_rows and _is_of_each_row(time),
    )


def _names(found: Mapping[str, Column | None], file: File) -> dict[str, ColumnNames]:
    """The names of the columns; null for one of our name that holds something else."""
    there = {column.name for column in file.columns} - {"helpful"}
    return {
        ours: column.name if column else None
        for ours, column in found.items()
        if column or ours in there
    }


def _item_columns(guess: Guess) -> dict[str, dict[str, ColumnNames]]:
    columns = guess.columns.get("items")
    if columns is None:
        return {}
    return {"items": {"item_id": columns["item_id"], "title": columns.get("title")}}


def _source(
    folder: Folder, files: Mapping[str, str], tables: Mapping[str, Mapping[str, ColumnNames]]
) -> ReviewsSource:
    return ReviewsSource.model_validate(
        {
            "kind": "reviews",
            "uri": folder.location.shared_uri,
            "files": {} if folder.location.is_file() else files,
            "columns": differing_names(tables, REVIEW_COLUMNS),
            "delimiter": folder.delimiter,
        }
    )


def _holds_times(column: Column) -> bool:
    try:
        for value in sorted(column.values)[:_LOOKED_AT]:
            parse_time(value)
    except ValueError:
        return False
    return True


def _is_of_each_row(time: Column) -> bool:
    """False if a value is read as a missing time, as `nan` is: such rows need another split."""
    for value in time.values:
        with contextlib.suppress(ValueError):  # its row is rejected
            if parse_time(value) is None:
                return False
    return True


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
