"""LoRA: low-rank weights beside the frozen layers of a language model, by the library peft.

For a frozen weight W (out x in) a layer computes x W^T + (alpha / rank) x A^T B^T, with A (rank x
in) and B (out x rank); B begins as zeros, so that training begins at the frozen model.

Hu and others: LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685. It reads a
prompt in words: users and items have no token, so they leave nothing in it. Its texts are written
by a backfill, of the language model with the sums.
"""

from typing import Any

import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel

from xrec.adapter.pairs import PairPrompts
from xrec.aspects import read_chooser
from xrec.data.dataset import Dataset
from xrec.errors import DataError, ModelError
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.model import TrainedModel
from xrec.llm.collaborative import Vocabulary
from xrec.llm.examples import Batch, Example, token_nll
from xrec.llm.model import load_tokenizer, read_text_config
from xrec.llm.prompt import PromptBuilder

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
_ALPHA = 16.0


def text_vocabulary(num_text_tokens: int, dataset: Dataset) -> Vocabulary:
    """Ids of text alone."""
    return Vocabulary(num_text_tokens, dataset.num_users, dataset.num_items, num_tokens=0)


def prompt_examples(baseline: Baseline, dataset: Dataset, explanations: pa.Table) -> list[Example]:
    """Examples of the table; raises DataError if it has none that fits."""
    folder = baseline.llm_folder()
    vocabulary = text_vocabulary(read_text_config(folder).vocab_size, dataset)
    builder = PromptBuilder(load_tokenizer(folder), baseline.prompt, vocabulary)
    aspects = baseline.open(baseline.aspects)
    chooser = read_chooser(aspects, dataset) if baseline.prompt.aspects else None
    prompts = PairPrompts(dataset, builder, chooser)
    examples, left_out = prompts.examples(explanations, baseline.recipe.max_explanation_tokens)
    if not examples:
        raise DataError(
            f"none of {explanations.num_rows} pairs has a prompt and an explanation that fit "
            f"({dict(left_out)} left out); raise training.max_explanation_tokens, or the "
            "limits of the prompt"
        )
    return examples


class LoRA(TrainedModel):
    """A language model with low-rank weights in its attention, which alone are trained, in float32.

    They are drawn by torch's generator. Raises ModelError if the model lacks a layer that gets one.
    """

    def __init__(self, language_model: PreTrainedModel, *, rank: int):
        from peft import LoraConfig, inject_adapter_in_model  # an extra

        super().__init__()
        names = {name.rpartition(".")[2] for name, _ in language_model.named_modules()}
        if missing := sorted(set(TARGET_MODULES) - names):
            raise ModelError(
                f"lora: {type(language_model).__name__} has no layers named {', '.join(missing)}; "
                "leave lora out, or give a language model of another family"
            )
        settings = LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=_ALPHA,
            lora_dropout=0.0,
            target_modules=list(TARGET_MODULES),
        )
        self.language_model: Any = inject_adapter_in_model(settings, language_model)
        for weight in self.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()

    def forward(self, batch: Batch) -> Tensor:
        """See TrainedModel."""
        return token_nll(self.language_model, batch).sum()[None]

    def counts(self, batch: Batch) -> Tensor:
        """See TrainedModel."""
        return (batch.labels >= 0).sum().float()[None]

    def merged(self) -> PreTrainedModel:
        """The language model with the low-rank weights added to its own, in place.

        The sums are rounded to the model's dtype.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        model = self.language_model
        for name, layer in list(model.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                parent, _, own_name = name.rpartition(".")
                setattr(model.get_submodule(parent), own_name, layer.get_base_layer())
        plain: PreTrainedModel = model.requires_grad_(False).eval()
        return plain
