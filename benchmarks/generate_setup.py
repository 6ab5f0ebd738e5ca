"""What every contestant of the generation benchmarks gets: weights, prompts, dtype, threads."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, PreTrainedModel

from benchmarks.report import sources_of
from xrec.adapter.pairs import Pair
from xrec.config.decoding import DecodingConfig
from xrec.config.llm import EngineConfig, LLMConfig
from xrec.generate.builtin.engine import load_engine
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer


@dataclass(frozen=True)
class Contest:
    """What is the same for all contestants; all texts have `max_new_tokens`.

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
    collaborative: bool = True
    max_rows: int = 128
    kv_cache_gib: float = 4.0

    @property
    def engine(self) -> EngineConfig:
        """The engine of ours."""
        return EngineConfig(max_rows=self.max_rows, kv_cache_gib=self.kv_cache_gib)


@dataclass(frozen=True, eq=False)
class Setup:
    """A contest's parts in this process."""

    contest: Contest
    explainer: Explainer
    prompts: list[list[int]]

    @property
    def model(self) -> PreTrainedModel:
        """The language model with collaborative tokens and injection."""
        return self.explainer.model

    @property
    def decoding(self) -> DecodingConfig:
        """Greedy decoding to the contest's length."""
        return DecodingConfig(max_new_tokens=self.contest.max_new_tokens)

    def load_engine(self) -> Any:
        """The engine of ours, as an actor of a backfill has it, without end tokens."""
        return load_engine(self.model, [], self.contest.engine)


def prepare(contest: Contest) -> Setup:
    """Load the workspace's artifacts and the language model, and build the prompts."""
    torch.set_num_threads(contest.threads)
    sources = sources_of(contest.workspace, LLMConfig(model=contest.llm, dtype=contest.dtype))
    explainer = load_explainer(sources, device="cpu", engine=contest.engine)
    assert explainer.model is not None
    unpack_linears(explainer.model)
    # `generate` would take its end token from the model's own.
    explainer.model.generation_config = GenerationConfig()
    return Setup(contest, explainer, _prompts(explainer, contest))


def _prompts(explainer: Explainer, contest: Contest) -> list[list[int]]:
    """Each user with the next items, of those with explanations, or of all if there are none."""
    dataset = explainer.dataset
    explained = dataset.explained_pairs("train")
    users, items = (
        list(dict.fromkeys(explained[name].to_pylist())) or range(count)
        for name, count in (("user_index", dataset.num_users), ("item_index", dataset.num_items))
    )
    pairs = [
        Pair(users[place // contest.items_per_user % len(users)], items[place % len(items)])
        for place in range(contest.num_pairs)
    ]
    if contest.collaborative:
        return [explainer.pairs.prompt(pair) for pair in pairs]
    build = explainer.pairs.builder.build_without_tokens
    return [build(explainer.pairs.texts(pair)) for pair in pairs]


def unpack_linears(model: PreTrainedModel) -> None:
    """Give linear layers that the engine changed their own product back, as `generate` has it."""
    for part in model.modules():
        vars(part).pop("forward", None)
