"""What an actor does with some rows of a stage: reads their inputs, asks, and checks the texts.

Items come first, since users' profiles and the pairs' explanations name and describe them.
"""

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import (
    LOW_RATED,
    Annotator,
    Failure,
    Input,
    ItemInput,
    ItemText,
    PairInput,
    Review,
    ReviewedItem,
    Stage,
    Text,
    UserInput,
    Written,
)
from xrec.annotate.formats import EMPTY_REVIEW, NO_REVIEWS, SOLICITS
from xrec.annotate.store import ReviewStore
from xrec.bulk import Outcome, RowFormat
from xrec.data.smuggled import solicits, without_solicitation
from xrec.schemas import REVIEWS

_MOST_REVIEWS = 50  # that a profile is written from, the most helpful and newest ones


class ItemTexts:
    """The texts of the items, by id; those of the stage `items` that succeeded."""

    def __init__(self, table: pa.Table):
        self._ids = table["item_id"].combine_chunks()
        self._texts = table.select(["title", "profile", "title_is_made"])

    def of(self, item_ids: Iterable[str]) -> dict[str, ItemText]:
        """The texts of those of the items that have one."""
        wanted = pa.array(sorted(set(item_ids)), pa.string())
        places = pc.drop_null(pc.index_in(wanted, value_set=self._ids))
        rows = self._texts.take(places).to_pylist()
        names = self._ids.take(places).to_pylist()
        return {name: ItemText(**row) for name, row in zip(names, rows, strict=True)}


@dataclass(frozen=True)
class InputReader:
    """Reads what the texts of a stage's rows are written from.

    items: what the stage of the items wrote, which the other stages need.
    """

    store: ReviewStore
    items: ItemTexts | None = None

    def of(self, stage: Stage, rows: pa.Table) -> Sequence[Input]:
        """The input of each row (the columns of the stage's keys), in their order."""
        readers = {"items": self._items, "users": self._users, "pairs": self._pairs}
        return readers[stage](rows)

    def _items(self, rows: pa.Table) -> list[Input]:
        ids = rows["item_id"].to_pylist()
        reviews = _by_id(self.store.of("training_by_item", ids), "item_id")
        items = self.store.items
        known = items.filter(pc.is_in(items["item_id"], value_set=pa.array(ids, pa.string())))
        by_id = {row["item_id"]: row for row in known.to_pylist()}
        inputs: list[Input] = []
        for id_ in ids:
            row, of_item = by_id.get(id_, {"title": "", "details": ""}), reviews.get(id_, [])
            chosen = tuple(map(_review, of_item[:_MOST_REVIEWS]))
            inputs.append(ItemInput(id_, row["title"], row["details"], chosen, len(of_item)))
        return inputs

    def _users(self, rows: pa.Table) -> list[Input]:
        ids = rows["user_id"].to_pylist()
        found = self.store.of("training_by_user", ids)
        reviews, items = _by_id(found, "user_id"), self._texts(found["item_id"].to_pylist())
        inputs: list[Input] = []
        for id_ in ids:
            chosen = map(_review, reviews.get(id_, [])[:_MOST_REVIEWS])
            reviewed = tuple(ReviewedItem(review, items.get(review.item_id)) for review in chosen)
            inputs.append(UserInput(id_, reviewed, len(reviews.get(id_, []))))
        return inputs

    def _pairs(self, rows: pa.Table) -> list[Input]:
        users, items = rows["user_id"].to_pylist(), rows["item_id"].to_pylist()
        found = self.store.of("all_by_user", set(users)).to_pylist()
        reviews = {(row["user_id"], row["item_id"]): row for row in found}
        texts = self._texts(items)
        return [
            PairInput(user, item, _review(row), texts.get(item), row["split"])
            for user, item in zip(users, items, strict=True)
            for row in (reviews[user, item],)
        ]

    def _texts(self, item_ids: Iterable[str]) -> dict[str, ItemText]:
        assert self.items is not None, "the stage of the items comes first"
        return self.items.of(item_ids)


def _by_id(reviews: pa.Table, key: str) -> dict[str, list[dict[str, Any]]]:
    assert set(reviews["split"].unique().to_pylist()) <= {"train"}, "a held-out review is here"
    found: dict[str, list[dict[str, Any]]] = {}
    for row in reviews.to_pylist():
        found.setdefault(row[key], []).append(row)
    return found


_REVIEW_COLUMNS = tuple(name for name in REVIEWS.names if name not in ("split", "helpful"))


def _review(row: Mapping[str, Any]) -> Review:
    return Review(**{name: row[name] for name in _REVIEW_COLUMNS})


class TextTask:
    """Writes the texts of some rows (a ChunkTask and a CarryingTask of xrec.bulk).

    inputs: reads the rows' inputs. settings: a fingerprint of the annotator's settings and models,
        and of what it learned; a part of each `content_key`. folds: see `AnnotatorSpec`.
    """

    row_errors: tuple[type[Exception], ...] = ()

    def __init__(
        self,
        inputs: Callable[[pa.Table], Sequence[Input]],
        annotator: Annotator,
        format: RowFormat,
        settings: str,
        folds: int | None,
    ):
        self._inputs, self._annotator = inputs, annotator
        self._format, self._settings, self._folds = format, settings, folds

    def do(self, rows: pa.Table) -> Outcome:
        """Write the texts; the costs have what the annotator counts, and `personal_removed`."""
        inputs = self._inputs(rows)
        parts = [parts_of(row, self._folds) for row in inputs]
        asked = [
            [row, *(part.rest for part in of_row)]
            for row, of_row in zip(inputs, parts, strict=True)
        ]
        to_write = [row for all_ in asked for row in all_ if refused(row) is None]
        written = self._annotator.write(to_write) if to_write else Written([])
        assert len(written.results) == len(to_write), "a result is missing"
        results = iter(written.results)
        ok, failed, num_removed = [], [], 0
        for number, (row, of_row) in enumerate(zip(inputs, parts, strict=True)):
            result, *others = [refused(each) or next(results) for each in asked[number]]
            text, num_found = _cleaned(row, result)
            num_removed += num_found
            if isinstance(text, Failure):
                failed.append((number, text))
                continue
            columns = self._columns(row, text) | _left_out(row, of_row, others)
            ok.append({**columns, "content_key": self._content_key(row)})
        return Outcome(
            pa.Table.from_pylist(ok, schema=self._format.ok_schema),
            self._failed(rows, failed),
            {"personal_removed": num_removed, **written.costs},
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """The rows as failed ones."""
        failure = Failure(reason, message)
        return self._failed(rows, [(number, failure) for number in range(rows.num_rows)])

    def why_again(self, earlier: pa.Table) -> pa.Array:
        """Null if the earlier text was written from the same inputs by the same annotator."""
        keys = pa.array(map(self._content_key, self._inputs(earlier)), pa.string())
        is_same = pc.equal(keys, earlier["content_key"].combine_chunks())
        return pc.if_else(is_same, pa.scalar(None, pa.string()), "changed")

    def _columns(self, row: Input, text: Text) -> dict[str, Any]:
        columns = {name: getattr(row, name) for name in self._format.keys} | asdict(text)
        if isinstance(row, PairInput):
            columns |= {"split": row.split} | ({"explanation": ""} if _is_low_rated(row) else {})
        return columns

    def _content_key(self, row: Input) -> str:
        data = f"{self._settings}\n{row!r}".encode("utf-8", errors="surrogatepass")
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    def _failed(self, rows: pa.Table, failures: Sequence[tuple[int, Failure]]) -> pa.Table:
        numbers = pa.array([number for number, _ in failures], pa.int64())
        failed = rows.select(list(self._format.keys)).take(numbers)
        for name in ("reason", "message", "reply"):
            column = pa.array([getattr(failure, name) for _, failure in failures], pa.string())
            failed = failed.append_column(name, column)
        return failed


@dataclass(frozen=True)
class Part:
    """Some reviews of a profile: the ids of their users, or items; `rest` is the input without."""

    ids: tuple[str, ...]
    rest: ItemInput | UserInput


def parts_of(row: Input, folds: int | None) -> list[Part]:
    """The reviews of a profile's input in parts of about one size, `folds` at most; None: each one.

    A part has every n-th review, so that all have new and old ones.
    """
    if isinstance(row, PairInput):
        return []
    count = len(row.reviews) if folds is None else min(folds, len(row.reviews))
    return [_part(row, number, count) for number in range(count)]


def _part(row: ItemInput | UserInput, number: int, count: int) -> Part:
    ids = tuple(
        each.user_id if isinstance(each, Review) else each.review.item_id
        for each in row.reviews[number::count]
    )
    rest: Any = tuple(each for place, each in enumerate(row.reviews) if place % count != number)
    return Part(ids, replace(row, reviews=rest, num_reviews=row.num_reviews - len(ids)))


def _left_out(
    row: Input, parts: Sequence[Part], results: Sequence[Text | Failure]
) -> dict[str, list[dict[str, str]]]:
    """The column `left_out`: by id the profile without that review; "" if there is none."""
    if isinstance(row, PairInput):
        return {}
    cleaned = [_cleaned(row, text)[0] for text in results]
    profiles = [getattr(text, "profile", "") for text in cleaned]  # failures have none
    return {
        "left_out": [
            {"id": id_, "profile": profile}
            for part, profile in zip(parts, profiles, strict=True)
            for id_ in part.ids
        ]
    }


def refused(row: Input) -> Failure | None:
    """Why nothing can be written of an input; None if the annotator is to be asked."""
    match row:
        case ItemInput(reviews=(), details=""):
            message = "the item has no training review, and the source no details"
            return Failure(NO_REVIEWS, message)
        case UserInput(reviews=()):
            return Failure(NO_REVIEWS, "the user has no training review")
        case PairInput(review=Review(review="", summary="")):
            return Failure(EMPTY_REVIEW, "the review has no text")
    return None


def _cleaned(row: Input, text: Text | Failure) -> tuple[Text | Failure, int]:
    """The text without what solicits (xrec.data.smuggled), and how much of it was left out.

    These are whole sentences, aspects, what is said of one, and made titles; a title of the
    source's stays. A profile or an explanation of which nothing is left is a failure.
    """
    if isinstance(text, Failure):
        return text, 0
    titles, num_left_out = _titles(row), 0
    values: dict[str, Any] = {}
    for name, value in vars(text).items():
        if isinstance(value, tuple):
            aspects = [
                replace(each, **{name: "" for name, said in vars(each).items() if solicits(said)})
                for each in value
            ]
            values[name] = tuple(each for each in aspects if each.aspect)
            num_left_out += sum(map(operator.ne, aspects, value))
        elif isinstance(value, str) and value not in titles:
            values[name], num_found = without_solicitation(value, titles)
            num_left_out += num_found
            if num_found and not values[name] and name != "title" and not _is_low_rated(row):
                return Failure(SOLICITS, "it solicits in each of its sentences", value), 0
    return replace(text, **values), num_left_out


def _titles(row: Input) -> list[str]:
    """The titles of the items that a text is of, as far as they have one."""
    if isinstance(row, ItemInput):
        return [row.title]
    items = [row.item] if isinstance(row, PairInput) else [each.item for each in row.reviews]
    return [item.title for item in items if item is not None]


def _is_low_rated(row: Input) -> bool:
    return isinstance(row, PairInput) and row.split == LOW_RATED
