"""`xrec recommend` and `xrec backfill`: pairs of users and items, and their explanations in bulk."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.llm import DecodingConfig, EngineConfig, LLMConfig
from xrec.config.shared import ColdStartConfig, Device, JobConfig, RayConfig, Split


class SplitPairs(Config):
    """The explained pairs of a split of the dataset."""

    kind: Literal["split"]
    split: Split = Field("test", description="Which split.")
    max_pairs: int | None = Field(
        None, ge=1, description="The first so many pairs, by user and item; none: all."
    )


class TablePairs(Config):
    """A table of pairs: columns user_id and item_id, one Parquet file or a folder of them."""

    kind: Literal["table"]
    uri: str = Field(description="File or folder, local or s3://.")


class TopKPairs(Config):
    """The graph's best unseen items for users."""

    kind: Literal["top_k"]
    k: int = Field(10, ge=1, description="Items of each user.")
    user_ids: tuple[str, ...] | None = Field(None, description="Which users; none: all.")


class RecommendedPairs(Config):
    """The pairs of a recommendations artifact (`xrec recommend`)."""

    kind: Literal["recommendations"]
    uri: str | None = Field(None, description="The artifact; none: <workspace>/recommendations.")
    k: int | None = Field(
        None, ge=1, description="The first so many of each user; none: all that are there."
    )


class ActorsConfig(Config):
    """The pool of processes that hold the language model."""

    num_actors: int = Field(2, ge=1, description="Actors; with min_actors the most of them.")
    min_actors: int | None = Field(
        None,
        ge=1,
        description="The pool starts with so many and grows as the cluster has room; none: num_actors.",
    )
    cpus_per_actor: int = Field(
        1, ge=1, description="Torch threads, and logical CPUs, of each actor."
    )
    device: Device = Field(
        "auto", description="auto: a GPU an actor where the cluster has enough, else CPU."
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "ActorsConfig":
        if self.min_actors is not None and self.min_actors > self.num_actors:
            raise ValueError(
                f"min_actors must be at most num_actors = {self.num_actors}, saw {self.min_actors}"
            )
        return self


class BackfillConfig(JobConfig):
    """`xrec backfill`: pairs in, explanations artifact out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Input URI; none: <workspace>/graph.")
    adapter: str | None = Field(None, description="Input URI; none: <workspace>/adapter.")
    explanations: str | None = Field(
        None, description="Output URI; none: <workspace>/explanations."
    )
    pairs: Annotated[
        SplitPairs | TablePairs | TopKPairs | RecommendedPairs, Field(discriminator="kind")
    ]
    cold_start: ColdStartConfig | None = Field(
        None, description="New users and items; none: only the dataset's own are known."
    )
    rows_per_chunk: int = Field(
        1024,
        ge=1,
        description="Pairs of a chunk, which is committed as a whole: at most so many on average; one with twice as many is cut up.",
    )
    max_failed_share: float = Field(
        0.05, ge=0, le=1, description="Failed share of all rows above which the run stops."
    )
    new_run: bool = Field(
        False,
        description="Write to <explanations>-<run>, beside what is there; a run with other settings is else refused.",
    )
    carry_from: str | None = Field(
        None,
        description="An earlier finished backfill: pairs of it whose texts, vectors, model and decoding are the same are not generated again.",
    )
    retry_failed: str | None = Field(
        None,
        description="Do the failed rows of this run again: all, or those of one reason; none: they stay.",
    )
    price_per_actor_hour: float | None = Field(
        None,
        ge=0,
        description="What an actor costs an hour, in any currency, for the report; none: no cost.",
    )
    compact_mib: float = Field(
        128.0,
        gt=0,
        description="Size of the files that --compact makes, MiB; the last one is smaller.",
    )
    garbage_hours: float = Field(
        24.0,
        ge=0,
        description="--clean keeps replaced files for so long, for readers that opened them before they were replaced.",
    )
    lease_seconds: float = Field(
        30.0,
        gt=0,
        description="A driver that gives no sign for so long is taken for dead, and another may go on.",
    )
    llm: LLMConfig = Field(description="The language model that the adapter was trained for.")
    decoding: DecodingConfig = Field(default_factory=DecodingConfig, description="Decoding.")
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="Generation engine of each actor."
    )
    actors: ActorsConfig = Field(default_factory=ActorsConfig, description="Model processes.")
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")


class RecommendConfig(JobConfig):
    """`xrec recommend`: dataset and graph in, each user's best unseen items out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Input URI; none: <workspace>/graph.")
    recommendations: str | None = Field(
        None, description="Output URI; none: <workspace>/recommendations."
    )
    k: int = Field(20, ge=1, description="Items of each user.")
    user_ids: tuple[str, ...] | None = Field(None, description="Which users; none: all.")
    users_per_task: int = Field(
        8192, ge=1, description="Users that one task ranks and writes as one Parquet file."
    )
    cold_start: ColdStartConfig | None = Field(
        None, description="New users and items; none: only the dataset's own are known."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")
