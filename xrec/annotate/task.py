"""What an actor does with the rows of a stage: read inputs, ask the annotator, clean the texts."""

import hashlib
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from xrec.annotate.annotator import (
    Annotator,
    Input,
    ItemInput,
    PairInput,
    Review,
    Text,
    UserInput,
    Written,
)
from xrec.annotate.drift import Drift
from xrec.annotate.formats import EMPTY_REVIEW, NO_REVIEWS, SOLICITS
from xrec.bulk import Outcome, RowFormat
from xrec.data import LOW_RATED
from xrec.data.language import solicits, without_solicitation
from xrec.errors import Failure


class TextTask:
    """A task that writes the texts of rows (a ChunkTask and a CarryingTask of xrec.bulk).

    inputs: reads the rows' inputs. settings: the fingerprint of the annotator's settings, models,
        and what it learned; part of each `content_key`. folds: see `AnnotatorSpec`. drift: decides
        about earlier profiles whose reviews changed; None to write them again.
    """

    row_errors: tuple[type[Exception], ...] = ()

    def __init__(
        self,
        inputs: Callable[[pa.Table], Sequence[Input]],
        annotator: Annotator,
        format: RowFormat,
        settings: str,
        folds: int | None,
        drift: Drift | None = None,
    ):
        self._inputs, self._annotator = inputs, annotator
        self._format, self._settings, self._folds = format, settings, folds
        self._drift = drift

    def do(self, rows: pa.Table) -> Outcome:
        """Write the texts; the costs are those of the annotator and `personal_removed`."""
        inputs = self._inputs(rows)
        parts = [parts_of(row, self._folds) for row in inputs]
        asked = [
            part
            for row, row_parts in zip(inputs, parts, strict=True)
            for part in (row, *(rest for _, rest in row_parts))
        ]
        to_write = [part for part in asked if refused(part) is None]
        written = self._annotator.write(to_write) if to_write else Written([])
        assert len(written.results) == len(to_write), "a result is missing"
        results = iter(written.results)
        texts = iter([_clean(part, refused(part) or next(results)) for part in asked])
        ok, failed, num_removed = [], [], 0
        for number, (row, row_parts) in enumerate(zip(inputs, parts, strict=True)):
            text, num_cleaned = next(texts)
            left_out = list(_left_out(row_parts, texts))
            num_removed += num_cleaned
            if isinstance(text, Failure):
                failed.append((number, text))
                continue
            columns = {**self._columns(row, text), "left_out": left_out}
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
        """Return null for each text whose inputs and annotator are the same, else why not.

        `changed`: the annotator, what is known of an item, or what a pair's text depends on;
        `reviews`: those that a profile was written from; `drift`: what the reviews say.
        """
        inputs = self._inputs(earlier)
        changes = [
            None if key is None or key == now else "reviews" if key[:16] == now[:16] else "changed"
            for key, now in zip(
                earlier["content_key"].to_pylist(), map(self._content_key, inputs), strict=True
            )
        ]
        rows = [row for row, why in enumerate(changes) if why == "reviews"]
        if self._drift is not None and rows:
            found = self._drift.reasons([inputs[row] for row in rows], earlier.take(rows))
            for row, reason in zip(rows, found, strict=True):
                changes[row] = reason
        return pa.array(changes, pa.string())

    def _columns(self, row: Input, text: Text) -> dict[str, Any]:
        columns = {name: getattr(row, name) for name in self._format.keys} | asdict(text)
        if isinstance(row, PairInput):
            columns["split"] = row.split
        return columns | ({"explanation": ""} if _is_low_rated(row) else {})

    def _content_key(self, row: Input) -> str:
        """Return the hashes of what a text depends on: without reviews, and with them."""
        profile: Any = row
        rest = row if isinstance(row, PairInput) else replace(profile, reviews=(), num_reviews=0)
        return "".join(
            hashlib.blake2b(
                f"{self._settings}\n{each!r}".encode("utf-8", errors="surrogatepass"), digest_size=8
            ).hexdigest()
            for each in (rest, row)
        )

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
        shown = row.shown[part::num_parts]
        is_item = isinstance(row, ItemInput)
        ids = tuple(each.user_id if is_item else each.item_id for each in shown)
        rest: Any = tuple(row.reviews[n] for n in range(num_reviews) if n % num_parts != part)
        parts.append((ids, replace(row, reviews=rest, num_reviews=row.num_reviews - len(ids))))
    return parts


def _left_out(
    parts: Sequence[Part], texts: Iterator[tuple[Text | Failure, int]]
) -> Iterator[dict[str, str]]:
    """Yield each ID and the profile written without that ID's review, "" if it failed."""
    for ids, _ in parts:
        profile = getattr(next(texts)[0], "profile", "")
        yield from ({"id": id_, "profile": profile} for id_ in ids)


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
                return Failure(SOLICITS, "every sentence is a solicitation", reply=value), 0
    return replace(text, **values), num_removed


def _titles(row: Input) -> list[str]:
    """Return the titles of the items that a text mentions."""
    if isinstance(row, ItemInput):
        return [row.title]
    items = [row.item] if isinstance(row, PairInput) else [each.item for each in row.reviews]
    return [item.title for item in items if item is not None]


def _is_low_rated(row: Input) -> bool:
    return isinstance(row, PairInput) and row.split == LOW_RATED
