"""What adapter training reads: the dataset's explained pairs as examples, and the graph's vectors."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig

from xrec.adapter.pairs import PairPrompts
from xrec.config.adapter import TrainAdapterConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.llm.collaborative import Vocabulary
from xrec.llm.examples import Example
from xrec.llm.model import load_tokenizer
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import resolve_model
from xrec.storage import open_location


@dataclass(frozen=True)
class AdapterData:
    """What the workers train on. `left_out` counts training pairs without an example, by reason."""

    train: list[Example]
    validation: list[Example]
    left_out: Counter[str]
    graph: GraphEmbeddings


def load_adapter_data(config: TrainAdapterConfig) -> AdapterData:
    """Read dataset and graph and build all examples; raises DataError if there are too few."""
    dataset = read_dataset(open_location(config.artifact("dataset"), config.storage))
    graph = read_graph(open_location(config.artifact("graph"), config.storage))
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    prompts = _pair_prompts(config, dataset, graph, folder)
    train, left_out = prompts.examples(
        dataset.explained_pairs("train"), config.training.max_explanation_tokens
    )
    held_out = dataset.explained_pairs("validation")
    validation, _ = prompts.examples(
        held_out.slice(0, config.training.max_validation_pairs),
        config.training.max_explanation_tokens,
    )
    if len(train) < config.training.global_batch_size or not validation:
        raise DataError(
            f"{len(train)} training and {len(validation)} validation pairs with an explanation that fits ({dict(left_out)} left out); expected "
            f"at least training.global_batch_size = {config.training.global_batch_size} and 1: lower it, or raise the limits"
        )
    return AdapterData(train, validation, left_out, graph)


def _pair_prompts(
    config: TrainAdapterConfig, dataset: Dataset, graph: GraphEmbeddings, folder: Path
) -> PairPrompts:
    num_text_tokens = AutoConfig.from_pretrained(folder).vocab_size
    vocabulary = Vocabulary(
        num_text_tokens, len(graph.users), len(graph.items), config.model.num_tokens
    )
    return PairPrompts(dataset, PromptBuilder(load_tokenizer(folder), config.prompt, vocabulary))
