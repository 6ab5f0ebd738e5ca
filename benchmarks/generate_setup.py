"""What every contestant of the generation benchmark is given: the same weights, adapters, prompts, dtype, threads and lengths."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import GenerationConfig, PreTrainedModel

from xrec.adapter.pairs import Pair
from xrec.config.llm import DecodingConfig, EngineConfig, LLMConfig
from xrec.config.shared import StorageConfig
from xrec.generate.explainer import Explainer, Sources, load_explainer
from xrec.llm.model import stop_token_ids


@dataclass(frozen=True)
class Contest:
    """What is held equal. `natural_stops`: texts end at the model's end token, else all are `max_new_tokens` long.

    `collaborative`: with the adapter's tokens and injection; else the same prompts of text alone, for contestants that know no others.
    """

    workspace: str
    llm: str
    dtype: Literal["float32", "bfloat16"]
    threads: int
    num_pairs: int
    items_per_user: int
    max_new_tokens: int
    natural_stops: bool
    collaborative: bool = True
    max_rows: int = 128
    key_value_gib: float = 4.0
    first_pair: int = 0


@dataclass(frozen=True, eq=False)
class Setup:
    """A contest's parts in this process. `stop` is empty without natural stops."""

    contest: Contest
    explainer: Explainer
    prompts: list[list[int]]
    stop: list[int]

    @property
    def model(self) -> PreTrainedModel:
        """With collaborative tokens and injection."""
        return self.explainer.model

    @property
    def decoding(self) -> DecodingConfig:
        """Greedy."""
        return DecodingConfig(max_new_tokens=self.contest.max_new_tokens)


Run = Callable[[Setup], Iterator[tuple[int, list[int]]]]
"""Gets ready when called; then yields (index, generated ids without the end token) of each prompt, which is what is timed."""


def prepare(contest: Contest) -> Setup:
    """Load the workspace's dataset, graph and adapter (as trained) and the language model; build the prompts."""
    torch.set_num_threads(contest.threads)
    folders = {name: f"{contest.workspace}/{name}" for name in ("dataset", "graph", "adapter")}
    sources = Sources(
        **folders, llm=LLMConfig(model=contest.llm, dtype=contest.dtype), storage=StorageConfig()
    )
    explainer = load_explainer(
        sources, device="cpu", engine=EngineConfig(max_rows=contest.max_rows, linear_layers="plain")
    )
    stop = (
        stop_token_ids(explainer.model, explainer.pairs.builder.tokenizer)
        if contest.natural_stops
        else []
    )
    explainer.model.generation_config = (
        GenerationConfig()
    )  # `generate` would take its end token from there
    return Setup(contest, explainer, prompts_of(explainer, contest), stop)


def prompts_of(explainer: Explainer, contest: Contest) -> list[list[int]]:
    """Each user with the items that come next: users and items that have texts, in their order in the explained pairs; all if none is explained."""
    explained = explainer.dataset.explained_pairs("train")
    users = list(dict.fromkeys(explained["user_index"].to_pylist())) or range(
        explainer.dataset.num_users
    )
    items = list(dict.fromkeys(explained["item_index"].to_pylist())) or range(
        explainer.dataset.num_items
    )
    places = range(contest.first_pair, contest.first_pair + contest.num_pairs)
    pairs = [
        Pair(users[place // contest.items_per_user % len(users)], items[place % len(items)])
        for place in places
    ]
    if contest.collaborative:
        return [explainer.pairs.prompt(pair) for pair in pairs]
    return [
        explainer.pairs.builder.build_without_tokens(explainer.pairs.texts(pair)) for pair in pairs
    ]
