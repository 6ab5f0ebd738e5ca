"""Who writes the texts: what an annotator gets and gives back, and what a run knows of one."""

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
"""The kinds of text; users' profiles and the pairs' explanations name and describe items."""
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
    """A training review of a user, and the item's text; None if that failed."""

    review: Review
    item: ItemText | None


@dataclass(frozen=True)
class UserInput:
    """A user, of whom a profile is to be written.

    reviews: a sample of their `num_reviews` training reviews, the most helpful and newest first.
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

    item: its text, from training reviews; None if that failed.
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
Text = ItemText | UserText | PairText


@dataclass(frozen=True)
class Written:
    """What became of some rows: for each, in their order, its text or why there is none.

    costs: what all of them cost, by name, such as tokens; the run adds the numbers up.
    """

    results: Sequence[Text | Failure]
    costs: Mapping[str, float] = field(default_factory=dict)


class Annotator(Protocol):
    """Writes texts; each actor makes one and keeps it, with its models in memory."""

    def write(self, rows: Sequence[Input]) -> Written:
        """The texts of a chunk's rows: an ItemText of an ItemInput, and so on.

        `AnnotatorSpec.chunks_at_once` threads call it at the same time. It need not look for
        personal data: it is out of the rows already, and is looked for in the texts afterwards.
        """
        ...


@dataclass(frozen=True)
class Outlook:
    """What a run would write.

    counts: of the texts of the stages items, users and pairs.
    samples: the inputs of some of them, by stage.
    rates: what was measured on the texts of stages that have begun.
    """

    counts: Mapping[Stage, int]
    samples: Mapping[Stage, Sequence[Input]]
    rates: Mapping[Stage, Rate]


def _counts(outlook: Outlook) -> list[str]:
    return [f"{stage}: {count:,} texts" for stage, count in outlook.counts.items()]


@dataclass(frozen=True)
class AnnotatorSpec:
    """What the driver knows of an annotator, before any is made.

    settings: what the texts depend on, as plain JSON: settings, hashes of prompts. inputs: the
        fingerprints of models. Together they decide whether an output is of the same run.
    reasons: the reasons of `Failure` that it may give.
    make: makes one, in an actor, to which it is sent; its argument is where `learn` wrote.
    learn: called in the driver, before the first stage, with a sample of the training reviews
        (schema REVIEWS); writes what actors are to read below `output`. It must write the same if
        it is called twice.
    learned: a fingerprint of what `learn` wrote, which texts depend on too; None if it writes
        nothing. Texts of earlier annotations are carried only if it is the same there.
    folds: into how many parts the reviews of a profile are divided; without each of these a further
        profile is written, for training. None: each review is a part of its own.
    gpus_per_actor: for an actor whose device is a GPU.
    max_actors: most actors of a stage; None if there is no limit.
    replies: the replies below `output` that outlive a kill, and are deleted once all texts are
        published; its failures are forgotten before failed texts are written again.
    describe: lines for a reader that say what a run would do, for --dry-run.
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
