"""What an actor does with the rows of a stage: read inputs, ask the annotator, clean the texts."""

import hashlib
import operator
from collections import defaultdict
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
from xrec.data.language import solicits, without_solicitation
from xrec.schemas import REVIEWS

_MAX_REVIEWS = 50  # per profile; the most helpful and newest ones
_REVIEW_COLUMNS = tuple(name for name in REVIEWS.names if name not in ("split", "helpful"))


class ItemTexts:
    """The texts of items by id: those that the stage `items` wrote."""

    def __init__(self, table: pa.Table):
        self._ids = table["item_id"].combine_chunks()
        self._texts = table.select(["title", "profile", "title_is_made"])

    def of(self, item_ids: Iterable[str]) -> dict[str, ItemText]:
        """Return the text of each item that has one, by id."""
        wanted = pa.array(sorted(set(item_ids)), pa.string())
        indices = pc.drop_null(pc.index_in(wanted, value_set=self._ids))
        rows = self._texts.take(indices).to_pylist()
        ids = self._ids.take(indices).to_pylist()
        return {id_: ItemText(**row) for id_, row in zip(ids, rows, strict=True)}


@dataclass(frozen=True)
class InputReader:
    """Reads the inputs of a stage's rows; all stages but the first need `items`."""

    store: ReviewStore
    items: ItemTexts | None = None

    def of(self, stage: Stage, rows: pa.Table) -> Sequence[Input]:
        """Return the input of each row (columns: the stage's keys), in order."""
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
            row, all_reviews = by_id.get(id_, {"title": "", "details": ""}), reviews[id_]
            chosen = tuple(map(_review, all_reviews[:_MAX_REVIEWS]))
            inputs.append(ItemInput(id_, row["title"], row["details"], chosen, len(all_reviews)))
        return inputs

    def _users(self, rows: pa.Table) -> list[Input]:
        ids = rows["user_id"].to_pylist()
        table = self.store.of("training_by_user", ids)
        reviews, items = _by_id(table, "user_id"), self._texts(table["item_id"].to_pylist())
        inputs: list[Input] = []
        for id_ in ids:
            chosen = map(_review, reviews[id_][:_MAX_REVIEWS])
            reviewed = tuple(ReviewedItem(review, items.get(review.item_id)) for review in chosen)
            inputs.append(UserInput(id_, reviewed, len(reviews[id_])))
        return inputs

    def _pairs(self, rows: pa.Table) -> list[Input]:
        users, items = rows["user_id"].to_pylist(), rows["item_id"].to_pylist()
        table = self.store.of("all_by_user", set(users)).to_pylist()
        reviews = {(row["user_id"], row["item_id"]): row for row in table}
        texts = self._texts(items)
        return [
            PairInput(user, item, _review(row), texts.get(item), row["split"])
            for user, item in zip(users, items, strict=True)
            for row in (reviews[user, item],)
        ]

    def _texts(self, item_ids: Iterable[str]) -> dict[str, ItemText]:
        assert self.items is not None, "the stage of the items comes first"
        return self.items.of(item_ids)


def _by_id(reviews: pa.Table, key: str) -> defaultdict[str, list[dict[str, Any]]]:
    assert set(reviews["split"].unique().to_pylist()) <= {"train"}, "a review is held out"
    by_id: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in reviews.to_pylist():
        by_id[row[key]].append(row)
    return by_id


def _review(row: Mapping[str, Any]) -> Review:
    return Review(**{name: row[name] for name in _REVIEW_COLUMNS})


class TextTask:
    """A task that writes the texts of rows (a ChunkTask and a CarryingTask of xrec.bulk).

    inputs: reads the rows' inputs. settings: the fingerprint of the annotator's settings, models,
        and what it learned; part of each `content_key`. folds: see `AnnotatorSpec`.
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
        """Write the texts; the costs are those of the annotator and `personal_removed`."""
        inputs = self._inputs(rows)
        parts = [parts_of(row, self._folds) for row in inputs]
        asked = [
            [row, *(rest for _, rest in row_parts)]
            for row, row_parts in zip(inputs, parts, strict=True)
        ]
        to_write = [part for row_asked in asked for part in row_asked if refused(part) is None]
        written = self._annotator.write(to_write) if to_write else Written([])
        assert len(written.results) == len(to_write), "a result is missing"
        results = iter(written.results)
        ok, failed, num_removed = [], [], 0
        for number, (row, row_parts) in enumerate(zip(inputs, parts, strict=True)):
            result, *others = [refused(part) or next(results) for part in asked[number]]
            text, num_cleaned = _clean(row, result)
            num_removed += num_cleaned
            if isinstance(text, Failure):
                failed.append((number, text))
                continue
            columns = self._columns(row, text) | _left_out(row, row_parts, others)
            ok.append({**columns, "content_key": self._content_key(row)})
        return Outcome(
            pa.Table.from_pylist(ok, schema=self._format.ok_schema),
            self._failed(rows, failed),
            {"personal_removed": num_removed, **written.costs},
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """Return all rows as failed, with this reason and message."""
        failure = Failure(reason, message)
        return self._failed(rows, [(number, failure) for number in range(rows.num_rows)])

    def why_again(self, earlier: pa.Table) -> pa.Array:
        """Return null for each text whose inputs and annotator are the same, else "changed"."""
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


Part = tuple[tuple[str, ...], ItemInput | UserInput]
"""A part of a profile's reviews: their users' or items' ids, and the input without them."""


def parts_of(row: Input, folds: int | None) -> list[Part]:
    """Divide the reviews of a profile into at most `folds` parts, or one per review if None.

    Each part takes every n-th review, so all parts contain new and old ones.
    """
    if isinstance(row, PairInput):
        return []
    num_reviews = len(row.reviews)
    num_parts = num_reviews if folds is None else min(folds, num_reviews)
    parts = []
    for part in range(num_parts):
        ids = tuple(
            review.user_id if isinstance(review, Review) else review.review.item_id
            for review in row.reviews[part::num_parts]
        )
        rest: Any = tuple(row.reviews[n] for n in range(num_reviews) if n % num_parts != part)
        parts.append((ids, replace(row, reviews=rest, num_reviews=row.num_reviews - len(ids))))
    return parts


def _left_out(
    row: Input, parts: Sequence[Part], results: Sequence[Text | Failure]
) -> dict[str, list[dict[str, str]]]:
    """Return the column `left_out`: by ID, the profile written without that ID's review.

    It is "" if the profile failed.
    """
    if isinstance(row, PairInput):
        return {}
    profiles = [getattr(_clean(row, text)[0], "profile", "") for text in results]
    left_out = [
        {"id": id_, "profile": profile}
        for (ids, _), profile in zip(parts, profiles, strict=True)
        for id_ in ids
    ]
    return {"left_out": left_out}


def refused(row: Input) -> Failure | None:
    """Return why nothing can be written from an input; None if the annotator should be asked."""
    match row:
        case ItemInput(reviews=(), details=""):
            return Failure(NO_REVIEWS, "the item has no training review and no details")
        case UserInput(reviews=()):
            return Failure(NO_REVIEWS, "the user has no training review")
        case PairInput(review=Review(review="", summary="")):
            return Failure(EMPTY_REVIEW, "the review has no text")
    return None


def _clean(row: Input, text: Text | Failure) -> tuple[Text | Failure, int]:
    """Return the text without solicitation (xrec.data.language), and how much was removed.

    Removes whole sentences, aspects, opinions and made titles, but not titles from the source. A
    profile or explanation with no sentence left is a failure.
    """
    if isinstance(text, Failure):
        return text, 0
    titles, num_removed = _titles(row), 0
    values: dict[str, Any] = {}
    for name, value in vars(text).items():
        if isinstance(value, tuple):
            aspects = [
                replace(each, **{key: "" for key, words in vars(each).items() if solicits(words)})
                for each in value
            ]
            values[name] = tuple(each for each in aspects if each.aspect)
            num_removed += sum(map(operator.ne, aspects, value))
        elif isinstance(value, str) and value not in titles:
            values[name], num_sentences = without_solicitation(value, titles)
            num_removed += num_sentences
            if num_sentences and not values[name] and name != "title" and not _is_low_rated(row):
                return Failure(SOLICITS, "every sentence is a solicitation", value), 0
    return replace(text, **values), num_removed


def _titles(row: Input) -> list[str]:
    """Return the titles of the items that a text mentions."""
    if isinstance(row, ItemInput):
        return [row.title]
    items = [row.item] if isinstance(row, PairInput) else [each.item for each in row.reviews]
    return [item.title for item in items if item is not None]


def _is_low_rated(row: Input) -> bool:
    return isinstance(row, PairInput) and row.split == LOW_RATED
