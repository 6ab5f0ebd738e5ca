"""`xrec recommend` and `xrec backfill`: pairs of users and items, and their explanations."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.llm import DecodingConfig, EngineConfig, LLMConfig
from xrec.config.shared import (
    ColdStartConfig,
    Device,
    JobConfig,
    RayConfig,
    Split,
    input_uri,
    output_uri,
)


class SplitPairs(Config):
    """The explained pairs of a split of the dataset."""

    kind: Literal["split"]
    split: Split = Field("test", description="The split.")
    max_pairs: int | None = Field(
        None,
        ge=1,
        description="Largest number of pairs, the first ones by user and item. If null, all "
        "are explained.",
    )


class TablePairs(Config):
    """A table of pairs with the columns user_id and item_id.

    It is one Parquet file, or a folder of them.
    """

    kind: Literal["table"]
    uri: str = Field(description="URI of the file or folder, local or s3://.")


class TopKPairs(Config):
    """The graph's best unseen items for users."""

    kind: Literal["top_k"]
    k: int = Field(10, ge=1, description="Number of items of each user.")
    user_ids: tuple[str, ...] | None = Field(None, description="The users. If null, all users.")


class RecommendedPairs(Config):
    """The pairs of a recommendations artifact (`xrec recommend`)."""

    kind: Literal["recommendations"]
    uri: str | None = Field(
        None, description="URI of the recommendations; if null, it is <workspace>/recommendations."
    )
    k: int | None = Field(
        None,
        ge=1,
        description="Number of items of each user, the best ones. If null, all that are there.",
    )


class ActorsConfig(Config):
    """The pool of processes that hold the language model."""

    num_actors: int = Field(
        2, ge=1, description="Number of actors; if min_actors is given, the largest number."
    )
    min_actors: int | None = Field(
        None,
        ge=1,
        description="Number of actors that the pool starts with. It grows as the cluster has "
        "room. If null, it is num_actors.",
    )
    cpus_per_actor: int = Field(
        1, ge=1, description="Torch threads, and logical CPUs, of each actor."
    )
    device: Device = Field(
        "auto",
        description="What each actor computes on. With auto, each actor has a GPU if the "
        "cluster has enough of them, else they use CPUs.",
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "ActorsConfig":
        if self.min_actors is not None and self.min_actors > self.num_actors:
            raise ValueError(
                f"min_actors must be at most num_actors = {self.num_actors}, saw {self.min_actors}"
            )
        return self


class BackfillConfig(JobConfig):
    """`xrec backfill`: pairs in, explanations out."""

    dataset: str | None = input_uri("dataset")
    graph: str | None = input_uri("graph")
    adapter: str | None = input_uri("adapter")
    explanations: str | None = output_uri("explanations")
    pairs: Annotated[
        SplitPairs | TablePairs | TopKPairs | RecommendedPairs, Field(discriminator="kind")
    ]
    cold_start: ColdStartConfig | None = Field(
        None, description="New users and items. If null, only the dataset's own are known."
    )
    rows_per_chunk: int = Field(
        1024,
        ge=1,
        description="Largest average number of pairs of a chunk, which is committed as a "
        "whole. A chunk of twice this number is cut into pieces.",
    )
    max_failed_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of failed rows among all rows above which the run stops.",
    )
    new_run: bool = Field(
        False,
        description="Whether to write to <explanations>-<run>, beside what is there. "
        "Otherwise a run with other settings than those of the output is refused.",
    )
    carry_from: str | None = Field(
        None,
        description="URI of an earlier finished backfill. Its explanations are taken over for "
        "those pairs whose texts, vectors, model and decoding are the same. If "
        "null, all are generated.",
    )
    retry_failed: str | None = Field(
        None,
        description="Which failed rows of this run are done again: all, or those of one "
        "reason. If null, they stay as they are.",
    )
    price_per_actor_hour: float | None = Field(
        None,
        ge=0,
        description="What an actor costs in an hour, in any currency, for the report. If "
        "null, the report has no cost.",
    )
    compact_mib: float = Field(
        128.0,
        gt=0,
        description="Size of the files that --compact makes, in MiB; the last one is smaller.",
    )
    garbage_hours: float = Field(
        24.0,
        ge=0,
        description="How long --clean keeps files that were replaced, in hours, for readers "
        "that opened them before.",
    )
    lease_seconds: float = Field(
        30.0,
        gt=0,
        description="Time without a sign of life, in seconds, after which a driver counts as "
        "dead and another one may go on.",
    )
    llm: LLMConfig = Field(description="The language model that the adapter was trained for.")
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig, description="How texts are drawn from the language model."
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="The generation engine of each actor."
    )
    actors: ActorsConfig = Field(
        default_factory=ActorsConfig, description="The processes that hold the language model."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="The Ray cluster.")


class RecommendConfig(JobConfig):
    """`xrec recommend`: dataset and graph in, each user's best unseen items out."""

    dataset: str | None = input_uri("dataset")
    graph: str | None = input_uri("graph")
    recommendations: str | None = output_uri("recommendations")
    k: int = Field(20, ge=1, description="Number of items of each user.")
    user_ids: tuple[str, ...] | None = Field(None, description="The users. If null, all users.")
    users_per_task: int = Field(
        8192,
        ge=1,
        description="Largest average number of users that an actor ranks at a time; what it "
        "found is committed as a whole. A run that goes on keeps the number that it began with.",
    )
    take_over: bool = Field(
        False,
        description="Whether to begin although another driver seems to be at work. That one can "
        "commit no more.",
    )
    cold_start: ColdStartConfig | None = Field(
        None, description="New users and items. If null, only the dataset's own are known."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="The Ray cluster.")
