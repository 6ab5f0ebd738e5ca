"""The protocol of an annotator: its inputs and texts, and what a run knows of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa

from xrec.bulk import Rate
from xrec.config import Split
from xrec.storage import Location
from xrec.text import ReplyStore

Stage = Literal["items", "users", "pairs"]
STAGES: tuple[Stage, ...] = ("items", "users", "pairs")
"""The kinds of texts. Items come first, because the other texts name and describe them."""
Sentiment = Literal["positive", "neutral", "negative"]
LOW_RATED: Literal["low_rated"] = "low_rated"
"""The split of a review below `min_rating`, of which only the aspects are kept."""


@dataclass(frozen=True)
class Review:
    """A user's review of an item, without personal data.

    summary: the heading, or empty. rating: in the source's scale. time: seconds since 1970.
    """

    user_id: str
    item_id: str
    review: str
    summary: str = ""
    rating: float | None = None
    time: float | None = None


@dataclass(frozen=True)
class ItemInput:
    """An item that needs a profile.

    title: the source's, or empty. details: what else the source knows, as text. reviews: some of
        its `num_reviews` training reviews, the most helpful and newest first.
    """

    item_id: str
    title: str
    details: str
    reviews: tuple[Review, ...]
    num_reviews: int


@dataclass(frozen=True)
class ItemText:
    """An item's title and profile; `title_is_made` if the title is the annotator's."""

    title: str
    profile: str
    title_is_made: bool = False


@dataclass(frozen=True)
class ReviewedItem:
    """A user's training review, and the item's text; None if that failed."""

    review: Review
    item: ItemText | None


@dataclass(frozen=True)
class UserInput:
    """A user who needs a profile.

    reviews: some of their `num_reviews` training reviews, the most helpful and newest first.
    """

    user_id: str
    reviews: tuple[ReviewedItem, ...]
    num_reviews: int


@dataclass(frozen=True)
class UserText:
    """A user's profile."""

    profile: str


@dataclass(frozen=True)
class PairInput:
    """A pair whose explanation is written from its own review.

    item: its text, from training reviews; None if that failed. split: the explanation of a held-out
        pair is a reference and trains nothing; of a low-rated one only the aspects are kept.
    """

    user_id: str
    item_id: str
    review: Review
    item: ItemText | None
    split: Split | Literal["low_rated"]


@dataclass(frozen=True)
class Aspect:
    """An aspect that a review mentions; `opinion` is a few words on it, or empty."""

    aspect: str
    opinion: str
    sentiment: Sentiment


@dataclass(frozen=True)
class PairText:
    """Why the user would enjoy the item, and the aspects that their review mentions.

    explanation: empty if the review gives no reason but mentions aspects; complaints count too.
    """

    explanation: str
    aspects: tuple[Aspect, ...]


@dataclass(frozen=True)
class Failure:
    """Why there is no text: one of `AnnotatorSpec.reasons`, and a message for readers.

    reply: what the annotator had written, or empty.
    """

    reason: str
    message: str
    reply: str = ""


Input = ItemInput | UserInput | PairInput
Text = ItemText | UserText | PairText


@dataclass(frozen=True)
class Written:
    """The text or failure of each row, in order, and what all of them cost, by name."""

    results: Sequence[Text | Failure]
    costs: Mapping[str, float] = field(default_factory=dict)


class Annotator(Protocol):
    """Writes texts; each actor makes one and keeps it, with its models in memory."""

    def write(self, rows: Sequence[Input]) -> Written:
        """Write the texts of a chunk's rows: an ItemText for an ItemInput, and so on.

        `AnnotatorSpec.chunks_at_once` threads call it at the same time. The caller removes personal
        data from rows and texts.
        """
        ...


@dataclass(frozen=True)
class Outlook:
    """What a run would write.

    counts: the number of texts. samples: some inputs. rates: measured, of stages that have started.
    """

    counts: Mapping[Stage, int]
    samples: Mapping[Stage, Sequence[Input]]
    rates: Mapping[Stage, Rate]


def _counts(outlook: Outlook) -> list[str]:
    return [f"{stage}: {count:,} texts" for stage, count in outlook.counts.items()]


@dataclass(frozen=True)
class AnnotatorSpec:
    """What a run knows of an annotator before any is made.

    settings: what texts depend on, as plain JSON. inputs: the fingerprints of models. Together they
        decide whether an output belongs to the same run.
    reasons: the reasons of its `Failure`s.
    make: makes one in an actor, to which it is sent; the argument is where `learn` wrote.
    learn: called in the driver, before the first stage, with a sample of the training reviews
        (schema REVIEWS); writes what actors read, the same if it is called again.
    learned: the fingerprint of what `learn` wrote, which texts depend on too.
    folds: the number of parts of a profile's reviews; a further profile is written without each of
        them, for training. None: each review is a part.
    gpus_per_actor: for an actor whose device is a GPU.
    max_actors: of a stage; None if there is no limit.
    replies: the replies that outlive a kill, and are deleted once all texts are published.
    describe: describes a run for --dry-run.
    """

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    reasons: tuple[str, ...]
    make: Callable[[Location], Annotator]
    learn: Callable[[pa.Table, Location], None] | None = None
    learned: Callable[[Location], str] | None = None
    folds: int | None = None
    chunks_at_once: int = 1
    gpus_per_actor: int = 0
    max_actors: int | None = None
    replies: Callable[[Location], ReplyStore] | None = None
    describe: Callable[[Outlook], list[str]] = _counts
