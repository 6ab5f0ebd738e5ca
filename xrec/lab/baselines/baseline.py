"""A baseline of a comparison: its recipe, its seed, its settings, and where its model is written.

A recipe is the paper's, or that of the public code where the two differ (docs/baselines.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from xrec.config import AdapterTrainingConfig, BaselineKind, CompareConfig
from xrec.llm.source import resolve_model
from xrec.storage import Location, open_location


@dataclass(frozen=True)
class Recipe:
    """How a baseline is trained. Optimizers are torch's, without weight decay.

    learning_rate_decay: factor of the rate after each epoch without a lower validation loss.
    warmup_share: share of the steps in which the rate rises; it then falls to zero. If None, the
        rate is constant.
    gradient_clipping: the maximum norm of the gradient, or None.
    batch_size: pairs per optimizer step. micro_batch_size: pairs per pass.
    patience: number of epochs without a lower validation loss after which training ends; they need
        not be consecutive.
    sizes: further arguments of the model.
    """

    optimizer: Literal["Adam", "AdamW", "SGD"]
    learning_rate: float
    learning_rate_decay: float = 1.0
    warmup_share: float | None = None
    gradient_clipping: float | None = None
    batch_size: int = 128
    micro_batch_size: int = 64
    num_epochs: int = 100
    patience: int = 5
    max_validation_pairs: int | None = None
    max_explanation_tokens: int = 128
    sizes: Mapping[str, float] = field(default_factory=dict)


RECIPES: Mapping[BaselineKind, Recipe] = {
    "att2seq": Recipe("Adam", 1e-4, gradient_clipping=5.0, batch_size=50),
    "nrt": Recipe("Adam", 1e-4, batch_size=200),
    "peter": Recipe("SGD", 1.0, learning_rate_decay=0.25, gradient_clipping=1.0),
    "pepler": Recipe("AdamW", 1e-3, micro_batch_size=16),
    "lora": Recipe(
        "AdamW",
        2e-4,
        warmup_share=0.05,
        gradient_clipping=1.0,
        batch_size=16,
        micro_batch_size=8,
        sizes={"rank": 8},
    ),
}


def recipe_of(kind: BaselineKind, training: AdapterTrainingConfig) -> Recipe:
    """Return the recipe of a kind: as published; lora has our epochs and maximum length."""
    own = {"num_epochs", "max_explanation_tokens"} if kind == "lora" else set()
    changes = training.model_dump(include={"max_validation_pairs", *own})
    return replace(RECIPES[kind], **changes)


@dataclass(frozen=True)
class Baseline:
    """Everything that a training and its texts depend on; it can be sent to another process.

    config: the comparison's. Only lora uses its `prompt`, without collaborative tokens, and only
    lora and pepler its language model. output: the URI of the trained model.
    """

    kind: BaselineKind
    seed: int
    recipe: Recipe
    config: CompareConfig
    output: str

    @property
    def model(self) -> Location:
        """The folder of the trained model."""
        return open_location(self.output, self.config.storage)

    def llm_folder(self) -> Path:
        """Return the local folder of the language model; raise ModelError if there is none."""
        return resolve_model(self.config.llm, self.config.storage)
