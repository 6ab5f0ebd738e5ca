"""`xrec recommend` and `xrec backfill`: pairs of users and items, and their explanations."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from xrec.config.base import Config, Uri, merged, with_defaults
from xrec.config.job import ActorsJobConfig, RayJobConfig, Split
from xrec.config.llm import (
    EndpointConfig,
    EndpointModelConfig,
    EngineConfig,
    LLMConfig,
    LLMJobConfig,
)
from xrec.config.texts import DecodingConfig, PromptJobConfig


class SplitPairs(Config):
    """The explained pairs of a split of the dataset."""

    kind: Literal["split"]
    split: Split = "test"
    """The split."""


class TablePairs(Config):
    """A Parquet file, or a folder of them, with the columns user_id and item_id.

    It may also have the columns rank and score, from another recommender, which are published too.
    """

    kind: Literal["table"]
    uri: Uri
    """URI of the file or folder, local or s3://."""


class RecommendedPairs(Config):
    """The pairs of the project's recommendations (`xrec recommend`)."""

    kind: Literal["recommendations"]


_Spent = Literal["seconds", "gpu_hours", "tokens", "money"]
_Priced = Literal[
    "cpu_hour",
    "gpu_hour",
    "million_prompt_tokens",
    "million_reply_tokens",
    "million_store_requests",
]


class PricesConfig(Config):
    """What a job's work costs."""

    prices: Mapping[_Priced, Annotated[float, Field(ge=0)]] = {}
    """Prices in any currency, for example {gpu_hour: 2.5, million_store_requests: 5}; with them,
    costs are also reported in money."""


class BulkConfig(ActorsJobConfig, PricesConfig):
    """A bulk job that writes texts."""

    limit: int | None = Field(None, ge=1)
    """Number of texts, including those of earlier runs of the command, after which the run stops
    without publishing; the next one continues. A run that was planned without a limit finishes
    whole chunks. If null, all texts are written."""
    retry_failed: tuple[str, ...] | None = None
    """Failed texts of this run to write again: all, a reason, or a list of reasons. If null, none.
    """
    budget: Mapping[_Spent, Annotated[float, Field(gt=0)]] = {}
    """Once this is exceeded, no new chunk starts, for example {seconds: 14400, money: 20}. Seconds
    count this start only; gpu_hours (actors x GPUs per actor x time), tokens of prompts and texts,
    and money by `prices` count all starts. In a night, all jobs share the budget. Finished chunks
    are kept; start again, if needed with a larger budget, to continue. In annotate, the limit on
    tokens can also end a chunk between two prompts."""
    max_failed_share: float = Field(0.05, ge=0, le=1)
    """The run stops if more than this share of the texts fail; abstained ones do not count."""
    rows_per_chunk: int | None = Field(None, ge=1)
    """Maximum number of texts that an actor writes at a time. If null, about half a minute's work
    in a backfill, and 256 in annotate."""

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
            raise ValueError(f"{seen}: expected only one, as a retry has no limit")
        return self


_Limit = Annotated[float, Field(ge=0, le=1)]
GATE: Mapping[str, float | None] = {
    "kept": 0.7,
    "rows": 0.7,
    "users": 0.7,
    "items": 0.5,
    "pairs": 0.3,
    "pairs_trained": 0.05,
    "frequent": 0.5,
    "catalogue": 0.0,
    "recall": 0.7,
    "coverage": 0.6,
    "plain": 0.7,
    "refused": 0.85,
    "unsupported": 0.75,
    "named": 0.6,
    "claims": 0.5,
    "commonest": 0.5,
    "length": 0.5,
    "distinct": 0.5,
    "aspects": 0.5,
    "rewritten": 0.3,
    "own_item": 0.6,
    "own_user": None,
    "own_profile": 0.85,
    "own_vector": 0.75,
}
"""The gate's default limits, for the figures that a config does not name."""


class TextsJobConfig(LLMJobConfig):
    """A job that generates texts. Texts of different jobs are comparable if `decoding` is equal."""

    decoding: DecodingConfig = DecodingConfig()
    engine: EngineConfig = EngineConfig()


def _engine_or_endpoint(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return "endpoint" if kind == "endpoint" else "engine"


EngineOrEndpoint = Annotated[
    Annotated[EngineConfig, Tag("engine")] | Annotated[EndpointConfig, Tag("endpoint")],
    Discriminator(_engine_or_endpoint),
]
Writer = Literal["adapter", "words", "endpoint", "sentences"]


class ExplanationsJobConfig(TextsJobConfig, PromptJobConfig):
    """A job that reads or writes explanations and generates some of them.

    A language model writes with the adapter, or from words alone (adapter: null), or behind an
    endpoint (engine.kind: endpoint), which needs no llm.
    """

    llm: LLMConfig | None  # type: ignore[assignment]
    adapter: Literal["trained"] | None = "trained"
    """trained: the project's adapter brings the vectors into the language model, with the prompt it
    was trained with. If null, the model writes from words alone, with the prompt in `prompt`."""
    engine: EngineOrEndpoint = EngineConfig()  # type: ignore[assignment]

    @model_validator(mode="before")
    @classmethod
    def _endpoint_needs_no_model_and_an_engine_has_defaults(cls, values: Any) -> Any:
        engine = values.get("engine") if isinstance(values, Mapping) else None
        if _engine_or_endpoint(engine) == "endpoint":
            return {**values, "llm": None, "adapter": None}
        if isinstance(engine, Mapping):
            default = cls.model_fields["engine"].default.model_dump(exclude_unset=True)
            return {**values, "engine": merged(default, engine)}
        return values

    @property
    def writer(self) -> Writer:
        """What writes the texts: the model with its adapter, from words, an endpoint, or none."""
        if isinstance(self.engine, EndpointConfig):
            return "endpoint"
        if self.llm is None:
            return "sentences"
        return "words" if self.adapter is None else "adapter"

    @property
    def gpus_per_process(self) -> int:
        """The number of GPUs that share the model in one process."""
        return 0 if isinstance(self.engine, EndpointConfig) else self.engine.num_gpus

    @property
    def texts_at_once(self) -> int:
        """Maximum number of texts that a process writes at a time."""
        engine = self.engine
        return engine.concurrency if isinstance(engine, EndpointConfig) else engine.max_rows


class BackfillConfig(BulkConfig, ExplanationsJobConfig):
    """`xrec backfill`: pairs in, explanations out.

    Without a language model (llm: null in this section), the explanations are sentences about what
    people did, as the recommendations have it as evidence.
    """

    pairs: Annotated[SplitPairs | TablePairs | RecommendedPairs, Field(discriminator="kind")] = (
        RecommendedPairs(kind="recommendations")
    )
    """The pairs to explain."""
    texts_per_user: float | None = Field(None, ge=0)
    """Number of each user's pairs whose text the language model writes, from the best rank on; with
    0.4, the first pair of two in five users, drawn by a hash. The others get the plain sentence of
    their evidence, or abstain. Pairs without a rank count as the best. If null, it writes all."""
    carry_from: Literal["published"] | Uri | None = "published"
    """Where to take unchanged explanations from: published (what this output has published, and its
    unpublished runs since, unless their gate refused their texts), the URI of another output, or
    that of a run, OUTPUT/_xrec/runs/RUN. If null, all are generated."""
    gate: Annotated[Mapping[str, _Limit | None] | None, with_defaults(GATE)] = GATE
    """Limits that a run must meet to be published, by figure (docs/night.md). Limits that are not
    given keep their defaults; a limit of null is off. Without a gate (null), every finished run is
    published."""
    judge: EndpointModelConfig | None = None
    """Language model that lists the claims of 100 texts for the gate's figure claims, within the
    budget. If null, the figure is not computed."""
    vacuum_hours: float | None = Field(168, ge=1)
    """After publishing, files that no version of the last vacuum_hours hours needs are deleted
    (Delta's VACUUM), and after a night the folders of nights that none of these versions was made
    from. If null, nothing is deleted."""

    @property
    def num_processes(self) -> int:
        """Maximum number of actors; only one process can keep an endpoint's limits."""
        return 1 if self.writer == "endpoint" else self.actors.num_processes


class EligibleItems(Config):
    """Which items may be recommended, and to whom, for example by stock, region, or age group."""

    items: Uri
    """URI of a Parquet or CSV file with the column item_id; only these items are recommended."""
    users: Uri | None = None
    """URI of a Parquet or CSV file with user_id and other columns, for example region and
    age_group, which `items` must have too: a row of `items` applies to users with the same values,
    and an empty cell matches all users. An item may have several rows. If null, any of these items
    may be recommended to any user."""


class RecommendConfig(RayJobConfig):
    """`xrec recommend`: dataset, graph and neighbors in, each user's best new items out."""

    k: int = Field(20, ge=1)
    """Number of items per user."""
    eligible: EligibleItems | None = None
    """Which items may be recommended. If null, all that the user has neither interacted with
    nor disliked."""
    index: Literal["exact", "hnsw"] = "exact"
    """exact: all items are scored. hnsw: only the items that an index finds are scored, for
    catalogs with millions of items (docs/graph.md); it needs faiss, and the manifest has the share
    of the best items that the index found."""
    unnamed: Uri | None = None
    """URI of a Parquet or CSV file with the column item_id: items that no reason names, for example
    gifts or medicine. If null, a reason may name any item."""
    categories: Uri | None = None
    """URI of a Parquet or CSV file with the columns item_id and category: words that complete
    "because you like ...", for example "Italian places" or "books by Ali Smith". If null, no reason
    names a category."""
    keeps: Uri | None = None
    """URI of earlier recommendations: a pair keeps its supporting item while it qualifies. A night
    sets it."""
