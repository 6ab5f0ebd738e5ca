"""LoRA: low-rank weights added to the frozen layers of a language model, by the library peft.

For a frozen weight W (out x in) a layer computes x W^T + (alpha / rank) x A^T B^T, with A (rank x
in) and B (out x rank). B is zero at first, so training starts from the frozen model.

Hu and others: LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685. Its prompt is
words only, without tokens for users and items. A backfill writes its texts, with the low-rank
weights added to the language model's own.
"""

from typing import Any

import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedModel

from xrec.adapter.pairs import PairPrompts
from xrec.data import Dataset
from xrec.errors import DataError, ModelError
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.writer import Trained
from xrec.llm.loss import Batch, Example, token_nll
from xrec.llm.model import load_tokenizer
from xrec.text.writers import builder_from_words

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
_ALPHA = 16.0


def prompt_examples(baseline: Baseline, dataset: Dataset, explanations: pa.Table) -> list[Example]:
    """Return the examples of the table; raise DataError if none fits."""
    tokenizer = load_tokenizer(baseline.llm_folder())
    builder = builder_from_words(dataset, tokenizer, baseline.config.prompt)
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


class LoRA(Trained):
    """A language model whose attention has low-rank weights; only these are trained, in float32.

    Raises ModelError if the model lacks one of TARGET_MODULES.
    """

    def __init__(self, language_model: PreTrainedModel, *, rank: int):
        from peft import LoraConfig, get_peft_model  # an extra

        super().__init__()
        names = {name.rpartition(".")[2] for name, _ in language_model.named_modules()}
        if missing := sorted(set(TARGET_MODULES) - names):
            raise ModelError(
                f"lora: {type(language_model).__name__} has no layers named {', '.join(missing)}; "
                "remove lora from entries, or choose a language model of another family",
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
        """Return the sum of the explanations' NLL, (1,) nats."""
        return token_nll(self.language_model, batch).sum()[None]

    def merged(self) -> PreTrainedModel:
        """Add the low-rank weights to the language model's own and return it.

        The sums are rounded to the model's dtype.
        """
        merged: PreTrainedModel = self.language_model.merge_and_unload()
        return merged.requires_grad_(False).eval()
