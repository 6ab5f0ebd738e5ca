"""`xrec train-adapter`: the adapters between graph and language model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.prompt import PromptConfig
from xrec.config.shared import AdapterJobConfig, AspectsJobConfig, TrainingJobConfig

Injection = Literal["direct", "projected", "none"]
Vectors = Literal["graph", "random", "constant"]


class LearningRateConfig(Config):
    """Learning rate over the steps: a linear warm-up, then a linear decay to zero."""

    peak: float = Field(1e-3, gt=0)
    """Learning rate at the end of the warm-up."""
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of all steps that the warm-up takes."""


class DeepSpeedConfig(Config):
    """What DeepSpeed does with the model and the optimizer."""

    zero_stage: Literal["auto", 1, 3] = "auto"
    """ZeRO stage: 1 keeps the frozen model whole on each worker, 3 shards it. auto is 1 where model
    and adapters fill at most three quarters of each worker's memory, else 3, and 3 with an offload.
    """
    gradient_clipping: float = Field(1.0, ge=0)
    """Largest global norm of the gradient. 0 means no clipping."""
    param_persistence_threshold: int = Field(100_000, ge=0)
    """At stage 3: parameters of at most so many elements are kept whole on each worker; 0 shards
    all."""
    offload: Literal["none", "cpu"] = "none"
    """Where shards wait for their use at stage 3: on the worker's device, or with cpu in the node's
    memory."""

    hpz_partition_size: int = Field(1, ge=1)
    """At stage 3: each group of so many workers of a node keeps a further copy of the frozen
    weights, so that they are gathered within the node (hpZ of ZeRO++). It must divide the number of
    workers on each node. With 1 there is no such copy, and no memory for it."""

    @model_validator(mode="after")
    def _only_shards_are_placed(self) -> "DeepSpeedConfig":
        for name, default in (("offload", "none"), ("hpz_partition_size", 1)):
            value = getattr(self, name)
            if value != default and self.zero_stage == 1:
                raise ValueError(f"{name} = {value!r} needs zero_stage 3 or auto, saw 1")
        return self


class AdapterModelConfig(Config):
    """Two mixture-of-experts adapters, one for users and one for items."""

    num_experts: int = Field(8, ge=1)
    """Number of experts of each adapter."""
    num_tokens: int = Field(1, ge=1)
    """Number of collaborative tokens of each user and of each item."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the experts' input in training."""
    gating_noise: bool = True
    """Whether the gates get noise in training."""
    injection: Injection = "projected"
    """How the adapted vector enters the q, k and v of each layer. With none, only the prompt holds
    it."""
    vectors: Vectors = "graph"
    """What the adapters read: the graph's vectors or, for ablations, a random vector for each user
    and item, or the same constant for all."""
    axis_power: float | None = Field(None, ge=0)
    """The adapters' input is put on the principal axes of the table of vectors; each axis has the
    table's standard deviation to this power. 0 whitens it, 1 leaves it as it is, from 2 on weak
    axes fade. If null, there are no axes, and each dimension gets variance 1."""
    own_share: float = Field(1.0, gt=0, le=1)
    """Share of the first output's variance that differs among users, or among items; the rest is
    common to all, as a soft prompt."""
    vectors_seed: int = Field(0, ge=0)
    """Seed of the random vectors."""


class AdapterTrainingConfig(Config):
    """How the adapter is trained.

    The loss is the mean NLL of the explanations' tokens and end tokens, and nothing else.
    """

    leave_out: Literal["own", "nothing"] = "own"
    """What is left out of the prompts of training. own: the pair's own review and interaction, so
    that profiles, aspects, evidence and vectors are made without them, as far as the dataset and
    the graph (pretrain-graph.folds) have such ones. nothing: all is shown, as XRec does."""
    num_epochs: int = Field(4, ge=1)
    """Largest number of passes over the training pairs."""
    max_steps: int | None = Field(None, ge=1)
    """Largest number of optimizer steps. If null, the epochs decide."""
    global_batch_size: int = Field(32, ge=1)
    """Number of pairs of an optimizer step, of all workers together."""
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 8
    """Number of pairs of one forward pass of one worker. auto is the largest power of two that
    divides a worker's part of the global batch and fits its GPU, by trial steps; on a CPU 8 at
    most, at ZeRO stage 3 one. A run that goes on keeps it, as it decides which pairs share a step.
    """
    prefix_cache_gib: float = Field(1.0, ge=0)
    """GiB on each worker's device for the keys and values of what stands before a prompt's
    collaborative tokens, kept across epochs."""
    learning_rate: LearningRateConfig = LearningRateConfig()
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of AdamW."""
    max_pairs: int | None = Field(None, ge=1)
    """Number of training pairs, drawn by a hash of their ids, whatever `seed` is. If null, all."""
    max_explanation_tokens: int = Field(128, ge=1)
    """Longest training explanation, in tokens; longer ones are left out and counted."""
    max_validation_pairs: int | None = Field(None, ge=1)
    """Number of validation pairs after each epoch. If null, all are used."""
    patience: int = Field(2, ge=1)
    """Number of validations without a better loss that end the training."""
    steps_per_checkpoint: int | None = Field(None, ge=1)
    """Number of optimizer steps between checkpoints within an epoch. If null, there is one at the
    end of each epoch only."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again for the gradients: less memory, more time."""
    seed: int = Field(0, ge=0)
    """Seed of the initialization, the order and the gating noise."""


class AdapterTrainingJobConfig(AspectsJobConfig, TrainingJobConfig):
    """A job that trains adapters: `xrec train-adapter`, or a comparison of them."""

    prompt: PromptConfig = PromptConfig()
    model: AdapterModelConfig = AdapterModelConfig()
    training: AdapterTrainingConfig = AdapterTrainingConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()

    @model_validator(mode="after")
    def _groups_have_all_workers(self) -> "AdapterTrainingJobConfig":
        size, number = self.deepspeed.hpz_partition_size, self.scaling.num_workers
        if number % size:
            raise ValueError(
                f"{size} as deepspeed.hpz_partition_size must divide scaling."
                f"num_workers, saw {number}"
            )
        return self


class TrainAdapterConfig(AdapterTrainingJobConfig, AdapterJobConfig):
    """`xrec train-adapter`: dataset, graph and a frozen language model in, adapter artifact out."""

    license: str = "unknown"
    """Licence of the adapter's weights for its model card, as the hub writes it, e.g. apache-2.0.
    """

    @model_validator(mode="after")
    def _quantized_weights_are_not_sharded(self) -> "TrainAdapterConfig":
        zero = self.deepspeed
        if self.llm.quantization is not None and (zero.zero_stage == 3 or zero.offload != "none"):
            raise ValueError(
                f"llm.quantization = {self.llm.quantization!r} cannot be sharded or offloaded: "
                "expected deepspeed.zero_stage auto or 1 and deepspeed.offload none, "
                f"saw {zero.zero_stage} and {zero.offload}"
            )
        return self
