"""The baselines of a comparison: published models, and low-rank weights of the language model.

The defaults of each published model are those of its paper, or of its public code where that says
why it departs from the paper (docs/baselines.md).
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config

BaselineKind = Literal["att2seq", "nrt", "peter", "peter_plus", "pepler", "lora"]
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
    return Field(default, description="The optimizer, of torch, without weight decay.")


def _batch_size(default: int) -> Any:
    return Field(
        default,
        ge=1,
        description="Number of pairs of an optimizer step, of all workers together.",
    )


def _micro_batch_size(default: int) -> Any:
    return Field(
        default,
        ge=1,
        description="Largest number of pairs of one forward pass of a worker, which costs memory.",
    )


def _num_epochs(default: int) -> Any:
    return Field(
        default,
        ge=1,
        description="Largest number of passes over the training pairs, of each phase.",
    )


class RecipeConfig(Config):
    """How a baseline is trained; the size of its model stands beside it."""

    optimizer: Optimizer = _optimizer("adam")
    learning_rate: float = _learning_rate(1e-4)
    learning_rate_decay: float = _decay(1.0)
    gradient_clipping: float | None = _clipping(None)
    batch_size: int = _batch_size(128)
    micro_batch_size: int = _micro_batch_size(64)
    num_epochs: int = _num_epochs(100)
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
    """PETER (Li and others, ACL 2021), and PETER+, which reads an aspect."""

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

    First the vectors alone are trained, then everything, in float32.
    """

    optimizer: Optimizer = _optimizer("adamw")
    learning_rate: float = _learning_rate(1e-3)
    micro_batch_size: int = _micro_batch_size(8)


class LoRAConfig(RecipeConfig):
    """Low-rank weights (LoRA, arXiv 2106.09685) in the linear layers of the frozen language model.

    The prompt is that of ours in words only, and the loss the same. The learning rate rises
    linearly, then falls linearly to zero at the end of `num_epochs`.
    """

    rank: int = Field(8, ge=1, description="Rank of the product that is added to a layer.")
    alpha: float = Field(
        16.0, gt=0, description="The product is multiplied by alpha / rank (arXiv 2106.09685)."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on its input in training.")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        min_length=1,
        description="Names of the linear layers that get one.",
    )
    max_explanation_tokens: int = Field(
        128, ge=1, description="Longest training explanation, in tokens; longer ones are left out."
    )
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="Share of all steps in which the learning rate rises."
    )
    optimizer: Optimizer = _optimizer("adamw")
    learning_rate: float = _learning_rate(2e-4)
    gradient_clipping: float | None = _clipping(1.0)
    batch_size: int = _batch_size(16)
    micro_batch_size: int = _micro_batch_size(8)
    num_epochs: int = _num_epochs(1)


Recipe = Att2SeqConfig | NRTConfig | PETERConfig | PEPLERConfig | LoRAConfig


class BaselinesConfig(Config):
    """How each baseline is trained, by its name."""

    att2seq: Att2SeqConfig = Field(default_factory=Att2SeqConfig, description="Att2Seq.")
    nrt: NRTConfig = Field(default_factory=NRTConfig, description="NRT.")
    peter: PETERConfig = Field(default_factory=PETERConfig, description="PETER, and PETER+.")
    pepler: PEPLERConfig = Field(default_factory=PEPLERConfig, description="PEPLER.")
    lora: LoRAConfig = Field(default_factory=LoRAConfig, description="Low-rank weights.")

    def recipe(self, kind: BaselineKind) -> Recipe:
        """The section of a kind; PETER+ has that of PETER."""
        recipe: Recipe = getattr(self, "peter" if kind == "peter_plus" else kind)
        return recipe
