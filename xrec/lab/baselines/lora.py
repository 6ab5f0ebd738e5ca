"""LoRA: low-rank weights beside the frozen layers of a language model, by the library peft.

For a frozen weight W (out x in) a layer computes x W^T + (alpha / rank) x A^T B^T, with A (rank x
in) and B (out x rank); B begins as zeros, so that training begins at the frozen model.

Hu and others: LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685. It reads a
prompt in words: users and items have no token, so they leave nothing in it. Its texts are written
by a backfill, of the language model with the sums.
"""

from typing import Any

import pyarrow as pa
from torch import Tensor, nn
from transformers import PreTrainedModel

from xrec.adapter.pairs import PairPrompts
from xrec.data import Dataset
from xrec.errors import DataError, ModelError
from xrec.lab.baselines.baseline import Baseline
from xrec.llm.collaborative import Vocabulary
from xrec.llm.loss import Batch, Example, token_nll
from xrec.llm.model import load_tokenizer, read_text_config
from xrec.llm.prompt import PromptBuilder

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
_ALPHA = 16.0


def text_vocabulary(num_text_tokens: int, dataset: Dataset) -> Vocabulary:
    """Ids of text alone."""
    return Vocabulary(num_text_tokens, dataset.num_users, dataset.num_items, num_tokens=0)


def prompt_examples(baseline: Baseline, dataset: Dataset, explanations: pa.Table) -> list[Example]:
    """Examples of the table; raises DataError if it has none that fits."""
    folder, prompt = baseline.llm_folder(), baseline.config.prompt
    vocabulary = text_vocabulary(read_text_config(folder).vocab_size, dataset)
    builder = PromptBuilder(load_tokenizer(folder), prompt, vocabulary)
    prompts = PairPrompts(dataset, builder)
    examples, left_out = prompts.examples(explanations, baseline.recipe.max_explanation_tokens)
    if not examples:
        raise DataError(
            f"none of {explanations.num_rows} pairs has a prompt and an explanation that fit "
            f"({dict(left_out)} left out); raise training.max_explanation_tokens, or the "
            "limits of the prompt",
            code="no_pair_fits",
            key="training.max_explanation_tokens",
            saw=dict(left_out),
        )
    return examples


class LoRA(nn.Module):
    """A language model with low-rank weights in its attention, which alone are trained, in float32.

    They are drawn by torch's generator. Raises ModelError if the model lacks a layer that gets one.
    """

    loss_weights = (1.0,)

    def __init__(self, language_model: PreTrainedModel, *, rank: int):
        from peft import LoraConfig, get_peft_model  # an extra

        super().__init__()
        names = {name.rpartition(".")[2] for name, _ in language_model.named_modules()}
        if missing := sorted(set(TARGET_MODULES) - names):
            raise ModelError(
                f"lora: {type(language_model).__name__} has no layers named {', '.join(missing)}; "
                "leave lora out, or give a language model of another family",
                code="layers_missing",
                key="llm.model",
                saw=missing,
            )
        settings = LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=_ALPHA,
            lora_dropout=0.0,
            target_modules=list(TARGET_MODULES),
        )
        self.language_model: Any = get_peft_model(language_model, settings)

    def forward(self, batch: Batch) -> Tensor:
        """The sum of the explanations' NLL, (1,) nats."""
        return token_nll(self.language_model, batch).sum()[None]

    def counts(self, batch: Batch) -> Tensor:
        """The number of their tokens, (1,) float32."""
        return (batch.labels >= 0).sum().float()[None]

    def merged(self) -> PreTrainedModel:
        """The language model with the low-rank weights added to its own, in place.

        The sums are rounded to the model's dtype.
        """
        merged: PreTrainedModel = self.language_model.merge_and_unload()
        return merged.requires_grad_(False).eval()
