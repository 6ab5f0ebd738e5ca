"""The baselines of a comparison: published models, and low-rank weights of the language model.

Sizes and all else of their training are those of the papers (xrec/lab/baselines/recipe.py).
"""

from typing import Literal

from pydantic import Field

from xrec.config.base import Config

BaselineKind = Literal["att2seq", "nrt", "peter", "peter_plus", "pepler", "lora"]


class BaselineConfig(Config):
    """What may be changed of a baseline's training."""

    num_epochs: int | None = Field(
        None,
        ge=1,
        description="Largest number of passes over the training pairs, of each phase. If null, 100 "
        "as published, and 1 of lora.",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Learning rate. If null, as published, and 2e-4 of lora."
    )
    max_validation_pairs: int | None = Field(
        None,
        ge=1,
        description="Number of validation pairs after each epoch, drawn like the training pairs. "
        "If null, all are used.",
    )


class LoRAConfig(BaselineConfig):
    """Low-rank weights (LoRA, arXiv 2106.09685) in the attention of the frozen language model.

    The prompt is that of ours in words only, and the loss the same.
    """

    rank: int = Field(8, ge=1, description="Rank of the product that is added to a layer.")
    max_explanation_tokens: int = Field(
        128, ge=1, description="Longest training explanation, in tokens; longer ones are left out."
    )


class BaselinesConfig(Config):
    """How each baseline is trained, by its name; peter_plus is trained as peter."""

    att2seq: BaselineConfig = Field(default_factory=BaselineConfig, description="Att2Seq.")
    nrt: BaselineConfig = Field(default_factory=BaselineConfig, description="NRT.")
    peter: BaselineConfig = Field(
        default_factory=BaselineConfig, description="PETER, and PETER+, which reads an aspect."
    )
    pepler: BaselineConfig = Field(default_factory=BaselineConfig, description="PEPLER.")
    lora: LoRAConfig = Field(default_factory=LoRAConfig, description="Low-rank weights.")

    def of(self, kind: BaselineKind) -> BaselineConfig:
        """The section of a kind."""
        section: BaselineConfig = getattr(self, "peter" if kind == "peter_plus" else kind)
        return section
