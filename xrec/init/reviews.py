"""A folder that holds reviews, and no texts made from them: `xrec annotate` is to write these."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec.annotate import parse_number, parse_time
from xrec.config import REVIEW_COLUMNS, ReviewsSource
from xrec.init import words
from xrec.init.files import Column, File, Folder, Parse, likeliest
from xrec.init.guess import ColumnNames, Guess, differing_names

_SCALES = (5.0, 10.0, 100.0)
_GOOD_SHARE = 0.75  # of a scale: four of five stars
_MOST_WITHOUT_TIME = 0.05  # of the reviews, if the split is to be by time
_PARSERS: Mapping[words.Meaning, tuple[str, Parse]] = {
    "rating": ("a number", parse_number),
    "time": ("a time", parse_time),
}
_LEAST_NAMES = 0.8  # of the ids, for these to be titles
_MOST_DIGITS = 0.2  # of the characters of a name


@dataclass(frozen=True)
class FoundReviews:
    """The reviews of a folder, and what their ratings and times are like.

    rating_range: null if there are no ratings. has_times: whether the split can be by time.
    files, columns: by table, reviews and perhaps items, as in a `Guess`. notes: what a person must
    know of the columns.
    """

    source: ReviewsSource
    files: Mapping[str, str]
    columns: Mapping[str, Mapping[str, ColumnNames]]
    rating_range: tuple[float, float] | None
    has_times: bool
    notes: tuple[str, ...]

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
    file = next(file for file in folder.files if file.name == name)
    text, item_id = file.column(str(columns["explanation"])), str(columns["item_id"])
    if not words.is_review(text.known_as) or guess.files["interactions"] != name:
        return None
    rest = [each for each in file.columns if each.name not in columns.values() and each.counts]
    found = _found_columns(rest, None if "items" in guess.files else file.column(item_id))
    time, limit = found["time"], _MOST_WITHOUT_TIME * file.num_rows
    has_times = time is not None and _num_timeless(time) <= limit
    of_reviews = {"user_id": columns["user_id"], "item_id": item_id}
    of_reviews |= {"review": columns["explanation"], **_names(found, file)}
    tables, files = {"reviews": of_reviews}, {"reviews": name}
    if items := guess.columns.get("items"):
        tables["items"] = {"item_id": items["item_id"], "title": items.get("title")}
        files["items"] = guess.files["items"]
    settings = {
        **folder.settings(),
        "kind": "reviews",
        "files": {} if folder.location.is_file() else files,
        "columns": differing_names(tables, REVIEW_COLUMNS),
    }
    return FoundReviews(
        ReviewsSource.model_validate(settings),
        files,
        tables,
        None if found["rating"] is None else _scale(found["rating"]),
        has_times,
        (*_notes(rest, found), *_time_notes(time, has_times=has_times)),
    )


def _found_columns(columns: Sequence[Column], ids: Column | None) -> dict[str, Column | None]:
    """The columns by ours; a title of items only if there are `ids` of items without a table."""
    titles = [each for each in columns if words.names_items(each.known_as)]
    title = None
    if ids is not None:
        own = ids if _are_names(ids) else None
        title = max(titles, key=lambda each: each.ours is not None, default=own)
    rest = [each for each in columns if each not in titles]
    return {
        **{meaning: _readable(rest, meaning) for meaning in _PARSERS},
        "summary": likeliest((each for each in rest if not each.is_number), "summary"),
        "helpful": likeliest((each for each in rest if each.is_number), "helpful"),
        "item_title": title,
    }


def _readable(columns: Sequence[Column], meaning: words.Meaning) -> Column | None:
    """The likeliest column of which nearly all cells are what they should be."""
    named = [each for each in columns if words.rank(each.known_as, meaning) is not None]
    return likeliest((each for each in named if each.is_mostly(_PARSERS[meaning][1])), meaning)


def _are_names(ids: Column) -> bool:
    """Whether ids look like names: several words and few digits."""
    num_names = sum(
        len(each.split()) > 1 and sum(map(str.isdigit, each)) <= _MOST_DIGITS * len(each)
        for each in ids.counts
    )
    return num_names >= _LEAST_NAMES * len(ids.counts)


def _notes(columns: Sequence[Column], found: Mapping[str, Column | None]) -> Iterator[str]:
    """How many cells of ratings and times cannot be read, and what becomes of them."""
    for meaning, (what, parse) in _PARSERS.items():
        column = found[meaning] or likeliest(columns, meaning)
        bad = column.parsed(parse)[0] if column is not None else None
        if column is not None and bad:
            fate = "their rows are rejected" if found[meaning] else "the column is not used"
            share = f"{bad.total():,} of {column.counts.total():,} cells"
            example = bad.most_common(1)[0][0]
            yield f"{meaning} ({column.name}): {share} are not {what}, such as {example!r}: {fate}"


def _num_timeless(time: Column) -> int:
    return time.num_empty + time.parsed(parse_time)[1].count(None)


def _time_notes(time: Column | None, *, has_times: bool) -> Iterator[str]:
    if time is not None and (count := _num_timeless(time)):
        fate = "they count as their users' oldest" if has_times else "the split is by hash"
        yield f"time ({time.name}): {count:,} reviews have none: {fate}"


def _names(found: Mapping[str, Column | None], file: File) -> dict[str, ColumnNames]:
    """The names of the columns; null for one of our name that holds something else."""
    there = {column.name for column in file.columns} - {"helpful"}
    return {
        ours: column.name if column else None
        for ours, column in found.items()
        if column or ours in there
    }


def _scale(rating: Column) -> tuple[float, float] | None:
    """The scale of the ratings: from 1, or from 0 if one is that low, to 5, 10 or 100.

    Where all are 1 at most it is 0 to 1: recommended or not. None without a finite number.
    """
    values = [value for value in rating.parsed(parse_number)[1] if value is not None]
    if not values:
        return None
    if max(values) <= 1:
        return (min(0.0, *values), 1.0)
    greatest = next((scale for scale in _SCALES if max(values) <= scale), max(values))
    return (min(1.0, min(values)), greatest)
