"""`xrec annotate`: reviews in; profiles of users and items, explanations, and aspects out."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.backfill import BulkConfig
from xrec.config.base import Config, Uri
from xrec.config.data import SplitShares, TableColumns, TableFiles
from xrec.config.job import SourceJobConfig
from xrec.config.llm import LanguageModelConfig, LLMConfig

REVIEW_COLUMNS: TableColumns = {
    "reviews": (
        *("user_id", "item_id", "review", "summary", "rating", "time", "helpful", "item_title"),
    ),
    "items": ("item_id", "title", "details"),
}
"""The columns of the tables of a `reviews` source."""


class ReviewsSource(TableFiles):
    """A table of reviews, and optionally one of items.

    Without the column `details`, all other columns of the items are joined. Without a table of
    items, titles come from the reviews' `item_title`, if there are any.
    """

    tables = REVIEW_COLUMNS
    joined = ("title", "details", "review")
    may_be_null = ("title", "details", "summary", "rating", "time", "helpful", "item_title")
    kind: Literal["reviews"]


class ReviewSplit(SplitShares):
    """Which reviews are held out; only their own reference is written from them."""

    by: Literal["time", "hash"] = "time"
    """time: each user's last review is for the test and the one before for validation, of users
    with at least three; of equal times, the later row counts as later. hash: a hash of user, item,
    and seed decides, with the shares."""


class PhrasesAnnotator(Config):
    """The annotator without a language model: a parser, counts, and a sentiment lexicon.

    Aspects are nouns that many reviews mention with an opinion. English only.
    """

    kind: Literal["phrases"]
    min_reviews: int = Field(5, ge=1)
    """Minimum number of training reviews, of at most 20,000, that mention an aspect."""


class LanguageModelAnnotator(Config):
    """The annotator that asks a language model for each text.

    With an engine, each of actors.num_processes processes holds the model. An endpoint is asked
    from one process, so that its limits are kept.
    """

    kind: Literal["language_model"]
    model: LanguageModelConfig
    """The language model."""
    domain: str = "shop"
    """The example that the prompts show: shop, place, or book, or one of your own prompts'."""
    language: str = Field("English", min_length=1)
    """Language of the texts, whatever the reviews': a name or an ISO 639-1 code. A text that is
    clearly in another language fails."""
    prompts: dict[Literal["item", "user", "pair"], Uri] = Field(default_factory=dict)
    """URIs of your own prompts for items, users, and explanations (docs/language-model.md); the
    others are ours."""
    max_data_tokens: int = Field(1500, ge=64)
    """Maximum number of tokens of a row's data in its prompt, at 0.3 per character; reviews are cut
    to fit."""
    folds: int = Field(3, ge=0)
    """Number of parts of the reviews of each user or item. One more profile is written without each
    part, so that training shows none that was made from the pair's own review. With 0 it does."""


class VocabularyConfig(Config):
    """How the aspects of all explanations become one vocabulary."""

    min_reviews: int = Field(2, ge=1)
    """Minimum number of training reviews that mention an aspect."""
    add: tuple[str, ...] = ()
    """Aspects of your own, which count however few reviews have them."""
    drop: tuple[str, ...] = ()
    """Names that are not aspects."""
    synonyms: dict[str, str] = Field(default_factory=dict)
    """Aspects that are the same as another one, for example {sound quality: sound}."""


class AnnotateConfig(BulkConfig, SourceJobConfig):
    """`xrec annotate`: reviews in, annotations out."""

    source: ReviewsSource
    """Where the reviews are."""
    min_rating: float | None = 4.0
    """Minimum rating of a review that is kept, on the source's own scale. What lower ones praise
    and blame counts when aspects are chosen, and nothing else is made from them. If null, or
    without ratings, all are kept."""
    rating_range: tuple[float, float] = (1.0, 5.0)
    """Minimum and maximum rating; a row with another one is rejected."""
    core: int = Field(1, ge=1)
    """Minimum number of kept reviews of each user and each item; others are removed until all have
    enough (the k-core)."""
    split: ReviewSplit = ReviewSplit()
    """Which reviews are held out."""
    annotator: Annotated[PhrasesAnnotator | LanguageModelAnnotator, Field(discriminator="kind")] = (
        PhrasesAnnotator(kind="phrases")
    )
    """Who writes the texts."""
    llm: LLMConfig | None = None
    """The language model of an annotator whose model is an engine without one."""
    vocabulary: VocabularyConfig = VocabularyConfig()
    """How aspects become one vocabulary."""
    max_failed_share: float = Field(0.5, ge=0, le=1)
    """Share of failed texts among those of a stage above which the run stops."""
    carry_from: Uri | None = None
    """URI of earlier annotations, whose texts are reused where annotator and inputs are the same.
    If null, all are written."""

    @model_validator(mode="after")
    def _minimum_rating_is_in_range(self) -> "AnnotateConfig":
        least, greatest = self.rating_range
        if least > greatest:
            raise ValueError(f"rating_range: the minimum comes first, saw {least}, {greatest}")
        if self.min_rating is not None and self.min_rating > greatest:
            raise ValueError(
                f"min_rating must be at most {greatest}, the maximum of rating_range, saw "
                f"{self.min_rating}"
            )
        return self
