"""`xrec train-adapter` and `xrec import-adapter`: the adapters between graph and language model."""

from typing import Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.llm import LLMConfig, PromptConfig
from xrec.config.shared import JobConfig, RayConfig, ScalingConfig

Injection = Literal["direct", "projected", "none"]
Vectors = Literal["graph", "random", "constant"]


class LearningRateConfig(Config):
    """Learning rate over the steps: linear warm-up, then linear decay to zero."""

    peak: float = Field(1e-3, gt=0, description="Learning rate at the end of the warm-up.")
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="Share of all steps that the warm-up takes."
    )


class CardConfig(Config):
    """What the adapter's model card (README.md) says beyond what xrec knows. The adapter's content does not depend on it."""

    name: str = Field("xrec adapter", min_length=1, description="Title of the card.")
    license: str = Field(
        "unknown",
        description="Licence of the adapter's weights, as the hub writes it, e.g. apache-2.0.",
    )
    language: str | None = Field(
        None, description="Language of the explanations, ISO 639, e.g. en."
    )
    datasets: tuple[str, ...] = Field((), description="Hub ids of the data trained on.")


class DeepSpeedConfig(Config):
    """What DeepSpeed does with the model and the optimizer."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        3, description="ZeRO stage; 3 shards the frozen language model across the workers."
    )
    gradient_clipping: float = Field(
        1.0, ge=0, description="Largest global gradient norm; 0: no clipping."
    )
    param_persistence_threshold: int = Field(
        0, ge=0, description="Stage 3: parameters of fewer elements are kept whole on each worker."
    )
    max_live_parameters: int = Field(
        1_000_000_000,
        ge=0,
        description="Stage 3: elements of gathered parameters that a worker may hold at a time, beside its shard.",
    )
    offload: Literal["none", "cpu", "nvme"] = Field(
        "none",
        description="Where shards wait for their use: optimizer state (stages 1 to 3) and, at stage 3, parameters; nvme needs stage 3, libaio.",
    )
    offload_path: str | None = Field(
        None, description="Folder on each node's local disk for offload=nvme."
    )

    @model_validator(mode="after")
    def _offload_has_what_it_needs(self) -> "DeepSpeedConfig":
        lowest_stage = {"none": 0, "cpu": 1, "nvme": 3}[self.offload]
        if self.zero_stage < lowest_stage:
            raise ValueError(
                f"offload = {self.offload!r} needs zero_stage >= {lowest_stage}, saw {self.zero_stage}"
            )
        if (self.offload == "nvme") != (self.offload_path is not None):
            raise ValueError(
                f"offload_path goes with offload = 'nvme' and only with it, saw offload = {self.offload!r}, path {self.offload_path!r}"
            )
        return self


class AdapterModelConfig(Config):
    """Two mixture-of-experts adapters, one for users and one for items."""

    num_experts: int = Field(8, ge=1, description="Experts of each adapter.")
    num_tokens: int = Field(
        1,
        ge=1,
        description="Collaborative tokens of each user and of each item; {user} and {item} stand for all of them.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout on the experts' input in training."
    )
    gating_noise: bool = Field(True, description="Noise on the gates in training.")
    injection: Injection = Field(
        "projected",
        description="How the adapted vector enters each layer's q, k and v; none: only the prompt holds it.",
    )
    vectors: Vectors = Field(
        "graph",
        description="What the adapters read: the graph's vectors, random ones for each user and item, or the same constant for all (ablations).",
    )
    axis_power: float | None = Field(
        None,
        ge=0,
        description="Standard deviation of the inputs' principal axes: that of the table to this power. 0: whitened; 1: as in the table; 2 and more: "
        "weak axes fade. None: no axes, each dimension gets variance 1.",
    )
    own_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the first output's variance that is each user's or item's own; the rest is common to all, as a soft prompt.",
    )
    vectors_seed: int = Field(0, ge=0, description="Seed of the random vectors.")


class AdapterTrainingConfig(Config):
    """Mean NLL of the explanation's tokens and its end token; nothing else."""

    num_epochs: int = Field(4, ge=1, description="Most passes over the training pairs.")
    max_steps: int | None = Field(
        None, ge=1, description="Most optimizer steps; none: as the epochs give."
    )
    global_batch_size: int = Field(
        32, ge=1, description="Pairs of an optimizer step, all workers together."
    )
    micro_batch_size: int = Field(8, ge=1, description="Pairs of one forward pass of one worker.")
    prefix_cache_gib: float = Field(
        1.0,
        ge=0,
        description="Keys and values of prompts before their collaborative tokens that each worker keeps across epochs, GiB on its device.",
    )
    learning_rate: LearningRateConfig = Field(
        default_factory=LearningRateConfig, description="Learning rate of AdamW."
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    max_explanation_tokens: int = Field(
        128, ge=1, description="Longer training explanations are left out, and counted."
    )
    max_validation_pairs: int | None = Field(
        None, ge=1, description="Validation pairs per epoch; none: all."
    )
    patience: int = Field(
        2, ge=1, description="Validations without a better loss before training stops."
    )
    steps_per_checkpoint: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps between checkpoints within an epoch; none: only at each epoch's end.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep each layer's input only, compute the rest again for the gradients: less memory.",
    )
    seed: int = Field(0, ge=0, description="Seed of initialization, order and gating noise.")


class TrainAdapterConfig(JobConfig):
    """`xrec train-adapter`: dataset, graph and a frozen language model in, adapter artifact out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Input URI; none: <workspace>/graph.")
    adapter: str | None = Field(None, description="Output URI; none: <workspace>/adapter.")
    llm: LLMConfig = Field(description="The frozen language model.")
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="The prompt; stored with the adapter."
    )
    model: AdapterModelConfig = Field(
        default_factory=AdapterModelConfig, description="The adapters."
    )
    training: AdapterTrainingConfig = Field(
        default_factory=AdapterTrainingConfig, description="How they are trained."
    )
    card: CardConfig = Field(default_factory=CardConfig, description="The adapter's model card.")
    deepspeed: DeepSpeedConfig = Field(default_factory=DeepSpeedConfig, description="DeepSpeed.")
    scaling: ScalingConfig = Field(default_factory=ScalingConfig, description="Workers.")
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")


class ImportAdapterConfig(JobConfig):
    """`xrec import-adapter`: the files of the public XRec release in, graph and adapter artifacts out."""

    release: str = Field(
        description="Folder with user_converter.pkl, item_converter.pkl, and user_emb.pkl, item_emb.pkl unless import_graph is false."
    )
    import_graph: bool = Field(
        True,
        description="Make the graph artifact of user_emb.pkl and item_emb.pkl; false: it is there, with the same vectors.",
    )
    dataset: str | None = Field(
        None,
        description="Input URI, of the same release (source.kind xrec_release); none: <workspace>/dataset.",
    )
    graph: str | None = Field(
        None, description="Output URI, input if import_graph is false; none: <workspace>/graph."
    )
    adapter: str | None = Field(None, description="Output URI; none: <workspace>/adapter.")
    llm: LLMConfig = Field(
        description="The language model that the converters were trained for; the release's is Llama-2-7b-chat."
    )
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="The prompt; stored with the adapter."
    )
    injection: Injection = Field(
        "direct",
        description="How the vector enters each layer's q, k and v; direct is the rule of the public code.",
    )
    card: CardConfig = Field(default_factory=CardConfig, description="The adapter's model card.")
