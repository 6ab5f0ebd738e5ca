"""The contestant lora: low-rank weights in the linear layers of the frozen language model."""

from pydantic import Field

from xrec.config.adapter import LearningRateConfig
from xrec.config.base import Config


class LoraConfig(Config):
    """Low-rank weights (LoRA, arXiv 2106.09685) and how they are trained.

    The prompt is that of ours in words only, and the loss the same.
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
    max_pairs: int | None = Field(
        None,
        ge=1,
        description="Number of training pairs, drawn by a hash of their ids. If null, all.",
    )
    num_epochs: int = Field(1, ge=1, description="Number of passes over the training pairs.")
    global_batch_size: int = Field(
        16, ge=1, description="Number of pairs of an optimizer step, of all workers together."
    )
    micro_batch_size: int = Field(
        8, ge=1, description="Number of pairs of one forward pass of one worker."
    )
    learning_rate: LearningRateConfig = Field(
        default_factory=lambda: LearningRateConfig(peak=2e-4),
        description="Learning rate of AdamW.",
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    gradient_clipping: float = Field(
        1.0, ge=0, description="Largest global norm of the gradient. 0 means no clipping."
    )
    max_explanation_tokens: int = Field(
        128, ge=1, description="Longest training explanation, in tokens; longer ones are left out."
    )
    steps_per_checkpoint: int = Field(
        50, ge=1, description="Number of optimizer steps from one checkpoint to the next."
    )
    seed: int = Field(0, ge=0, description="Seed of the initialization and the order.")
