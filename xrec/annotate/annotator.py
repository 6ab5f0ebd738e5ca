"""The protocol of an annotator, its inputs and texts, and its spec."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import pyarrow as pa

from xrec.config import Split
from xrec.errors import Failure
from xrec.storage import Location

Kind = Literal["item", "user", "pair"]
Stage = Literal["items", "users", "pairs"]
STAGES: tuple[Stage, ...] = ("items", "users", "pairs")
"""The kinds of texts. Items come first because the other texts refer to theirs."""
Sentiment = Literal["positive", "neutral", "negative"]


@dataclass(frozen=True)
class Review:
    """A user's review of an item, without personal data.

    summary: the heading, or empty. rating: on the source's scale. time: see `parse_time`.
    """

    user_id: str
    item_id: str
    review: str
    summary: str = ""
    rating: float | None = None
    time: float | None = None

    @property
    def text(self) -> str:
        """The review with its heading."""
        return joined_text(self.summary, self.review)


def joined_text(summary: str, review: str) -> str:
    """Return a review with its heading as the first sentence."""
    return f"{summary}. {review}" if summary else review


@dataclass(frozen=True)
class ItemInput:
    """An item that needs a profile.

    title: the title in the source, or empty. details: other information in the source, as text.
    reviews: some of its `num_reviews` training reviews, the most helpful and newest first.
    """

    kind: ClassVar[Kind] = "item"
    item_id: str
    title: str
    details: str
    reviews: tuple[Review, ...]
    num_reviews: int

    @property
    def shown(self) -> tuple[Review, ...]:
        """The reviews to write from."""
        return self.reviews


@dataclass(frozen=True)
class ItemText:
    """An item's title and profile; `title_is_made` is true if the annotator made the title."""

    title: str
    profile: str
    title_is_made: bool = False


@dataclass(frozen=True)
class ReviewedItem:
    """A user's training review, and the text of its item, or None if that failed."""

    review: Review
    item: ItemText | None


@dataclass(frozen=True)
class UserInput:
    """A user who needs a profile.

    reviews: some of their `num_reviews` training reviews, the most helpful and newest first.
    """

    kind: ClassVar[Kind] = "user"
    user_id: str
    reviews: tuple[ReviewedItem, ...]
    num_reviews: int

    @property
    def shown(self) -> tuple[Review, ...]:
        """The reviews to write from."""
        return tuple(each.review for each in self.reviews)


@dataclass(frozen=True)
class UserText:
    """A user's profile."""

    profile: str


@dataclass(frozen=True)
class PairInput:
    """A user and an item; their explanation is written from the user's review of the item.

    item: the item's text, from training reviews, or None if that failed. split: a held-out pair's
        explanation is only a reference; a low-rated pair keeps its aspects, but no explanation.
    """

    kind: ClassVar[Kind] = "pair"
    user_id: str
    item_id: str
    review: Review
    item: ItemText | None
    split: Split | Literal["low_rated"]

    @property
    def shown(self) -> tuple[Review, ...]:
        """The review to write from."""
        return (self.review,)


@dataclass(frozen=True)
class Aspect:
    """An aspect that a review mentions; `opinion` is a few words about it, or empty."""

    aspect: str
    opinion: str
    sentiment: Sentiment


@dataclass(frozen=True)
class PairText:
    """Why the user would enjoy the item, and the aspects that their review mentions.

    explanation: empty if the review gives no reason. aspects: praised and criticized ones.
    """

    explanation: str
    aspects: tuple[Aspect, ...]


Input = ItemInput | UserInput | PairInput
Text = ItemText | UserText | PairText


@dataclass(frozen=True)
class Written:
    """The text or failure of each row, in order, and their total costs, by name."""

    results: Sequence[Text | Failure]
    costs: Mapping[str, float] = field(default_factory=dict)


class Annotator(Protocol):
    """A writer of texts; each actor creates one and keeps it in memory, with its models."""

    def write(self, rows: Sequence[Input]) -> Written:
        """Write the texts of a chunk's rows: an ItemText for an ItemInput, and so on.

        Up to `AnnotatorSpec.chunks_at_once` threads call this at the same time. The caller removes
        personal data from rows and texts.
        """
        ...


@dataclass(frozen=True)
class Outlook:
    """What a run would write: the number of texts, and some inputs, of each stage."""

    counts: Mapping[Stage, int]
    samples: Mapping[Stage, Sequence[Input]]


@dataclass(frozen=True)
class AnnotatorSpec:
    """What a run knows about an annotator before it creates one.

    settings: the settings that texts depend on, as plain JSON. inputs: the fingerprints of models.
        Together they decide whether an output belongs to the same run.
    reasons: the possible reasons of its `Failure`s.
    make: sent to an actor, where it creates an annotator; its arguments are where `learn` wrote,
        and how often failed texts have been retried.
    learn: called in the driver, before the first stage, with a sample of the training reviews
        (schema REVIEWS) and a folder; writes what actors read, always the same.
    learned: returns the fingerprint of what `learn` wrote, on which texts depend too.
    folds: the number of parts to divide a profile's reviews into; for training, one extra profile
        is written per part, with that part left out. None: each review is a part.
    drift: how far shares of aspects may move before an earlier profile is written again.
    gpus_per_actor: the number of GPUs of an actor, if its device is a GPU.
    max_actors: the maximum number of actors in a stage, or None if there is no limit.
    describe: returns the lines that --dry-run prints about a run.
    """

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    reasons: tuple[str, ...]
    make: Callable[[Location, int], Annotator]
    learn: Callable[[pa.Table, Location], None] | None = None
    learned: Callable[[Location], str] | None = None
    folds: int | None = None
    drift: float = 0
    chunks_at_once: int = 1
    gpus_per_actor: int = 0
    max_actors: int | None = None
    describe: Callable[[Outlook], list[str]] = lambda outlook: [
        f"{stage}: {count:,} texts" for stage, count in outlook.counts.items()
    ]
