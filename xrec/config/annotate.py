"""`xrec annotate`: reviews in; profiles of users and items, explanations and their aspects out."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.backfill import BulkConfig
from xrec.config.base import Config
from xrec.config.data import RawTablesJobConfig, SplitShares, TableColumns, TableFiles
from xrec.config.llm import LLMConfig
from xrec.config.text import LanguageModelConfig

REVIEW_COLUMNS: TableColumns = {
    "reviews": (
        *("user_id", "item_id", "review", "summary", "rating", "time", "helpful", "item_title"),
    ),
    "items": ("item_id", "title", "details"),
}
"""The columns of the tables of a `reviews` source."""


class ReviewsSource(TableFiles):
    """A table of reviews and perhaps one of items.

    Without the column `details`, all other columns of the items are joined. Without a table of
    items, the titles are those of the reviews' `item_title`, if there are any.
    """

    tables = REVIEW_COLUMNS
    joined = ("title", "details", "review")
    may_be_null = ("title", "details", "summary", "rating", "time", "helpful", "item_title")
    kind: Literal["reviews"]


class ReviewSplit(SplitShares):
    """Which reviews are held out; no text but their own reference is written from them."""

    by: Literal["time", "hash"] = "time"
    """With time, each user's last review is for the test and the one before for validation, of
    users with at least three; of equal times, the later row counts as later. With hash, a hash of
    user, item and seed decides; only then do the shares count."""


class PhrasesAnnotator(Config):
    """The annotator without a language model: a parser, counts, and a lexicon of sentiment.

    Aspects are nouns that many reviews speak of with an opinion. It knows English only.
    """

    kind: Literal["phrases"]
    min_reviews: int = Field(5, ge=1)
    """Least number of training reviews, of 20,000 at most, that an aspect must be in."""


class LanguageModelAnnotator(Config):
    """The annotator that asks a language model for each text.

    With an engine, each of actors.num_actors processes holds the model. An endpoint is asked from
    one process, so that its limits are kept.
    """

    kind: Literal["language_model"]
    model: LanguageModelConfig
    """The language model."""
    domain: str = "shop"
    """Which example the prompts show: shop, place or book, or one of your own prompts'."""
    language: str = Field("English", min_length=1)
    """The language of the texts, whatever the reviews': a name or an ISO 639-1 code. A text that is
    surely in another one has failed."""
    prompts: dict[Literal["item", "user", "pair"], str] = Field(default_factory=dict)
    """URIs of prompts of your own for items, users and explanations; docs/language-model.md tells
    how they look. The others are ours."""
    max_data_tokens: int = Field(1500, ge=64)
    """Largest number of tokens of a row's data in its prompt, of 0.3 a character; reviews are cut
    to it."""
    folds: int = Field(3, ge=0)
    """Number of parts into which the reviews of a user or an item are divided. One more profile is
    written without each part, so that training shows none that was made from the pair's own review.
    With 0 it does."""


class VocabularyConfig(Config):
    """How the aspects of all explanations become one vocabulary."""

    min_reviews: int = Field(2, ge=1)
    """Least number of training reviews that an aspect of the vocabulary is in."""
    add: tuple[str, ...] = ()
    """Aspects of your own, which count however few reviews have them."""
    drop: tuple[str, ...] = ()
    """Names that are no aspect."""
    synonyms: dict[str, str] = Field(default_factory=dict)
    """Aspects that are another one, e.g. {sound quality: sound}."""


class AnnotateConfig(BulkConfig, RawTablesJobConfig):
    """`xrec annotate`: reviews in, annotations out."""

    source: ReviewsSource
    """Where the reviews are."""
    min_rating: float | None = 4.0
    """Least rating of a review that is kept, in the source's own scale. Of those below, what they
    praise and blame counts when an item's aspects are chosen, and nothing else is made of them. If
    null, or the source has no ratings, all are kept."""
    rating_range: tuple[float, float] = (1.0, 5.0)
    """Least and greatest rating; a row with another one is rejected."""
    core: int = Field(1, ge=1)
    """Least number of reviews of each user and each item, of those that are rated highly enough.
    Others are left out, repeatedly, until all that are left have enough (the k-core)."""
    split: ReviewSplit = ReviewSplit()
    """Which reviews are held out."""
    annotator: Annotated[PhrasesAnnotator | LanguageModelAnnotator, Field(discriminator="kind")] = (
        PhrasesAnnotator(kind="phrases")
    )
    """Who writes the texts."""
    llm: LLMConfig | None = None
    """The language model of an annotator of kind language_model whose model is an engine and names
    none."""
    vocabulary: VocabularyConfig = VocabularyConfig()
    """How aspects become one vocabulary."""
    rows_per_chunk: int = Field(256, ge=1)
    """Largest number of texts of a chunk, which is done as a whole."""
    max_failed_share: float = Field(0.5, ge=0, le=1)
    """Share of failed texts among those of a stage above which the run stops."""
    carry_from: str | None = None
    """URI of earlier annotations. Their texts are taken over where annotator and inputs are the
    same. If null, all are written."""

    @model_validator(mode="after")
    def _rating_can_be_had(self) -> "AnnotateConfig":
        least, greatest = self.rating_range
        if least > greatest:
            raise ValueError(f"rating_range: the least must come first, saw {least}, {greatest}")
        if self.min_rating is not None and self.min_rating > greatest:
            raise ValueError(
                f"min_rating must be at most {greatest}, the greatest of rating_range, saw "
                f"{self.min_rating}"
            )
        return self
