"""`xrec recommend` and `xrec backfill`: pairs of users and items, and their explanations."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config
from xrec.config.decoding import TextFailure
from xrec.config.llm import PromptFailure
from xrec.config.shared import (
    Device,
    ExplanationsJobConfig,
    GraphJobConfig,
    RayJobConfig,
    Split,
    artifact_uri,
)
from xrec.config.text import LanguageModelConfig


class SplitPairs(Config):
    """The explained pairs of a split of the dataset."""

    kind: Literal["split"]
    split: Split = "test"
    """The split."""
    max_pairs: int | None = Field(None, ge=1)
    """Largest number of pairs, the first by user and item; null: all."""


class TablePairs(Config):
    """A Parquet file, or a folder of some, with the columns user_id and item_id."""

    kind: Literal["table"]
    uri: str
    """URI of the file or folder, local or s3://."""


class RecommendedPairs(Config):
    """The pairs of a recommendations artifact (`xrec recommend`)."""

    kind: Literal["recommendations"]
    uri: str | None = artifact_uri("recommendations")
    k: int | None = Field(None, ge=1)
    """Number of each user's best items; null: all."""


_Spent = Literal["seconds", "gpu_hours", "tokens", "money"]
_Priced = Literal[
    "cpu_hour",
    "gpu_hour",
    "million_prompt_tokens",
    "million_reply_tokens",
    "million_store_requests",
]


class ActorsConfig(Config):
    """The pool of processes that hold the language model."""

    num_actors: int = Field(2, ge=1)
    """Largest number of actors."""
    min_actors: int | None = Field(None, ge=1)
    """Number to which the pool shrinks when idle. If null, num_actors."""
    cpus_per_actor: int = Field(1, ge=1)
    """Logical CPUs, and torch threads, of each."""
    device: Device = "auto"
    """What each computes on; auto is a GPU each if there are enough."""


class BulkConfig(RayJobConfig):
    """A bulk job that writes texts."""

    limit: int | None = Field(None, ge=1)
    """Number of texts, including those of earlier starts, after which the run ends unpublished; the
    next start goes on. A run that was planned without a limit does whole chunks. If null, all are
    written."""
    retry_failed: tuple[str, ...] | None = None
    """Which failed texts of this run are written again: all, a reason, or a list of reasons. If
    null, none."""
    budget: Mapping[_Spent, Annotated[float, Field(gt=0)]] = {}
    """What is spent before no further chunk begins, e.g. {seconds: 14400, money: 20}: seconds of
    this start; gpu_hours (actors x GPUs of each x time), tokens of prompts and texts, and money by
    `prices`, of all starts. In a refresh, all of it of the whole night. What is done stays, and a
    later start goes on, or one with more."""
    prices: Mapping[_Priced, Annotated[float, Field(ge=0)]] = {}
    """What is paid for, in any currency, e.g. {gpu_hour: 2.5, million_store_requests: 5}. Costs are
    then told in money too."""
    max_failed_share: float = Field(0.05, ge=0, le=1)
    """Share of failed texts above which the run stops; abstained ones do not count."""
    actors: ActorsConfig = ActorsConfig()

    @field_validator("retry_failed", mode="before")
    @classmethod
    def _one_reason_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _retry_has_no_limit_and_money_has_prices(self) -> Self:
        if "money" in self.budget and not any(self.prices.values()):
            prices = dict(self.prices) or "none"
            seen = f"budget.money = {self.budget['money']:g} and prices {prices}"
            raise ValueError(f"{seen}: expected a price, such as prices={{gpu_hour: 2.5}}")
        if self.limit is not None and self.retry_failed is not None:
            seen = f"limit = {self.limit} and retry_failed"
            raise ValueError(f"{seen}: expected one of them, as a retry has no limit")
        return self


FailureReason = Literal["unknown_user", "unknown_item", PromptFailure, TextFailure, "engine_error"]
"""Why a pair has no explanation."""


GATE: Mapping[str, float | None] = {
    "kept": 0.7,
    "coverage": 0.6,
    "plain": 0.7,
    "refused": 0.85,
    "unsupported": 0.75,
    "named": 0.6,
    "commonest": 0.5,
    "length": 0.5,
    "distinct": 0.5,
    "aspects": 0.5,
    "rewritten": 0.3,
    "own_item": 0.6,
    "own_user": None,
    "own_profile": 0.85,
    "own_vector": 0.75,
    "judged": 0.9,
}
"""The bounds of the gate that a config does not name."""


class BackfillConfig(BulkConfig, ExplanationsJobConfig):
    """`xrec backfill`: pairs in, explanations out."""

    pairs: Annotated[SplitPairs | TablePairs | RecommendedPairs, Field(discriminator="kind")]
    """Which pairs are explained."""
    rows_per_chunk: int | None = Field(None, ge=1)
    """Largest number of pairs that an actor does at a time. If null, about half a minute's work."""
    carry_from: str | None = "published"
    """Where explanations are taken over from whose inputs are the same: published (by this output),
    or the URI of another output. If null, all are generated."""
    gate: Mapping[str, Annotated[float, Field(ge=0, le=1)] | None] | None = GATE
    """Bounds of what is published, by figure (docs/night.md); those that are not named have their
    defaults, and null is none. If null, all that is done is published."""
    judge: LanguageModelConfig | None = None
    """A language model that scores a hundred texts and the published ones of the same pairs, for
    the gate's figure `judged`. If null, that is not known."""
    retry_failed: tuple[Literal["all", FailureReason], ...] | None = None
    """Which failed rows of this run are done again: all, a reason, or a list of reasons. If null,
    none."""
    vacuum_hours: float | None = Field(None, ge=1)
    """Files that no version of the last so many hours needs are deleted after publishing (Delta's
    VACUUM); 168 is usual. If null, none are."""

    @field_validator("gate", mode="before")
    @classmethod
    def _others_have_defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if unknown := sorted(value.keys() - GATE.keys()):
            raise ValueError(f"unknown figures {unknown}; expected some of {', '.join(GATE)}")
        return {**GATE, **value}


class RecommendConfig(RayJobConfig, GraphJobConfig):
    """`xrec recommend`: dataset and graph in, each user's best unseen items out."""

    recommendations: str | None = artifact_uri("recommendations")
    k: int = Field(20, ge=1)
    """Number of items of each user."""
    user_ids: tuple[str, ...] | None = None
    """The users. If null, all users."""
    index: Literal["exact", "hnsw"] = "exact"
    """exact: each user's scores of all items. hnsw: those of the items that an index finds, for
    catalogues of millions (docs/graph.md); the manifest says how many of the best it found. It
    needs faiss."""
