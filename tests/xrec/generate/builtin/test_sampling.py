"""Sampling and masks: frequencies equal probabilities, and only what a mask allows is written."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.xrec.generate.builtin.toy_cores import (
    END,
    GREEDY,
    V,
    make_core,
    make_model,
    make_prompts,
)
from tests.xrec.generate.cores import finish
from xrec.generate.builtin import sampling
from xrec.generate.builtin.requests import Request
from xrec.generate.builtin.sampling import apply_masks, draws, next_tokens, sampled
from xrec.generate.engine import Completion, TextParams

EVEN = [token for token in range(4, V) if token % 2 == 0]


def drawn(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    rows = torch.full((len(uniform),), temperature, dtype=torch.float64)
    return sampled(logits.expand(len(uniform), -1), uniform, rows, torch.full_like(rows, top_p))


def drawn_by_hand(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> list[int]:
    """Sort all tokens of a row by probability, and walk along them up to the number."""
    weights = torch.exp((logits.double() - logits.double().max()) / temperature).tolist()
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    nucleus: list[int] = []
    for token in order:
        if sum(weights[one] for one in nucleus) >= top_p * sum(weights):
            break
        nucleus.append(token)
    mass, tokens = sum(weights[token] for token in nucleus), []
    for number in uniform.tolist():
        left = number * mass
        for token in nucleus:
            left -= weights[token]
            if left < 0:
                break
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("top_p", [1.0, 0.999, 0.9, 0.3, 1e-9])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 30.0])
@pytest.mark.parametrize("num_likeliest", [1, 8, 500])
def test_sampled_tokens_are_those_of_a_full_sort(monkeypatch, num_likeliest, temperature, top_p):
    monkeypatch.setattr(sampling, "_NUM_LIKELIEST", num_likeliest)
    # In bfloat16 many logits are equal.
    logits = (2 * torch.randn(500, generator=torch.Generator().manual_seed(1))).bfloat16()
    uniform = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    assert drawn(logits, uniform, temperature, top_p).tolist() == drawn_by_hand(
        logits, uniform, temperature, top_p
    )


def test_sampled_rows_have_their_own_temperature_and_nucleus():
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    uniform = torch.tensor([0.5, 0.9, 0.1], dtype=torch.float64)
    temperature = torch.tensor([1.0, 5.0, 0.1], dtype=torch.float64)
    top_p = torch.tensor([0.5, 1.0, 0.9], dtype=torch.float64)
    assert sampled(logits, uniform, temperature, top_p).tolist() == [
        drawn_by_hand(row, one[None], float(heat), float(share))[0]
        for row, one, heat, share in zip(logits, uniform, temperature, top_p, strict=True)
    ]


def test_sampled_never_takes_a_token_that_is_not_allowed():
    logits = torch.where(torch.arange(600) % 100 == 7, 0.0, -torch.inf)
    uniform = torch.linspace(0, 0.999999, 100, dtype=torch.float64)
    tokens = drawn(logits, uniform, temperature=1.0, top_p=1.0)
    assert set(tokens.tolist()) == {7, 107, 207, 307, 407, 507}


def test_next_tokens_without_temperature_are_the_first_of_equal_logits():
    requests = [Request(number, [3], GREEDY, frozenset()) for number in range(2)]
    assert next_tokens(requests, torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])) == [1, 0]


def test_draws_depend_on_seed_and_prompt():
    params = TextParams(seed=0, max_new_tokens=5)
    one = draws([1, 2], params)
    assert torch.equal(one, draws([1, 2], params))
    assert one.shape == (5,)
    assert not torch.equal(one, draws([1, 3], params))
    assert not torch.equal(one, draws([1, 2], TextParams(seed=1, max_new_tokens=5)))


class SequenceMask:
    """After token t, the tokens `follow[t]` may come; `first` before there is one."""

    def __init__(self, first: list[int], follow: dict[int, list[int]]):
        self._allowed, self._follow = first, follow

    def fill(self, bitmask: Tensor) -> bool:
        words = [0] * len(bitmask)
        for token in self._allowed:
            words[token // 32] |= 1 << token % 32
        bitmask.copy_(torch.tensor([word - (word >= 2**31) * 2**32 for word in words]))
        return True

    def accept(self, token_id: int) -> None:
        assert token_id in self._allowed
        self._allowed = self._follow[token_id]


class AnyMask:
    """Allows everything and says so without writing a mask."""

    def fill(self, bitmask: Tensor) -> bool:
        return False

    def accept(self, token_id: int) -> None:
        pass


def complete(*requests: tuple[list[int], TextParams]) -> list[Completion]:
    core = make_core(make_model())
    ids = [core.add(*request) for request in requests]
    ended = finish(core)
    return [replace(ended[one], index=0) for one in ids]


def test_apply_masks_leaves_the_allowed_logits_as_they_are():
    rng = random.Random(0)
    for vocabulary in (5, 32, 33, 64, 100):
        rows = [rng.sample(range(vocabulary), 3) for _ in range(4)]
        logits = torch.randn(6, vocabulary)
        before = logits.clone()
        apply_masks(logits, [None, *(SequenceMask(row, {}) for row in rows), AnyMask()])
        for row, allowed in enumerate([range(vocabulary), *rows, range(vocabulary)]):
            expected = torch.full((vocabulary,), -torch.inf)
            expected[list(allowed)] = before[row, list(allowed)]
            assert torch.equal(logits[row], expected)


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_text_follows_its_mask_and_the_others_are_as_without(temperature):
    first, second, third = make_prompts()[:3]
    params = replace(GREEDY, temperature=temperature)
    follow = {5: [7, 9], 7: [5], 9: [5, END]}
    masked, free, any_token = complete(
        (first, replace(params, constraint=lambda: SequenceMask([5, 7], follow))),
        (second, params),
        (third, replace(params, constraint=AnyMask)),
    )
    assert set(masked.token_ids) <= {5, 7, 9}
    assert all(after in follow[token] for token, after in pairwise(masked.token_ids))
    assert complete((second, params)) == [free]
    assert complete((third, params)) == [any_token]


def test_greedy_text_takes_the_likeliest_of_the_allowed_tokens():
    prompt = make_prompts()[0]
    follow = dict.fromkeys(EVEN, EVEN)
    params = replace(GREEDY, constraint=lambda: SequenceMask(EVEN, follow))
    model, text = make_model(), complete((prompt, params))[0].token_ids
    for place in range(len(text)):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *text[:place]]])).logits[0, -1]
        assert text[place] == max(EVEN, key=lambda token: float(logits[token]))


def test_mask_that_leaves_no_token_fails_its_text_alone():
    first, second = make_prompts()[:2]
    dead_end = replace(GREEDY, constraint=lambda: SequenceMask([5], {5: [7], 7: []}))
    failed, fine = complete((first, dead_end), (second, GREEDY))
    assert failed.failure.reason == "no_token_allowed"
    assert (failed.finish_reason, failed.token_ids) == ("failed", [])
    assert [fine] == complete((second, GREEDY))
