"""Drives a core or an engine to its end, and says in slow ways what it must give."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from xrec.config.decoding import DecodingConfig
from xrec.generate.engine import Advance, Completion, EngineCore, text_params
from xrec.generate.shared_engine import SharedEngine


def generate(
    engine: SharedEngine, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
) -> list[Completion]:
    """The completion of each prompt, in the order of the prompts."""
    params = text_params(decoding)
    found = sorted(engine.complete([(prompt, params) for prompt in prompts]), key=lambda c: c.index)
    assert [one.index for one in found] == list(range(len(prompts)))
    return found


def finish(core: EngineCore, told: list[Advance] | None = None) -> dict[int, Completion]:
    """Step until the core is idle; returns the completions by request id, and adds to `told`."""
    ended: dict[int, Completion] = {}
    while not core.is_idle:
        advances = core.step()
        keep(ended, advances)
        if told is not None:
            told += advances
    return ended


def keep(ended: dict[int, Completion], advances: Sequence[Advance]) -> None:
    """Put the completions among `advances` into `ended`."""
    for advance in advances:
        if advance.completion is not None:
            assert advance.completion.index == advance.request_id
            assert advance.request_id not in ended
            ended[advance.request_id] = advance.completion


def texts(ended: Mapping[int, Completion], requests: Sequence[int]) -> list[list[int]]:
    return [ended[request].token_ids for request in requests]


@torch.no_grad()
def greedy_by_hand(
    model: PreTrainedModel, prompt: Sequence[int], num_new: int, stop: Sequence[int]
) -> list[int]:
    """Greedy tokens of one prompt; each step computes the whole sequence, without a cache."""
    generated: list[int] = []
    while len(generated) < num_new:
        ids = torch.tensor([[*prompt, *generated]])
        token = int(model(ids, use_cache=False).logits[0, -1].argmax())
        if token in stop:
            break
        generated.append(token)
    return generated


@torch.no_grad()
def log_likelihoods_by_hand(
    model: PreTrainedModel, prompt: Sequence[int], continuation: Sequence[int]
) -> list[float]:
    """The log-likelihood of each token, in one pass over prompt and continuation."""
    logits = model(torch.tensor([[*prompt, *continuation]]), use_cache=False).logits[0]
    chances = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return [float(row[token]) for row, token in zip(chances, continuation, strict=True)]
