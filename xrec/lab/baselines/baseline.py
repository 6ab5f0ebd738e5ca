"""A baseline of a comparison with its seed: what it reads, its recipe, where its model lies.

A recipe is that of the paper, or of its public code where that says why it departs from the paper
(docs/baselines.md): PETER (Li and others, ACL 2021), LoRA (arXiv 2106.09685).
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
    """How a baseline is trained; optimizers are torch's, without weight decay.

    learning_rate_decay: what the rate is multiplied by after each epoch without a lower validation
        loss. warmup_share: of all steps; the rate rises in them, then falls to zero; None: neither.
    gradient_clipping: the largest norm. batch_size: pairs of a step; micro_batch_size: of a pass.
    patience: epochs without a lower validation loss, in all, after which the training ends.
    sizes: further arguments of the model.
    """

    optimizer: Literal["AdamW", "SGD"]
    learning_rate: float
    learning_rate_decay: float = 1.0
    warmup_share: float | None = None
    gradient_clipping: float | None = 1.0
    batch_size: int = 128
    micro_batch_size: int = 64
    num_epochs: int = 100
    patience: int = 5
    max_validation_pairs: int | None = None
    max_explanation_tokens: int = 128
    sizes: Mapping[str, float] = field(default_factory=dict)


RECIPES: Mapping[BaselineKind, Recipe] = {
    "peter": Recipe("SGD", 1.0, learning_rate_decay=0.25),
    "lora": Recipe(
        "AdamW", 2e-4, warmup_share=0.05, batch_size=16, micro_batch_size=8, sizes={"rank": 8}
    ),
}


def recipe_of(kind: BaselineKind, training: AdapterTrainingConfig) -> Recipe:
    """The recipe of a kind: as published, and of lora with the passes and longest text of ours."""
    own = {"num_epochs", "max_explanation_tokens"} if kind == "lora" else set()
    changes = training.model_dump(include={"max_validation_pairs", *own})
    return replace(RECIPES[kind], **changes)


@dataclass(frozen=True)
class Baseline:
    """What a training and its texts depend on; it may be sent to a process anywhere.

    config: of the comparison. Of its `prompt`, which is
        in words only here, and language model there is use for lora alone; a training's process is
        like a worker of its `workers`.
    output: the URI of the model.
    """

    kind: BaselineKind
    seed: int
    recipe: Recipe
    config: CompareConfig
    output: str

    @property
    def model(self) -> Location:
        """Where the trained model lies."""
        return open_location(self.output, self.config.storage)

    def llm_folder(self) -> Path:
        """The local folder of the language model; raises ModelError if there is none."""
        return resolve_model(self.config.llm, self.config.storage)
