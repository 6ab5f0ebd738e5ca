"""`xrec annotate`: reviews in; profiles of users and items, explanations, and aspects out."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.backfill import BulkConfig
from xrec.config.base import Config, Uri
from xrec.config.data import SplitShares, TableColumns, TableFiles
from xrec.config.job import SourceJobConfig
from xrec.config.llm import LanguageModelConfig

REVIEW_COLUMNS: TableColumns = {
    "reviews": (
        *("user_id", "item_id", "review", "summary", "rating", "time", "helpful", "item_title"),
    ),
    "items": ("item_id", "title", "details"),
}
"""The columns of each table of a source of reviews."""


class ReviewsSource(TableFiles):
    """A table of reviews, and optionally one of items.

    If the items have no column `details`, their other columns are joined into it. If there is no
    table of items, titles come from the reviews' column `item_title`, if it exists.
    """

    tables = REVIEW_COLUMNS
    joined = ("title", "details", "review")
    may_be_null = ("title", "details", "summary", "rating", "time", "helpful", "item_title")


class ReviewSplit(SplitShares):
    """Which reviews are held out. Each is used only to write the reference of its own pair."""

    by: Literal["time", "hash"] = "time"
    """time: for users with at least three reviews, the last one is for testing and the one before
    it for validation; if times are equal, the later row counts as later. hash: a hash of user,
    item, and seed assigns reviews according to the shares."""


class PhrasesAnnotator(Config):
    """The annotator without a language model: a parser, counts, and a sentiment lexicon.

    Aspects are nouns that many reviews mention with an opinion. English only.
    """

    kind: Literal["phrases"]


class LanguageModelAnnotator(Config):
    """The annotator that prompts a language model for each text.

    An engine runs the model in each of actors.num_processes processes. An endpoint is called from
    one process, so that its limits are respected.
    """

    kind: Literal["language_model"]
    model: LanguageModelConfig
    """The language model."""
    domain: str = "shop"
    """Which example the prompts show: shop, place, book, or one defined in your own prompts."""
    language: str = Field("English", min_length=1)
    """Language of the texts, whatever language the reviews are in: a name or an ISO 639-1 code. A
    text that is clearly in another language fails."""
    prompts: dict[Literal["item", "user", "pair"], Uri] = Field(default_factory=dict)
    """URIs of your own prompts for items, users, and explanations (docs/language-model.md); the
    built-in prompts are used for the rest."""
    max_data_tokens: int = Field(1500, ge=64)
    """Maximum number of tokens that a row's data takes in its prompt, estimated as 0.3 per
    character; reviews are cut to fit."""
    folds: int = Field(3, ge=0)
    """Number of parts into which the reviews of each user or item are split. For each part, another
    profile is written without it, so that no training prompt shows a profile made from the pair's
    own review. With 0, training prompts show such profiles."""
    drift: float = Field(0.2, ge=0, le=1)
    """How far the share of reviews that mention an aspect may move before a profile from
    `carry_from` is written again, for example from 0.3 to 0.5. It is written again in any case if a
    review that it was written from is gone or has changed. With 0, any new review counts; with
    folds 0, too."""


class VocabularyConfig(Config):
    """How the aspects of all explanations become one vocabulary."""

    min_reviews: int = Field(5, ge=1)
    """Minimum number of training reviews that mention an aspect (for phrases, out of at most
    20,000)."""
    add: tuple[str, ...] = ()
    """Aspects of your own, which are included even if few reviews mention them."""
    synonyms: dict[str, str | None] = Field(default_factory=dict)
    """Aspects to merge into another one, or into none, for example {sound quality: sound, thing:
    null}."""

    @property
    def dropped(self) -> list[str]:
        """The names that are no aspects."""
        return [name for name, other in self.synonyms.items() if other is None]


class AnnotateConfig(BulkConfig, SourceJobConfig):
    """`xrec annotate`: reviews in, annotations out."""

    source: ReviewsSource
    """Where the reviews are."""
    min_rating: float | None = 4.0
    """Minimum rating of the reviews to keep, on the source's own scale. Lower-rated reviews are
    only used when aspects are chosen, for what they praise and criticize. If null, or if there are
    no ratings, all are kept."""
    rating_range: tuple[float, float] = (1.0, 5.0)
    """Minimum and maximum rating; a row with a rating outside this range is rejected."""
    core: int = Field(1, ge=1)
    """Minimum number of kept reviews of each user and each item; users and items with fewer are
    removed until all that remain have enough (the k-core)."""
    split: ReviewSplit = ReviewSplit()
    """Which reviews are held out."""
    annotator: Annotated[PhrasesAnnotator | LanguageModelAnnotator, Field(discriminator="kind")] = (
        PhrasesAnnotator(kind="phrases")
    )
    """What writes the texts."""
    vocabulary: VocabularyConfig = VocabularyConfig()
    """How aspects become one vocabulary."""
    max_failed_share: float = Field(0.5, ge=0, le=1)
    """The run stops if more than this share of a stage's texts fail."""
    carry_from: Uri | None = None
    """URI of earlier annotations; their texts are reused if the annotator and the inputs are the
    same. If null, no texts are reused."""

    @model_validator(mode="after")
    def _minimum_rating_is_in_range(self) -> "AnnotateConfig":
        least, greatest = self.rating_range
        if least > greatest:
            raise ValueError(f"rating_range: expected the minimum first, saw {least}, {greatest}")
        if self.min_rating is not None and self.min_rating > greatest:
            raise ValueError(
                f"min_rating must be at most {greatest}, the maximum of rating_range, saw "
                f"{self.min_rating}"
            )
        return self
