"""What every contestant of the training benchmark gets.

Pairs, frozen model, adapters, dtype, cores and seed are the same for all. In the prompts the
collaborative tokens stand after all texts.
"""

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.graph_data import read_data
from xrec.adapter.model import attach_adapters, build_adapters, embedding_scale
from xrec.adapter.pairs import PairPrompts
from xrec.config.adapter import AdapterModelConfig, Injection
from xrec.config.graph import GraphModelConfig, PretrainGraphConfig
from xrec.config.prompt import PromptConfig
from xrec.data.dataset import read_dataset
from xrec.graph.partition import Partition
from xrec.llm.examples import Example
from xrec.llm.model import load_model, load_tokenizer, resolve_dtype
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import resolve_model
from xrec.storage import open_location
from xrec.train.graph_model import GraphData, start_embeddings

PROMPT = PromptConfig(
    instruction="Explain in one sentence why this user would enjoy this business.",
    user="User: {user_profile}",
    item="Business: {item_title}. {item_profile}",
    collaborative="{user}{item}",
)
LEARNING_RATE, GRADIENT_CLIPPING, MAX_EXPLANATION_TOKENS = 1e-3, 1.0, 96


@dataclass(frozen=True)
class Contest:
    """What is the same for all."""

    dataset: str
    llm: str
    injection: Injection
    num_pairs: int
    batch_size: int
    dtype: Literal["float32", "bfloat16"]
    cores: int
    seed: int


@dataclass(frozen=True, eq=False)
class Setup:
    """A contest's parts in this process; only the adapters have gradients."""

    contest: Contest
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    examples: list[Example]

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The adapters' weights."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def optimizer(self) -> torch.optim.AdamW:
        """Return the optimizer, which is the same for all contestants."""
        return torch.optim.AdamW(self.trainable, lr=LEARNING_RATE, weight_decay=0.0)


@dataclass(frozen=True)
class Epoch:
    """One pass over the pairs: wall-clock seconds, and loss.

    The loss is in nats a label token. Of several workers, each has its own pairs' part of the mean
    over all workers' tokens.
    """

    seconds: float
    loss: float


Run = Iterator[Epoch]


def prepare(contest: Contest, *, num_threads: int = 1) -> Setup:
    """Read the dataset, make spectral vectors (D = 64), load the model, attach fresh adapters."""
    torch.set_num_threads(num_threads)
    torch.manual_seed(contest.seed)
    dataset, data = read_dataset(open_location(contest.dataset)), read_data(contest.dataset)
    graph = PretrainGraphConfig(workspace="", model=GraphModelConfig())
    given = GraphData(data.train, data.num_users, data.num_items)
    vectors = start_embeddings(graph, given, Partition.whole(given.num_nodes), torch.device("cpu"))
    users, items = vectors.split([data.num_users, data.num_items])
    folder = resolve_model(contest.llm)
    dtype = resolve_dtype(contest.dtype, torch.device("cpu"))
    model = load_model(folder, dtype=dtype, device=torch.device("cpu"))
    tokenizer = load_tokenizer(folder)
    adapters = build_adapters(
        AdapterModelConfig(injection=contest.injection),
        embedding_dim=users.shape[1],
        hidden_size=model.config.hidden_size,
    )
    scale = embedding_scale(model)
    adapters.user.fit_input(users, scale)
    adapters.item.fit_input(items, scale)
    embedding = attach_adapters(model, adapters, user_vectors=users, item_vectors=items)
    pairs = PairPrompts(dataset, PromptBuilder(tokenizer, PROMPT, embedding.vocabulary))
    explanations = dataset.explained_pairs("train").slice(0, contest.num_pairs)
    examples, _ = pairs.examples(explanations, MAX_EXPLANATION_TOKENS)
    return Setup(contest, model, tokenizer, examples)


def peak_gib() -> float:
    """Return the largest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
