"""What every contestant of the generation benchmark gets.

The weights, adapters, prompts, dtype, threads and lengths of texts are the same for all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import GenerationConfig, PreTrainedModel

from benchmarks.workspace import sources_of
from xrec.adapter.pairs import Pair
from xrec.config.decoding import DecodingConfig
from xrec.config.engine import EngineConfig
from xrec.config.llm import LLMConfig
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer
from xrec.llm.model import stop_token_ids


@dataclass(frozen=True)
class Contest:
    """What is the same for all contestants.

    With `natural_stops` texts end at the model's end token; without, all have `max_new_tokens`.
    With `collaborative` prompts have the adapter's tokens and injection; without, they are the same
    prompts of text alone, for contestants that can do nothing else.
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
    kv_cache_gib: float = 4.0
    first_pair: int = 0


@dataclass(frozen=True, eq=False)
class Setup:
    """A contest's parts in this process; `stop` is empty without natural stops."""

    contest: Contest
    explainer: Explainer
    prompts: list[list[int]]
    stop: list[int]

    @property
    def model(self) -> PreTrainedModel:
        """The language model with collaborative tokens and injection."""
        return self.explainer.model

    @property
    def decoding(self) -> DecodingConfig:
        """Greedy decoding to the contest's length."""
        return DecodingConfig(max_new_tokens=self.contest.max_new_tokens)


Run = Callable[[Setup], Iterator[tuple[int, list[int]]]]
"""Prepares when called. Iterating is timed: it yields each prompt's index and generated ids.

The ids do not include the end token.
"""


def prepare(contest: Contest) -> Setup:
    """Load the workspace's artifacts and the language model, and build the prompts."""
    torch.set_num_threads(contest.threads)
    sources = sources_of(contest.workspace, LLMConfig(model=contest.llm, dtype=contest.dtype))
    explainer = load_explainer(
        sources, device="cpu", engine=EngineConfig(max_rows=contest.max_rows)
    )
    assert explainer.model is not None
    unpack_linears(explainer.model)
    stop = (
        stop_token_ids(explainer.model, explainer.pairs.builder.tokenizer)
        if contest.natural_stops
        else []
    )
    # `generate` would take its end token from the model's own.
    explainer.model.generation_config = GenerationConfig()
    return Setup(contest, explainer, prompts_of(explainer, contest), stop)


def prompts_of(explainer: Explainer, contest: Contest) -> list[list[int]]:
    """Return the prompts: each user with the next items of the list.

    Users and items are those that have explanations, in the order of the explained pairs; if the
    dataset has none, all users and items.
    """
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


def unpack_linears(model: PreTrainedModel) -> None:
    """Give linear layers that the engine changed their own product back, as `generate` has it."""
    for part in model.modules():
        vars(part).pop("forward", None)
