"""Prompts in words only, as a language model without users and items reads them."""

from collections.abc import Sequence

import pyarrow as pa

from xrec.adapter.pairs import PairPrompts
from xrec.aspects import read_chooser
from xrec.config.baselines import LoRAConfig
from xrec.data.dataset import Dataset
from xrec.errors import DataError
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.language_model import language_model_folder
from xrec.lab.baselines.models.lora import PromptBatch
from xrec.llm.collaborative import Vocabulary
from xrec.llm.examples import Example, collate
from xrec.llm.model import load_tokenizer, read_text_config
from xrec.llm.prompt import PromptBuilder


def text_vocabulary(num_text_tokens: int, dataset: Dataset) -> Vocabulary:
    """Ids of text alone: a user and an item have no token, so they leave nothing in a prompt."""
    return Vocabulary(num_text_tokens, dataset.num_users, dataset.num_items, num_tokens=0)


def prompt_examples(
    baseline: Baseline, dataset: Dataset, *explanations: pa.Table
) -> list[list[Example]]:
    """Examples of each table; raises DataError if a table has none that fits."""
    folder = language_model_folder(baseline)
    vocabulary = text_vocabulary(read_text_config(folder).vocab_size, dataset)
    builder = PromptBuilder(load_tokenizer(folder), baseline.prompt, vocabulary)
    chooser = None
    if baseline.prompt.aspects:
        chooser = read_chooser(baseline.open(baseline.aspects), dataset)
    prompts, found = PairPrompts(dataset, builder, chooser), []
    for table in explanations:
        examples, left_out = prompts.examples(table, _longest(baseline))
        if not examples:
            raise DataError(
                f"none of {table.num_rows} pairs has a prompt and an explanation that fit "
                f"({dict(left_out)} left out); raise baselines.lora.max_explanation_tokens, or the "
                "limits of the prompt"
            )
        found.append(examples)
    return found


def collate_prompts(examples: Sequence[Example]) -> PromptBatch:
    """The examples as a batch."""
    return PromptBatch(collate(examples))


def _longest(baseline: Baseline) -> int:
    recipe = baseline.recipe
    assert isinstance(recipe, LoRAConfig)
    return recipe.max_explanation_tokens
