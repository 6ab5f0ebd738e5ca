"""`xrec pretrain-graph` and `xrec train-aspects`: what is learned of the dataset alone."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.shared import DatasetJobConfig, GraphJobConfig, TrainingJobConfig, artifact_uri


class SpectralConfig(Config):
    """Randomized truncated SVD of D_u^-a R D_i^-a.

    R is the binary interaction matrix, D_u and D_i are the degrees of users and items.
    """

    exponent: float = Field(0.35, ge=0, le=1)
    """The exponent a: 0.5 is LightGCN's own normalization, lower values give popularity more
    weight."""
    singular_value_power: float = Field(1.0, ge=0)
    """The power p: the start's scores are U S^p V^T."""
    blend_weight: float = Field(0.15, ge=0)
    """Weight of the start's scores in the final vectors, beside 1 of the trained ones."""


class GraphModelConfig(Config):
    """LightGCN (arXiv 2002.02126)."""

    embedding_dim: int = Field(64, ge=1)
    """D, the length of the vector of a user or an item."""
    num_layers: int = Field(2, ge=0)
    """Number of propagation layers. 0 is plain matrix factorization."""
    aspects: bool = False
    """Whether the dataset's aspects are nodes beside users and items (xrec/graph/aspects.py); it
    must have some."""
    initialization: Literal["random", "spectral"] = "spectral"
    """What the layer-0 embeddings start from."""
    spectral: SpectralConfig = SpectralConfig()


class BPRLossConfig(Config):
    """Bayesian personalized ranking (arXiv 1205.2618).

    Each positive has one negative, drawn from the items that the user has not interacted with.
    """

    kind: Literal["bpr"]


class SampledSoftmaxConfig(Config):
    """Softmax over the cosines of the positive and sampled negatives (arXiv 2201.02327).

    The other positive items of a micro-batch are negatives too. It is corrected by the logarithm of
    how often each negative is sampled.
    """

    kind: Literal["sampled_softmax"]
    temperature: float = Field(0.15, gt=0)
    """Number that the cosines are divided by."""
    num_negatives: int = Field(1024, ge=0)
    """Number of items, drawn uniformly, that are negatives of all triples of a micro-batch."""


class GraphTrainingConfig(Config):
    """Adam on the layer-0 embeddings, early stop on validation NDCG@20."""

    loss: Annotated[BPRLossConfig | SampledSoftmaxConfig, Field(discriminator="kind")] = (
        SampledSoftmaxConfig(kind="sampled_softmax")
    )
    """The loss that is minimized."""
    num_epochs: int = Field(20, ge=0)
    """Largest number of passes over the training interactions; 0 takes the start as it is, which
    needs `start_from`."""
    steps_per_epoch: int = Field(64, ge=1)
    """Number of optimizer steps in an epoch; each propagates the whole graph once."""
    micro_batch_size: int = Field(1024, ge=1)
    """Number of interactions that are scored together and share their negatives."""
    learning_rate: float = Field(5e-3, gt=0)
    """Learning rate of Adam."""
    l2_weight: float = Field(0.0, ge=0)
    """Weight of the mean squared norm of the batch's layer-0 embeddings in the loss."""
    patience: int = Field(3, ge=1)
    """Number of evaluations without a better NDCG@20 that end the training."""
    epochs_per_evaluation: int = Field(1, ge=1)
    """Number of epochs from one evaluation to the next."""
    validation_users: int = Field(10_000, ge=1)
    """Largest number of users that an evaluation ranks, drawn by `seed`. The artifact's own figures
    are of ten times as many."""
    epochs_per_checkpoint: int = Field(1, ge=1)
    """Number of epochs between checkpoints, from which an interrupted run goes on."""
    seed: int = Field(0, ge=0)
    """Seed of the initialization, the order and the negatives."""


class PretrainGraphConfig(GraphJobConfig, TrainingJobConfig):
    """`xrec pretrain-graph`: dataset in, graph artifact out."""

    model: GraphModelConfig = GraphModelConfig()
    training: GraphTrainingConfig = GraphTrainingConfig()
    start_from: str | None = None
    """URI of an earlier graph, of a dataset that this one extends: its users and items start where
    they were, and the result is turned onto its vectors, so that an adapter of it stays in use. If
    null, all start as `model.initialization` says."""
    keep_within: float = Field(0.2, ge=0)
    """Share of its length by which a vector of `start_from` may move and still be kept as it was,
    so that no text of it need be written again."""
    folds: int = Field(4, ge=0)
    """Number of further graphs, each trained without another part of the explained training pairs:
    the adapter learns from vectors that have not seen the pair which they explain. 0 saves their
    time, and the adapter's vectors know their pairs."""
    parallelism: Literal["replicated", "partitioned"] = "replicated"
    """replicated: each worker propagates the whole graph; partitioned: each owns a block of rows.
    """

    @model_validator(mode="after")
    def _folds_can_be_trained(self) -> "PretrainGraphConfig":
        if self.training.num_epochs == 0 and (self.start_from is None or self.folds):
            raise ValueError(
                f"training.num_epochs is 0, start_from {self.start_from} and folds {self.folds}: "
                "expected an earlier graph and folds: 0, or at least one epoch"
            )
        if self.folds == 1:
            raise ValueError("folds is 1, which would leave no explained pair: expected 0, or 2 on")
        return self


class TrainAspectsConfig(DatasetJobConfig):
    """`xrec train-aspects`: dataset with aspects in, a score of aspects out."""

    aspects: str | None = artifact_uri("aspects")
    min_item_reviews: int = Field(1, ge=1)
    """Least number of an item's reviews that must mention an aspect that is chosen; 1 if the
    aspects are those of profiles."""
