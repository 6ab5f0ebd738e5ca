"""`xrec train-ranker`: which of several texts of a pair to take."""

from pydantic import Field

from xrec.config.base import Config
from xrec.config.decoding import DecodingConfig
from xrec.config.engine import OwnEngineConfig
from xrec.config.llm import LLMConfig
from xrec.config.shared import Device, JobConfig, input_uri, output_uri


class RankerTrainingConfig(Config):
    """What the ranker is trained on."""

    max_pairs: int = Field(
        200,
        ge=10,
        description="Number of explained validation pairs, drawn at random. If there are fewer, "
        "all are used.",
    )
    num_candidates: int = Field(
        4, ge=2, description="Number of texts that are drawn for each pair."
    )
    temperature: float = Field(0.7, gt=0, description="Temperature of sampling them.")
    ridge: float = Field(
        0.1,
        gt=0,
        description="Weight of the squares of the weights, as a share of the number of candidates.",
    )
    num_folds: int = Field(
        5,
        ge=2,
        description="Number of parts of the pairs; what the ranker brings is measured on each part "
        "by a ranker that was trained on the others.",
    )
    seed: int = Field(0, ge=0, description="Seed of drawing the pairs and their parts.")


class TrainRankerConfig(JobConfig):
    """`xrec train-ranker`: dataset, graph, adapter and language model in, a ranker of texts out."""

    dataset: str | None = input_uri("dataset")
    graph: str | None = input_uri("graph")
    adapter: str | None = input_uri("adapter")
    aspects: str | None = input_uri("aspects", "prompt.aspects asks for some")
    ranker: str | None = output_uri("ranker")
    llm: LLMConfig = Field(description="The language model that the adapter was trained for.")
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig,
        description="How texts are drawn, but for their number and temperature.",
    )
    training: RankerTrainingConfig = Field(
        default_factory=RankerTrainingConfig, description="What the ranker is trained on."
    )
    engine: OwnEngineConfig = Field(
        default_factory=OwnEngineConfig, description="The generation engine."
    )
    device: Device = Field(
        "auto",
        description="What texts are written on. With auto it is a GPU if there is one, else the "
        "CPU.",
    )
