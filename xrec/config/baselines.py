"""`xrec peer`: a published model that explanations are compared with, trained on the same pairs.

The defaults of each model are those of its paper, or of its public code where that says why it
departs from the paper (docs/peers.md).
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from xrec.config.backfill import ActorsConfig
from xrec.config.base import Config
from xrec.config.llm import LLMConfig
from xrec.config.shared import JobConfig, RayConfig, ScalingConfig, Split, input_uri

PeerKind = Literal["att2seq", "nrt", "peter", "peter_plus", "peter_plus_oracle", "pepler"]
Optimizer = Literal["adam", "adamw", "sgd"]


def _learning_rate(default: float) -> Any:
    return Field(default, gt=0, description="Learning rate.")


def _clipping(default: float | None) -> Any:
    return Field(
        default,
        gt=0,
        description="Largest norm of the gradient; a larger one is scaled down to it. If null, "
        "gradients stay as they are.",
    )


def _decay(default: float) -> Any:
    return Field(
        default,
        gt=0,
        le=1,
        description="What the learning rate is multiplied by after each epoch without a lower "
        "validation loss.",
    )


def _optimizer(default: Optimizer) -> Any:
    return Field(default, description="The optimizer, of torch.")


def _batch_size(default: int) -> Any:
    return Field(
        default,
        ge=1,
        description="Number of pairs of an optimizer step, of all workers together.",
    )


def _micro_batch_size(default: int | None) -> Any:
    return Field(
        default,
        ge=1,
        description="Largest number of pairs of one forward pass of a worker, which costs memory. "
        "If null, a worker's part of the batch is one pass.",
    )


class RecipeConfig(Config):
    """How a model's weights are changed; its size stands beside it."""

    optimizer: Optimizer = _optimizer("adam")
    learning_rate: float = _learning_rate(1e-4)
    learning_rate_decay: float = _decay(1.0)
    gradient_clipping: float | None = _clipping(None)
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of the optimizer.")
    batch_size: int = _batch_size(128)
    micro_batch_size: int | None = _micro_batch_size(64)


class Att2SeqConfig(RecipeConfig):
    """Att2Seq (Dong and others, EACL 2017), without the rating in its input."""

    embedding_dim: int = Field(64, ge=1, description="Length of the vectors of users and items.")
    hidden_size: int = Field(
        512, ge=1, description="Length of the vectors of words, and of the LSTM's state."
    )
    num_layers: int = Field(2, ge=1, description="Number of layers of the LSTM.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout between layers of the LSTM.")
    gradient_clipping: float | None = _clipping(5.0)
    batch_size: int = _batch_size(50)


class NRTConfig(RecipeConfig):
    """NRT (Li and others, SIGIR 2017), without L2 and without its loss of words in no order."""

    embedding_dim: int = Field(
        300, ge=1, description="Length of the vectors of users, items and words."
    )
    hidden_size: int = Field(
        400, ge=1, description="Width of the rating's hidden layers, and of the GRU's state."
    )
    num_rating_layers: int = Field(
        4, ge=1, description="Number of hidden layers between both vectors and the rating."
    )
    rating_weight: float = Field(
        1.0, ge=0, description="Weight of the squared error of ratings, where the dataset has some."
    )
    batch_size: int = _batch_size(200)


class PETERConfig(RecipeConfig):
    """PETER (Li and others, ACL 2021), and PETER+, which reads aspects."""

    embedding_dim: int = Field(
        512, ge=1, description="Length of all vectors; a multiple of num_heads."
    )
    num_heads: int = Field(2, ge=1, description="Number of heads of each layer's attention.")
    feedforward_size: int = Field(
        2048, ge=1, description="Width of the hidden layer of each feed-forward network."
    )
    num_layers: int = Field(2, ge=1, description="Number of layers of the transformer.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout of all layers.")
    context_weight: float = Field(
        1.0, ge=0, description="Weight of the loss of all words of the text in no order."
    )
    rating_weight: float = Field(
        0.1, ge=0, description="Weight of the squared error of ratings, where the dataset has some."
    )
    num_aspects: int = Field(
        1, ge=1, description="Number of aspects that PETER+ reads of a pair, the best first."
    )
    num_aspect_words: int = Field(
        3, ge=1, description="Number of words of the aspects that PETER+ reads; others are cut off."
    )
    optimizer: Optimizer = _optimizer("sgd")
    learning_rate: float = _learning_rate(1.0)
    learning_rate_decay: float = _decay(0.25)
    gradient_clipping: float | None = _clipping(1.0)

    @model_validator(mode="after")
    def _heads_divide_vectors(self) -> "PETERConfig":
        if self.embedding_dim % self.num_heads:
            raise ValueError(
                f"embedding_dim must be a multiple of num_heads = {self.num_heads}, "
                f"saw {self.embedding_dim}"
            )
        return self


class PEPLERConfig(RecipeConfig):
    """PEPLER (Li and others, TOIS 2023): a user's and an item's vector before a language model.

    First the vectors alone are trained, then everything. With `recommendation` everything is
    trained at once, and the vectors must tell the rating too.
    """

    recommendation: Literal["mf", "mlp"] | None = Field(
        None,
        description="How the rating follows from both vectors: their product, or an MLP. If null, "
        "it need not. The dataset must have ratings.",
    )
    rating_weight: float = Field(0.01, ge=0, description="Weight of the squared error of ratings.")
    rating_hidden_size: int = Field(
        400, ge=1, description="Width of the hidden layers, with recommendation: mlp."
    )
    num_rating_layers: int = Field(
        3, ge=1, description="Number of hidden layers, with recommendation: mlp."
    )
    optimizer: Optimizer = _optimizer("adamw")
    learning_rate: float = _learning_rate(1e-3)
    micro_batch_size: int | None = _micro_batch_size(8)


Recipe = Att2SeqConfig | NRTConfig | PETERConfig | PEPLERConfig


class PeerTrainingConfig(Config):
    """What a peer is trained on, and for how long."""

    max_pairs: int | None = Field(
        None,
        ge=1,
        description="Number of training pairs, drawn by a seeded hash of their ids, so that all "
        "peers train on the same ones. If null, all are used.",
    )
    num_epochs: int = Field(
        100, ge=1, description="Largest number of passes over the training pairs, of each phase."
    )
    patience: int = Field(
        5,
        ge=1,
        description="Number of epochs without a lower validation loss, in all and not in a row, "
        "after which a phase of the training ends.",
    )
    max_validation_pairs: int | None = Field(
        None,
        ge=1,
        description="Number of validation pairs after each epoch, drawn like the training pairs. "
        "If null, all are used.",
    )


class PeerConfig(JobConfig):
    """`xrec peer`: dataset in, a trained peer and its texts for held-out pairs out."""

    dataset: str | None = input_uri("dataset")
    aspects: str | None = input_uri("aspects", "kind is peter_plus")
    kind: PeerKind = Field(
        "att2seq",
        description="The model. peter_plus reads the aspects that train-aspects chooses; "
        "peter_plus_oracle those of the pair's own review, held-out ones too, so it is no rival.",
    )
    seed: int = Field(
        0, ge=0, description="Seed of the model's first weights, the order of pairs and dropout."
    )
    peer_model: str | None = Field(
        None,
        description="URI of the trained peer; if null, it is "
        "<workspace>/peers/<kind>-<seed>/model.",
    )
    peer_texts: str | None = Field(
        None,
        description="URI of its texts; if null, it is <workspace>/peers/<kind>-<seed>/texts.",
    )
    pairs: str | None = Field(
        None,
        description="URI of a Parquet file or folder with columns user_id and item_id: the pairs "
        "that texts are written for. If null, they are those of the split.",
    )
    split: Split = Field("test", description="The split whose explained pairs get a text.")
    max_pairs: int | None = Field(
        None,
        ge=1,
        description="Number of pairs of the split, drawn by a seeded hash of their ids. If null, "
        "all get a text.",
    )
    max_words: int | None = Field(
        None,
        ge=1,
        description="Longest text in the model's tokens; marks count too. A longer training "
        "explanation is cut there. If null, it is the length that 99 % of the training "
        "explanations do not exceed.",
    )
    max_vocabulary: int = Field(
        20_000,
        ge=1,
        description="Largest number of words that the model knows, the most frequent ones of the "
        "training explanations. Others are read as unknown, and never written.",
    )
    training: PeerTrainingConfig = Field(
        default_factory=PeerTrainingConfig, description="What the peer is trained on."
    )
    att2seq: Att2SeqConfig = Field(
        default_factory=Att2SeqConfig, description="The model, with kind: att2seq."
    )
    nrt: NRTConfig = Field(default_factory=NRTConfig, description="The model, with kind: nrt.")
    peter: PETERConfig = Field(
        default_factory=PETERConfig,
        description="The model, with kind: peter, peter_plus or peter_plus_oracle.",
    )
    pepler: PEPLERConfig = Field(
        default_factory=PEPLERConfig, description="The model, with kind: pepler."
    )
    llm: LLMConfig | None = Field(
        None,
        description="The language model that pepler begins with; it needs one. All its weights are "
        "trained, in float32 whatever llm.dtype says.",
    )
    texts_per_batch: int = Field(
        64, ge=1, description="Number of texts that an actor writes together."
    )
    rows_per_chunk: int = Field(
        1024, ge=1, description="Largest number of pairs of a chunk, which is done as a whole."
    )
    scaling: ScalingConfig = Field(
        default_factory=lambda: ScalingConfig(num_workers=1), description="The training's workers."
    )
    actors: ActorsConfig = Field(
        default_factory=lambda: ActorsConfig(num_actors=1),
        description="The processes that write texts.",
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="The Ray cluster.")

    @model_validator(mode="after")
    def _pepler_has_a_language_model(self) -> "PeerConfig":
        if self.kind == "pepler" and self.llm is None:
            raise ValueError("kind pepler needs llm.model, the language model that it begins with")
        return self

    @property
    def section(self) -> str:
        """The name of the model's section."""
        return "peter" if self.kind in ("peter_plus", "peter_plus_oracle") else self.kind

    @property
    def recipe(self) -> Recipe:
        """The model's section."""
        recipe: Recipe = getattr(self, self.section)
        return recipe

    @property
    def num_aspect_words(self) -> int:
        """How many words of aspects the model reads."""
        return self.peter.num_aspect_words if self.kind.startswith("peter_plus") else 0

    def artifact(self, name: str) -> str:
        """URI of an artifact; `peer` is the trained peer, and `explanations` are its texts."""
        folder = f"{self.workspace.rstrip('/')}/peers/{self.kind}-{self.seed}"
        if name == "peer":
            return self.peer_model or f"{folder}/model"
        if name == "explanations":
            return self.peer_texts or f"{folder}/texts"
        return super().artifact(name)
