"""Toy models, prompts and cores for tests of our engine, and slow ways to know what it must do."""

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from tests.toy import NUM_ITEMS, NUM_USERS, attach_toy, toy_model
from xrec.config.adapter import Injection
from xrec.generate.builtin.engine import BuiltinCore
from xrec.generate.builtin.model import PackedModel
from xrec.generate.engine import Advance, Completion, TextParams
from xrec.generate.shared_engine import SharedEngine

V, END, NUM_NEW = 64, 2, 12
GREEDY = TextParams(max_new_tokens=NUM_NEW)
BEGINNING = [*range(11, 31)]
BYTES_PER_POSITION = 2 * 2 * 2 * 8 * 4  # keys and values, 2 layers, 2 heads of 8 in float32


def make_prompts(count: int = 12) -> list[list[int]]:
    """Prompts of 4 to 60 tokens, most of which begin with BEGINNING.

    All but the last, which is text only, have a user and an item.
    """
    rng = random.Random(0)
    prompts = []
    for number in range(count - 1):
        texts = [[rng.randrange(3, V) for _ in range(rng.randint(1, 14))] for _ in range(3)]
        pair = [
            *texts[0],
            V + rng.randrange(NUM_USERS),
            *texts[1],
            V + NUM_USERS + rng.randrange(NUM_ITEMS),
            *texts[2],
        ]
        prompts.append(pair if number % 4 == 3 else [*BEGINNING, *pair])
    return [*prompts, [*BEGINNING, 7, 8, 9]]


def make_model(injection: Injection = "projected") -> LlamaForCausalLM:
    model = toy_model()
    attach_toy(model, injection)
    return model


def make_core(model: PreTrainedModel, stop: Sequence[int] = (END,), **settings: Any) -> BuiltinCore:
    values = {"max_rows": 64, "kv_cache_bytes": 2**22, "passes_per_step": 1, **settings}
    return BuiltinCore(PackedModel(model), stop, **values)


def make_engine(
    model: PreTrainedModel, stop: Sequence[int] = (END,), **settings: Any
) -> SharedEngine:
    return SharedEngine(make_core(model, stop, **{"passes_per_step": None, **settings}))


@torch.no_grad()
def greedy_by_hand(
    model: PreTrainedModel, prompt: Sequence[int], num_new: int = NUM_NEW
) -> list[int]:
    """Greedy tokens of one prompt; each step computes the whole sequence, without a cache."""
    generated: list[int] = []
    while len(generated) < num_new:
        ids = torch.tensor([[*prompt, *generated]])
        token = int(model(ids, use_cache=False).logits[0, -1].argmax())
        if token == END:
            break
        generated.append(token)
    return generated


@functools.cache
def all_by_hand(injection: Injection) -> list[list[int]]:
    """`greedy_by_hand` of the prompts of `make_prompts`; do not change it."""
    model = make_model(injection)
    return [greedy_by_hand(model, prompt) for prompt in make_prompts()]


@torch.no_grad()
def log_likelihoods_by_hand(
    model: PreTrainedModel, prompt: Sequence[int], continuation: Sequence[int]
) -> list[float]:
    """The log-likelihood of each token, in one pass over prompt and continuation."""
    logits = model(torch.tensor([[*prompt, *continuation]]), use_cache=False).logits[0]
    chances = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return [float(row[token]) for row, token in zip(chances, continuation, strict=True)]


def finish(core: BuiltinCore) -> dict[int, Completion]:
    """Step until the core is idle; returns the completions by request id."""
    ended: dict[int, Completion] = {}
    while not core.is_idle:
        keep(ended, core.step())
    return ended


def keep(ended: dict[int, Completion], advances: Sequence[Advance]) -> None:
    """Put the completions among `advances` into `ended`."""
    for advance in advances:
        if advance.completion is not None:
            assert advance.completion.index == advance.request_id
            assert advance.request_id not in ended
            ended[advance.request_id] = advance.completion


def texts(ended: Mapping[int, Completion], requests: Sequence[int]) -> list[list[int]]:
    """The ids of the text of each request."""
    return [ended[request].token_ids for request in requests]
