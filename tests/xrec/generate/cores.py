"""Toy models, prompts and cores; what drives them to their end; and in slow ways what they give."""

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from tests.world.models import NUM_ITEMS, NUM_USERS, attach_toy, toy_model
from xrec.config import DecodingConfig, Injection
from xrec.generate.builtin.engine import BuiltinCore
from xrec.generate.builtin.model import PackedModel
from xrec.generate.engine import Advance, Completion, EngineCore, TextParams, text_params
from xrec.generate.shared_engine import SharedEngine
from xrec.llm.collaborative import Vocabulary

V, END, NUM_NEW = 64, 2, 12
GREEDY = TextParams(max_new_tokens=NUM_NEW)
BEGINNING = [*range(11, 31)]
BYTES_PER_POSITION = 2 * 2 * 2 * 8 * 4  # keys and values, 2 layers, 2 heads of 8 in float32


def generate(
    engine: SharedEngine, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
) -> list[Completion]:
    """Return the completion of each prompt, in order."""
    params = text_params(decoding)
    found = sorted(engine.complete([(prompt, params) for prompt in prompts]), key=lambda c: c.index)
    assert [one.index for one in found] == list(range(len(prompts)))
    return found


def finish(core: EngineCore, told: list[Advance] | None = None) -> dict[int, Completion]:
    """Step until the core is idle; return the completions by request ID, and append to `told`."""
    ended: dict[int, Completion] = {}
    while not core.is_idle:
        advances = core.step()
        keep(ended, advances)
        if told is not None:
            told += advances
    return ended


def keep(ended: dict[int, Completion], advances: Sequence[Advance]) -> None:
    """Add the completions in `advances` to `ended`."""
    for advance in advances:
        if advance.completion is not None:
            assert advance.completion.index == advance.request_id
            assert advance.request_id not in ended
            ended[advance.request_id] = advance.completion


def texts(ended: Mapping[int, Completion], requests: Sequence[int]) -> list[list[int]]:
    return [ended[request].token_ids for request in requests]


@torch.no_grad()
def greedy_by_hand(
    model: PreTrainedModel,
    prompt: Sequence[int],
    num_new: int = NUM_NEW,
    stop: Sequence[int] = (END,),
) -> list[int]:
    """Return the greedy tokens of one prompt, computing the whole sequence in each step."""
    generated: list[int] = []
    while len(generated) < num_new:
        ids = torch.tensor([[*prompt, *generated]])
        token = int(model(ids, use_cache=False).logits[0, -1].argmax())
        if token in stop:
            break
        generated.append(token)
    return generated


@torch.inference_mode()
def gap(
    model: PreTrainedModel,
    prompt: Sequence[int],
    expected: Sequence[int],
    seen: Sequence[int],
    end: int,
) -> float:
    """Return the difference of the logits of the two tokens where the texts first differ."""
    ended = [[*text, end] for text in (expected, seen)]
    place = next(at for at, (one, other) in enumerate(zip(*ended, strict=False)) if one != other)
    ids = torch.tensor([[*prompt, *expected[:place]]], device=model.device)
    logits = model(ids, use_cache=False).logits[0, -1].float()
    return abs(float(logits[ended[0][place]] - logits[ended[1][place]]))


@torch.no_grad()
def log_likelihoods_by_hand(
    model: PreTrainedModel, prompt: Sequence[int], continuation: Sequence[int]
) -> list[float]:
    """Return the log-likelihood of each token, from one pass over prompt and continuation."""
    logits = model(torch.tensor([[*prompt, *continuation]]), use_cache=False).logits[0]
    chances = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return [float(row[token]) for row, token in zip(chances, continuation, strict=True)]


def make_prompts(count: int = 12) -> list[list[int]]:
    """Return prompts of 4 to 60 tokens; most start with BEGINNING.

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
    """Return prompts of each user u with items 0 to u: 20 shared tokens, 21 of the user, some more.

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


def with_all_tokens(prompt: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """Return `prompt` with all tokens of each user and item instead of the first one."""
    ids: list[int] = []
    for token in prompt:
        entity = token - vocabulary.num_text_tokens
        if entity < 0:
            ids.append(token)
        elif entity < vocabulary.num_users:
            ids += vocabulary.user_tokens(entity)
        else:
            ids += vocabulary.item_tokens(entity - vocabulary.num_users)
    return ids


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


@functools.cache
def all_by_hand(injection: Injection) -> tuple[list[list[int]], list[list[int]]]:
    """Return `make_prompts` with four more that end with a user, and the greedy tokens of each.

    Do not change them.
    """
    model, prompts = make_model(injection), make_prompts()
    prompts += [[*prompt[:-1], V + place] for place, prompt in enumerate(prompts[:4])]
    return prompts, [greedy_by_hand(model, prompt) for prompt in prompts]
