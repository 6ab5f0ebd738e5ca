"""LoRA: low-rank weights beside the frozen layers of a language model, by the library peft.

For a frozen weight W (out x in) a layer computes x W^T + (alpha / rank) x A^T B^T, with A (rank x
in) and B (out x rank); B begins as zeros, so that training begins at the frozen model.

Hu and others: LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685. It reads a
prompt in words; its texts are written by a backfill, of the language model with the sums.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xrec.config.baselines import LoRAConfig
from xrec.errors import ModelError
from xrec.lab.baselines.models.model import TrainedModel, sums
from xrec.llm.examples import Batch, token_nll


@dataclass(frozen=True)
class PromptBatch:
    """Prompts in words with their explanations (`xrec.llm.examples`)."""

    rows: Batch

    @property
    def counts(self) -> Tensor:
        """See models.model.Batch."""
        num_labels = (self.rows.labels >= 0).sum()
        return torch.stack([num_labels, *[torch.zeros_like(num_labels)] * 2]).float()

    def to(self, device: torch.device) -> "PromptBatch":
        """The same on `device`."""
        return PromptBatch(self.rows.to(device))


class LoRA(TrainedModel):
    """A language model with low-rank weights, which alone are trained, in float32.

    They are drawn by torch's generator. Raises ModelError if the model has no layer of one of the
    names in `target_modules`.
    """

    def __init__(self, config: LoRAConfig, language_model: PreTrainedModel):
        from peft import LoraConfig, inject_adapter_in_model  # an extra

        super().__init__()
        names = {name.rpartition(".")[2] for name, _ in language_model.named_modules()}
        if missing := sorted(set(config.target_modules) - names):
            raise ModelError(
                f"baselines.lora.target_modules: {type(language_model).__name__} has no layers "
                f"named {', '.join(missing)}; give names of its linear layers"
            )
        settings = LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.target_modules),
        )
        self.language_model: Any = inject_adapter_in_model(settings, language_model)
        for weight in self.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()

    def forward(self, batch: PromptBatch) -> Tensor:
        """See TrainedModel."""
        return sums(token_nll(self.language_model, batch.rows).sum())

    def merged(self) -> PreTrainedModel:
        """The language model with the low-rank weights added to its own, in place.

        The sums are rounded to the model's dtype.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        model = self.language_model
        layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, BaseTunerLayer)
        }
        for name, layer in layers.items():
            layer.merge()
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, layer.get_base_layer())
        plain: PreTrainedModel = model.requires_grad_(False).eval()
        return plain
