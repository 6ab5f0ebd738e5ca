"""Toy models, prompts and cores for tests of our engine, and what they must give."""

import functools
import random
from collections.abc import Sequence
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedModel

from tests.world.models import NUM_ITEMS, NUM_USERS, attach_toy, toy_model
from tests.xrec.generate import cores
from xrec.config.adapter import Injection
from xrec.generate.builtin.engine import BuiltinCore
from xrec.generate.builtin.model import PackedModel
from xrec.generate.engine import TextParams
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


def make_sharing_prompts() -> list[list[int]]:
    """Prompts of user u with the items 0 to u: 20 tokens, 21 of the user, some of the item.

    The last pair occurs twice.
    """
    prompts = [
        [
            *range(3, 23),
            V + user,
            *range(30 + user, 50 + user),
            *[5 + item] * item,
            V + NUM_USERS + item,
        ]
        for user in range(NUM_USERS)
        for item in range(user + 1)
    ]
    return [*prompts, prompts[-1]]


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


greedy_by_hand = functools.partial(cores.greedy_by_hand, num_new=NUM_NEW, stop=[END])


@functools.cache
def all_by_hand(injection: Injection) -> tuple[list[list[int]], list[list[int]]]:
    """The prompts of `make_prompts`, then four that end with a user; `greedy_by_hand` of each.

    Do not change them.
    """
    model, prompts = make_model(injection), make_prompts()
    prompts += [[*prompt[:-1], V + place] for place, prompt in enumerate(prompts[:4])]
    return prompts, [greedy_by_hand(model, prompt) for prompt in prompts]
