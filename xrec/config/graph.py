"""`xrec pretrain-graph`: the graph encoder and its training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.shared import JobConfig, RayConfig, ScalingConfig


class SpectralConfig(Config):
    """Randomized truncated SVD of D_u^-a R D_i^-a, R the binary interaction matrix, D_u and D_i the degrees of users and items."""

    exponent: float = Field(
        0.35,
        ge=0,
        le=1,
        description="a; 0.5 is LightGCN's own normalization, lower values leave popularity more weight.",
    )
    singular_value_power: float = Field(
        1.0,
        ge=0,
        description="p; the scores of the start are U S^p V^T, half of the power on each side.",
    )
    num_iterations: int = Field(
        4, ge=0, description="Subspace iterations; more: closer to the exact SVD."
    )
    oversampling: int = Field(
        16, ge=0, description="Vectors beyond embedding_dim that the iterations carry."
    )
    blend_weight: float = Field(
        0.15,
        ge=0,
        description="Weight of the start's scores in the final vectors, beside 1 for the trained ones; 0: none.",
    )


class GraphModelConfig(Config):
    """LightGCN (arXiv 2002.02126)."""

    embedding_dim: int = Field(64, ge=1, description="D, length of a user's or item's vector.")
    num_layers: int = Field(
        2, ge=0, description="Propagation layers; 0 is plain matrix factorization."
    )
    initialization: Literal["random", "spectral"] = Field(
        "spectral", description="Where the layer-0 embeddings start."
    )
    spectral: SpectralConfig = Field(
        default_factory=SpectralConfig, description="The spectral start; unused with random."
    )


class BPRLossConfig(Config):
    """Bayesian personalized ranking (arXiv 1205.2618): one negative a positive, drawn from the items the user has not interacted with."""

    kind: Literal["bpr"]


class SampledSoftmaxConfig(Config):
    """Softmax over the positive and sampled negatives (arXiv 2201.02327), corrected by log of how often each is sampled."""

    kind: Literal["sampled_softmax"]
    temperature: float = Field(0.15, gt=0, description="Scores are divided by it.")
    similarity: Literal["cosine", "dot"] = Field(
        "cosine", description="Score of a user and an item."
    )
    num_negatives: int = Field(
        1024,
        ge=0,
        description="Uniformly drawn items that all triples of a micro-batch share as negatives.",
    )
    in_batch_negatives: bool = Field(
        True, description="The micro-batch's other positive items are negatives too."
    )

    @model_validator(mode="after")
    def _there_are_negatives(self) -> "SampledSoftmaxConfig":
        if self.num_negatives == 0 and not self.in_batch_negatives:
            raise ValueError(
                "num_negatives is 0 and in_batch_negatives is false: there would be no negatives; set one of them"
            )
        return self


class GraphTrainingConfig(Config):
    """Adam on the layer-0 embeddings, early stop on validation NDCG@20."""

    loss: Annotated[BPRLossConfig | SampledSoftmaxConfig, Field(discriminator="kind")] = Field(
        default_factory=lambda: SampledSoftmaxConfig(kind="sampled_softmax"),
        description="What is minimized.",
    )
    num_epochs: int = Field(20, ge=1, description="Most passes over the training interactions.")
    steps_per_epoch: int = Field(
        64, ge=1, description="Optimizer steps of an epoch; each propagates the whole graph once."
    )
    micro_batch_size: int = Field(
        1024,
        ge=1,
        description="Interactions of a step that are scored together and share their negatives.",
    )
    learning_rate: float = Field(5e-3, gt=0, description="Learning rate of Adam.")
    warmup_steps: int = Field(
        0, ge=0, description="Steps over which the learning rate rises linearly from 0."
    )
    l2_weight: float = Field(
        0.0, ge=0, description="Weight of the mean squared norm of the batch's layer-0 embeddings."
    )
    patience: int = Field(
        3, ge=1, description="Evaluations without a better NDCG@20 before training stops."
    )
    epochs_per_evaluation: int = Field(1, ge=1, description="Epochs between validations.")
    epochs_per_checkpoint: int = Field(
        1,
        ge=1,
        description="Epochs between checkpoints; an interrupted run goes on from the last one.",
    )
    seed: int = Field(0, ge=0, description="Seed of initialization, order and negatives.")


class PretrainGraphConfig(JobConfig):
    """`xrec pretrain-graph`: dataset in, graph artifact out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Output URI; none: <workspace>/graph.")
    model: GraphModelConfig = Field(
        default_factory=GraphModelConfig, description="The graph encoder."
    )
    training: GraphTrainingConfig = Field(
        default_factory=GraphTrainingConfig, description="How it is trained."
    )
    parallelism: Literal["replicated", "partitioned"] = Field(
        "replicated",
        description="replicated: each worker propagates the whole graph; partitioned: each owns a block of its rows.",
    )
    scaling: ScalingConfig = Field(default_factory=ScalingConfig, description="Workers.")
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")
