"""What an annotator gets, and what it gives back: typed rows of the three kinds of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from xrec.config.shared import Split

Sentiment = Literal["positive", "neutral", "negative"]
LOW_RATED: Literal["low_rated"] = "low_rated"
"""In place of the split: a review below `min_rating`, of which only the aspects are kept."""


@dataclass(frozen=True)
class Review:
    """What a user wrote about an item; personal data is removed from its texts already.

    summary: the heading, empty if the source has none.
    rating: in the source's own scale; time: seconds since 1970; None where the source has none.
    """

    user_id: str
    item_id: str
    review: str
    summary: str = ""
    rating: float | None = None
    time: float | None = None


@dataclass(frozen=True)
class ItemInput:
    """An item, of which a profile is to be written.

    title: the source's own, empty if it has none. details: what else the source knows, as text.
    reviews: a sample of its training reviews, the most helpful and newest first.
    num_reviews: of all its training reviews. Without any, the details are all that there is.
    """

    item_id: str
    title: str
    details: str
    reviews: tuple[Review, ...]
    num_reviews: int


@dataclass(frozen=True)
class ItemText:
    """An item as the texts name and describe it.

    title_is_made: whether the source has no title, and the annotator made this one.
    """

    title: str
    profile: str
    title_is_made: bool = False


@dataclass(frozen=True)
class ReviewedItem:
    """A training review of a user, and the item that it is about.

    item: as the stage before wrote it; None if it failed there.
    """

    review: Review
    item: ItemText | None


@dataclass(frozen=True)
class UserInput:
    """A user, of whom a profile is to be written.

    reviews: a sample of their training reviews, the most helpful and newest first.
    """

    user_id: str
    reviews: tuple[ReviewedItem, ...]
    num_reviews: int


@dataclass(frozen=True)
class UserText:
    """A user as the texts describe them."""

    profile: str


@dataclass(frozen=True)
class PairInput:
    """A pair, whose reason is to be found in its own review.

    item: as the stage of the items wrote it, from training reviews; None if it failed there.
    split: of a held-out pair the explanation is a reference only, and trains nothing; of a
        low-rated one only the aspects are kept.
    """

    user_id: str
    item_id: str
    review: Review
    item: ItemText | None
    split: Split | Literal["low_rated"]


@dataclass(frozen=True)
class Aspect:
    """An aspect of the item that a review speaks of, in the annotator's words.

    opinion: what the review says of it in a few words, such as "warm"; it may be empty.
    """

    aspect: str
    opinion: str
    sentiment: Sentiment


@dataclass(frozen=True)
class PairText:
    """Why the user would enjoy the item, and the aspects that their review speaks of.

    explanation: empty if the review gives no reason, but speaks of aspects. These count: a
        complaint tells as much of an item as praise.
    """

    explanation: str
    aspects: tuple[Aspect, ...]


@dataclass(frozen=True)
class Failure:
    """Why there is no text.

    reason: one of `AnnotatorSpec.reasons`. message: details for a reader.
    reply: what the annotator had written, as it was; empty if there is nothing.
    """

    reason: str
    message: str
    reply: str = ""


Input = ItemInput | UserInput | PairInput
TextT = TypeVar("TextT", ItemText, UserText, PairText)


@dataclass(frozen=True)
class Written(Generic[TextT]):
    """What became of some rows: for each, in their order, a text or why there is none.

    costs: what all of them cost, by name, such as tokens; the run adds the numbers up.
    """

    results: Sequence[TextT | Failure]
    costs: Mapping[str, float] = field(default_factory=dict)
