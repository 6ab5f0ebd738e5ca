"""The three kinds of text as stages: from what each row is written, and what becomes of it.

Items come first, since users' profiles and the pairs' explanations name and describe them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import Annotator
from xrec.annotate.formats import EMPTY_REVIEW, NO_REVIEWS
from xrec.annotate.personal import remove_personal
from xrec.annotate.rows import (
    LOW_RATED,
    Aspect,
    Failure,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    Review,
    ReviewedItem,
    TextT,
    UserInput,
    UserText,
    Written,
)
from xrec.annotate.store import ReviewStore
from xrec.schemas import REVIEWS

InputT = TypeVar("InputT", ItemInput, UserInput, PairInput)


class TextStage(ABC, Generic[InputT, TextT]):
    """What `TextTask` needs of a stage."""

    @abstractmethod
    def inputs(self, rows: pa.Table) -> list[InputT]:
        """The input of each row (the columns of the stage's keys), in their order."""

    def refused(self, row: InputT) -> Failure | None:
        """Why nothing can be written of an input; None if the annotator is to be asked."""
        return None

    @abstractmethod
    def write(self, annotator: Annotator, rows: Sequence[InputT]) -> Written[TextT]:
        """What the annotator makes of them."""

    @abstractmethod
    def columns(self, row: InputT, text: TextT) -> dict[str, Any]:
        """The columns of a row that succeeded, without `content_key`."""

    def without_personal(self, text: TextT) -> tuple[TextT, int]:
        """The text without personal data, and how many places were removed."""
        words = {name: value for name, value in vars(text).items() if isinstance(value, str)}
        found = {name: remove_personal(value) for name, value in words.items()}
        cleaned: dict[str, Any] = {name: value for name, (value, _) in found.items()}
        return replace(text, **cleaned), sum(counts.total() for _, counts in found.values())


class ItemTexts:
    """The texts of the items, by id; those of the stage `items` that succeeded."""

    def __init__(self, table: pa.Table):
        self._ids = table["item_id"].combine_chunks()
        self._texts = table.select(["title", "profile", "title_is_made"])

    def of(self, item_ids: Sequence[str]) -> dict[str, ItemText]:
        """The texts of those of the items that have one."""
        wanted = pa.array(sorted(set(item_ids)), pa.string())
        places = pc.drop_null(pc.index_in(wanted, value_set=self._ids))
        rows = self._texts.take(places).to_pylist()
        names = self._ids.take(places).to_pylist()
        return {name: ItemText(**row) for name, row in zip(names, rows, strict=True)}


@dataclass(frozen=True)
class ItemStage(TextStage[ItemInput, ItemText]):
    """Titles and profiles of items."""

    store: ReviewStore
    max_reviews: int

    def inputs(self, rows: pa.Table) -> list[ItemInput]:
        """See TextStage."""
        ids = rows["item_id"].to_pylist()
        reviews = _by_id(self.store.of("training_by_item", ids), "item_id")
        items = self.store.items
        known = items.filter(pc.is_in(items["item_id"], value_set=pa.array(ids, pa.string())))
        details = {row["item_id"]: row for row in known.to_pylist()}
        return [self._input(id_, reviews.get(id_, []), details.get(id_, {})) for id_ in ids]

    def _input(
        self, id_: str, reviews: Sequence[Mapping[str, Any]], details: Mapping[str, str]
    ) -> ItemInput:
        chosen = tuple(_review(row) for row in reviews[: self.max_reviews])
        return ItemInput(
            id_, details.get("title", ""), details.get("details", ""), chosen, len(reviews)
        )

    def refused(self, row: ItemInput) -> Failure | None:
        """See TextStage."""
        if row.reviews or row.details:
            return None
        return Failure(NO_REVIEWS, "the item has no training review, and the source no details")

    def write(self, annotator: Annotator, rows: Sequence[ItemInput]) -> Written[ItemText]:
        """See TextStage."""
        return annotator.items(rows)

    def columns(self, row: ItemInput, text: ItemText) -> dict[str, Any]:
        """See TextStage."""
        return {"item_id": row.item_id, **vars(text)}


@dataclass(frozen=True)
class UserStage(TextStage[UserInput, UserText]):
    """Profiles of users."""

    store: ReviewStore
    max_reviews: int
    items: ItemTexts

    def inputs(self, rows: pa.Table) -> list[UserInput]:
        """See TextStage."""
        ids = rows["user_id"].to_pylist()
        found = self.store.of("training_by_user", ids)
        reviews = _by_id(found, "user_id")
        items = self.items.of(found["item_id"].to_pylist())
        inputs = []
        for id_ in ids:
            chosen = [_review(row) for row in reviews.get(id_, [])[: self.max_reviews]]
            reviewed = tuple(ReviewedItem(review, items.get(review.item_id)) for review in chosen)
            inputs.append(UserInput(id_, reviewed, len(reviews.get(id_, []))))
        return inputs

    def write(self, annotator: Annotator, rows: Sequence[UserInput]) -> Written[UserText]:
        """See TextStage."""
        return annotator.users(rows)

    def columns(self, row: UserInput, text: UserText) -> dict[str, Any]:
        """See TextStage."""
        return {"user_id": row.user_id, "profile": text.profile}


@dataclass(frozen=True)
class PairStage(TextStage[PairInput, PairText]):
    """Explanations of pairs, with their aspects."""

    store: ReviewStore
    items: ItemTexts

    def inputs(self, rows: pa.Table) -> list[PairInput]:
        """See TextStage."""
        users, items = rows["user_id"].to_pylist(), rows["item_id"].to_pylist()
        found = self.store.of("all_by_user", sorted(set(users))).to_pylist()
        reviews = {(row["user_id"], row["item_id"]): row for row in found}
        texts = self.items.of(items)
        return [
            PairInput(
                user,
                item,
                _review(reviews[user, item]),
                texts.get(item),
                reviews[user, item]["split"],
            )
            for user, item in zip(users, items, strict=True)
        ]

    def refused(self, row: PairInput) -> Failure | None:
        """See TextStage."""
        if row.review.review or row.review.summary:
            return None
        return Failure(EMPTY_REVIEW, "the review has no text")

    def write(self, annotator: Annotator, rows: Sequence[PairInput]) -> Written[PairText]:
        """See TextStage."""
        return annotator.pairs(rows)

    def columns(self, row: PairInput, text: PairText) -> dict[str, Any]:
        """See TextStage."""
        return {
            "user_id": row.user_id,
            "item_id": row.item_id,
            "split": row.split,
            "explanation": "" if row.split == LOW_RATED else text.explanation,
            "aspects": [vars(aspect) for aspect in text.aspects],
        }

    def without_personal(self, text: PairText) -> tuple[PairText, int]:
        """See TextStage."""
        text, num_removed = super().without_personal(text)
        aspects = []
        for aspect in text.aspects:
            name, in_name = remove_personal(aspect.aspect)
            opinion, in_opinion = remove_personal(aspect.opinion)
            num_removed += in_name.total() + in_opinion.total()
            if name:
                aspects.append(Aspect(name, opinion, aspect.sentiment))
        return replace(text, aspects=tuple(aspects)), num_removed


def _by_id(reviews: pa.Table, key: str) -> dict[str, list[dict[str, Any]]]:
    assert set(reviews["split"].unique().to_pylist()) <= {"train"}, "a held-out review is here"
    found: dict[str, list[dict[str, Any]]] = {}
    for row in reviews.to_pylist():
        found.setdefault(row[key], []).append(row)
    return found


_REVIEW_COLUMNS = tuple(name for name in REVIEWS.names if name not in ("split", "helpful"))


def _review(row: Mapping[str, Any]) -> Review:
    return Review(**{name: row[name] for name in _REVIEW_COLUMNS})
