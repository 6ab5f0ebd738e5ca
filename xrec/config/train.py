"""The training jobs: `pretrain-graph`, `neighbors`, and `train-adapter`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config, Uri, merged
from xrec.config.job import JobConfig, TrainingJobConfig, Workers
from xrec.config.llm import LLMJobConfig
from xrec.config.texts import PromptJobConfig


class GraphModelConfig(Config):
    """LightGCN (arXiv 2002.02126)."""

    embedding_dim: int = Field(64, ge=1)
    """D, the length of each user's and item's vector."""
    num_layers: int = Field(2, ge=0)
    """Number of propagation layers. 0 is plain matrix factorization."""
    aspects: bool = False
    """Whether the dataset's aspects are nodes, like users and items (xrec/graph/aspects.py)."""
    initialization: Literal["random", "spectral"] = "spectral"
    """What the layer-0 embeddings start from: a truncated SVD of the interactions, which is also
    added to the trained vectors, or noise (docs/graph.md)."""


GraphLoss = Literal["sampled_softmax", "bpr"]


class GraphTrainingConfig(Config):
    """Adam on the layer-0 embeddings, with early stopping on validation NDCG@20."""

    loss: GraphLoss = "sampled_softmax"
    """sampled_softmax: softmax over the cosines of the positive item and of sampled ones
    (arXiv 2201.02327). bpr: Bayesian personalized ranking with one negative item per positive
    (arXiv 1205.2618)."""
    num_epochs: int = Field(20, ge=0)
    """Maximum number of passes over the training interactions; 0 keeps the initial vectors, and
    requires `start_from`."""
    steps_per_epoch: int = Field(64, ge=1)
    """Number of optimizer steps per epoch; each propagates the whole graph once."""
    micro_batch_size: int = Field(1024, ge=1)
    """Number of interactions that are scored together and share their negatives."""
    learning_rate: float = Field(5e-3, gt=0)
    """Learning rate of Adam."""
    l2_weight: float = Field(0.0, ge=0)
    """Weight of the mean squared norm of the batch's layer-0 embeddings in the loss."""
    patience: int = Field(3, ge=1)
    """Number of evaluations without a better NDCG@20 after which training stops."""
    epochs_per_evaluation: int = Field(1, ge=1)
    """Number of epochs between evaluations."""
    seed: int = Field(0, ge=0)
    """Seed of the initialization, the order, and the negatives."""


class PretrainGraphConfig(TrainingJobConfig):
    """`xrec pretrain-graph`: dataset in, graph artifact out."""

    model: GraphModelConfig = GraphModelConfig()
    training: GraphTrainingConfig = GraphTrainingConfig()
    start_from: Uri | None = None
    """URI of an earlier graph, of a dataset that this one extends. Its users and items start from
    its vectors, and the result is rotated onto them, so that its adapter stays valid. If null, all
    vectors start as `model.initialization` says."""
    folds: int = Field(4, ge=0)
    """Number of additional graphs, each trained with a different part of the explained training
    pairs held out, so that the adapter learns from vectors that have not seen the pair they
    explain. 0 saves the time, but then the adapter learns from vectors that have seen theirs."""
    workers: Workers = Workers(num_processes=1)
    """Up to some 1e6 interactions, one worker is fastest."""

    @model_validator(mode="after")
    def _folds_can_be_trained(self) -> "PretrainGraphConfig":
        if self.training.num_epochs == 0 and (self.start_from is None or self.folds):
            raise ValueError(
                f"training.num_epochs is 0, start_from {self.start_from} and folds {self.folds}: "
                "expected at least one epoch, or an earlier graph in start_from and folds: 0"
            )
        if self.folds == 1:
            raise ValueError(
                "folds must be 0 or at least 2, got 1, which would leave no explained pair"
            )
        return self


class NeighborsConfig(JobConfig):
    """`xrec neighbors`: dataset and graph in, who chose what together out."""

    min_people: int = Field(5, ge=3)
    """Smallest number of people that is ever shown. Larger numbers are shown as lower bounds in
    steps: 10, 20, 50, 100, ..."""


Injection = Literal["direct", "projected", "none"]
Vectors = Literal["graph", "random", "constant"]


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
    """How the adapted vector enters q, k, and v of each layer. With none, it is only in the prompt.
    """
    vectors: Vectors = "graph"
    """Input of the adapters: the graph's vectors or, for ablations, a random vector per user and
    item, or the same constant for all."""
    axis_power: float | None = Field(None, ge=0)
    """Power of the input's scaling. The input is rotated to the principal axes of the table of
    vectors, and each axis is scaled to its standard deviation to this power: 0 whitens, 1 keeps the
    scale, and 2 or more makes weak axes fade. If null, there is no rotation, and each dimension is
    scaled to variance 1."""
    own_share: float = Field(1.0, gt=0, le=1)
    """Share of the initial output's variance that differs between users (or items); the rest is the
    same for all, like a soft prompt."""


class AdapterTrainingConfig(Config):
    """How the adapter is trained: AdamW on the mean NLL of the explanations, end tokens included.

    The learning rate rises linearly in the first twentieth of the steps, the warm-up, and then
    falls linearly to zero.
    """

    leave_out: Literal["own", "nothing"] = "own"
    """What training prompts leave out. own: the pair's own review and interaction; profiles,
    aspects, evidence, and vectors are made without them if the dataset and the graph
    (pretrain-graph.folds) have such versions. nothing: everything is shown, as in XRec."""
    average_over: Literal["tokens", "explanations"] = "tokens"
    """What the loss of a global batch is the mean of. tokens: every token weighs the same.
    explanations: every explanation weighs the same, whatever its length, as in XRec's formula."""
    num_epochs: int = Field(4, ge=1)
    """Maximum number of passes over the training pairs."""
    max_steps: int | None = Field(None, ge=1)
    """Maximum number of optimizer steps. If null, only num_epochs limits training."""
    global_batch_size: int = Field(32, ge=1)
    """Number of pairs per optimizer step, over all workers."""
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 8
    """Number of pairs per forward pass of a worker. auto is the largest power of two that divides a
    worker's part of the global batch and fits its GPU, found by trial steps; it is at most 8 on a
    CPU, and 1 at ZeRO stage 3. A resumed run keeps it, because it decides which pairs share a step.
    """
    prefix_cache_gib: float = Field(1.0, ge=0)
    """GiB on each worker's device for the keys and values of the tokens before a prompt's
    collaborative tokens, kept across epochs."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate at the end of the warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of AdamW."""
    max_pairs: int | None = Field(None, ge=1)
    """Maximum number of training pairs, chosen by a hash of their IDs that is independent of the
    seed. If null, all."""
    max_explanation_tokens: int = Field(128, ge=1)
    """Maximum length of a training explanation in tokens; longer ones are left out and counted."""
    max_validation_pairs: int | None = Field(None, ge=1)
    """Maximum number of validation pairs scored after each epoch. If null, all."""
    patience: int = Field(2, ge=1)
    """Number of validations without a better loss after which training stops."""
    steps_per_checkpoint: int | None = Field(None, ge=1)
    """Number of optimizer steps between checkpoints within an epoch. If null, the only checkpoints
    are those at the end of each epoch."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations in the backward pass, which saves memory but takes time."""
    seed: int = Field(0, ge=0)
    """Seed of the initialization, the order, and the gating noise."""


_SET_BY_US = {
    *("bf16", "fp16", "data_types", "optimizer", "scheduler", "gradient_accumulation_steps"),
    *("train_batch_size", "train_micro_batch_size_per_gpu"),
}


class AdapterTrainingJobConfig(PromptJobConfig, TrainingJobConfig):
    """A job that trains adapters: `xrec train-adapter`, or a comparison of them."""

    model: AdapterModelConfig = AdapterModelConfig()
    training: AdapterTrainingConfig = AdapterTrainingConfig()
    deepspeed: Mapping[str, Any] = {}
    """DeepSpeed's own settings, which override ours, for example {gradient_clipping: 0.5,
    zero_optimization: {stage: 3, offload_param: {device: cpu}}}. Stage 1 keeps the whole frozen
    model on each worker, and 3 shards it; the default is 1 if the model fills at most three
    quarters of each worker's memory, else 3. By default gradients are clipped to a norm of 1."""

    @property
    def zero(self) -> Mapping[str, Any]:
        """The ZeRO settings in `deepspeed`."""
        zero: Mapping[str, Any] = self.deepspeed.get("zero_optimization", {})
        return zero

    @property
    def zero_stage(self) -> int | None:
        """The ZeRO stage, or None if the workers' memory decides; offloading implies 3."""
        stage: int | None = self.zero.get("stage")
        return 3 if stage is None and self.is_offloaded else stage

    @property
    def is_offloaded(self) -> bool:
        """Whether shards are kept in the node's memory until they are used."""
        return any(name.startswith("offload_") for name in self.zero)

    @property
    def hpz_size(self) -> int:
        """The number of workers on a node that share a second copy of the weights; 1 for none."""
        return int(self.zero.get("zero_hpz_partition_size", 1))

    def with_zero_stage(self, stage: int) -> Self:
        """Return the config with this stage."""
        changed = merged(self.deepspeed, {"zero_optimization": {"stage": stage}})
        return self.model_copy(update={"deepspeed": changed})

    @field_validator("deepspeed")
    @classmethod
    def _stage_is_known(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        if forbidden := sorted(_SET_BY_US & settings.keys()):
            raise ValueError(f"{', '.join(forbidden)} cannot be given: xrec sets them")
        zero = settings.get("zero_optimization", {})
        if not isinstance(zero, Mapping) or zero.get("stage", 1) not in (1, 3):
            raise ValueError(f"zero_optimization.stage must be 1 or 3, saw {zero}")
        return settings

    @model_validator(mode="after")
    def _shards_need_stage_3(self) -> "AdapterTrainingJobConfig":
        if self.zero.get("stage") == 1 and (self.is_offloaded or self.hpz_size > 1):
            raise ValueError(f"deepspeed: shards need zero_optimization.stage 3, saw {self.zero}")
        if self.workers.num_processes % self.hpz_size:
            raise ValueError(
                "deepspeed.zero_optimization.zero_hpz_partition_size must divide "
                f"workers.num_processes = {self.workers.num_processes}, saw {self.hpz_size}"
            )
        return self


class TrainAdapterConfig(LLMJobConfig, AdapterTrainingJobConfig):
    """`xrec train-adapter`: dataset, graph, and a frozen language model in, adapter out."""

    @model_validator(mode="after")
    def _quantized_weights_are_not_sharded(self) -> "TrainAdapterConfig":
        if self.llm.quantization is not None and self.zero_stage == 3:
            raise ValueError(
                f"llm.quantization = {self.llm.quantization!r} cannot be sharded or offloaded: "
                f"expected deepspeed.zero_optimization of stage 1 or none, saw {self.zero}"
            )
        return self
