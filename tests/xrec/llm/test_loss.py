"""The loss of split and padded passes against transformers' own, of one whole row at a time.

The cache of prefixes changes no loss with any budget, and computes no more than it must.
"""

import random
from collections.abc import Sequence
from unittest.mock import Mock, call

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.world.models import NUM_USERS, attach_toy, tiny_decoder, toy_model
from xrec.config import Injection
from xrec.llm.loss import (
    IGNORE,
    Example,
    PrefixCache,
    batch_key_values,
    can_split,
    collate,
    compute_key_values,
    label_nll,
    num_prefix_tokens,
    token_nll,
)

V = 64
SHARED = [7, 8, 9]
RULES: list[Injection] = ["direct", "projected", "none"]


def make_examples() -> list[Example]:
    """Return six examples with explanations of 1 to 4 tokens.

    A prompt is [shared, own text of 0 to 5 tokens, a user, up to two words, an item, a word].
    """
    rng = random.Random(0)

    def words(least: int, most: int) -> list[int]:
        return [rng.randrange(10, V) for _ in range(rng.randint(least, most))]

    def prompt(row: int) -> list[int]:
        user, item = V + row % NUM_USERS, V + NUM_USERS + row
        return [*SHARED, *words(row, row), user, *words(0, 2), item, *words(1, 1)]

    return [Example(prompt(row), words(1, 4)) for row in range(6)]


def nll_by_transformers(model: torch.nn.Module, example: Example) -> torch.Tensor:
    """Return the sum of the labels' NLL by the model's own loss, of the whole row alone."""
    ids = torch.tensor([[*example.prompt_ids, *example.label_ids]])
    labels = ids.clone()
    labels[0, : len(example.prompt_ids)] = IGNORE
    return model(ids, labels=labels).loss * len(example.label_ids)


def take_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    named = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return {name: gradient for name, gradient in named.items() if gradient is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rule", RULES)
def test_split_pass_has_the_loss_and_gradients_of_the_whole_pass(rule, attention):
    model = toy_model()
    model.set_attn_implementation(attention)
    attach_toy(model, rule)
    examples = make_examples()
    expected_loss = sum(nll_by_transformers(model, example) for example in examples)
    expected_loss.backward()
    expected = take_gradients(model)
    lengths = [num_prefix_tokens(example.prompt_ids, V) for example in examples]
    assert lengths == [3, 4, 5, 6, 7, 8]

    (shared,) = compute_key_values(model, [SHARED])
    texts = [e.prompt_ids[3:n] for e, n in zip(examples[1:], lengths[1:], strict=True)]
    own = compute_key_values(model, texts, batch_key_values(shared, [None]))
    rest = [Example(e.prompt_ids[n:], e.label_ids) for e, n in zip(examples, lengths, strict=True)]
    loss = token_nll(model, collate(rest), batch_key_values(shared, [None, *own])).sum()
    loss.backward()

    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    gradients = take_gradients(model)
    assert set(gradients) == set(expected)
    assert all("_adapter." in name for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-5, atol=1e-5 * float(expected[name].abs().max())
        )


def test_can_split_refuses_windows_that_padding_would_shift():
    windowed = tiny_decoder("mistral", sliding_window=16)
    assert can_split(windowed, 16)
    assert not can_split(windowed, 17)
    assert can_split(toy_model(), 10**6)
    assert can_split(tiny_decoder("qwen2", sliding_window=16, use_sliding_window=False), 10**6)


# The cache

ROWS = ([5, 6], [], [9, 9, 9, 9], [7])  # own texts of four prompts
EXAMPLES = [
    Example([1, 2, 3, *own, V + row, V + NUM_USERS + row, 4], [8, row + 10, 2])
    for row, own in enumerate(ROWS)
]
BYTES_A_TOKEN = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head_dim, float32
ALL_BYTES = sum(map(len, ROWS)) * BYTES_A_TOKEN
SHAPE = {"shared_ids": [1, 2, 3], "num_positions": 14}


@pytest.fixture
def model():
    model = toy_model()
    attach_toy(model, "projected")
    return model


def count_passes(model: LlamaForCausalLM) -> list[tuple[int, int]]:
    """Return a list to which each pass through the decoder adds the shape of its tokens."""
    shapes: list[tuple[int, int]] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    return shapes


def loss_of(
    model: LlamaForCausalLM, cache: PrefixCache, examples: Sequence[Example] = EXAMPLES
) -> float:
    past, rest = cache.split(model, examples)
    return float(token_nll(model, collate(rest), past).sum())


@pytest.mark.parametrize("budget_bytes", [0, 3 * BYTES_A_TOKEN, ALL_BYTES, 10**9])
@torch.no_grad()
def test_prefix_cache_with_any_budget_gives_the_loss_of_whole_rows(model, budget_bytes):
    expected = sum(float(token_nll(model, collate([example])).sum()) for example in EXAMPLES)
    cache = PrefixCache(model, **SHAPE, budget_bytes=budget_bytes)
    assert [loss_of(model, cache) for _ in range(3)] == pytest.approx([expected] * 3, rel=1e-5)
    parts = [loss_of(model, cache, part) for part in (EXAMPLES[:1], EXAMPLES[1:])]
    assert sum(parts) == pytest.approx(expected, rel=1e-5)
    assert cache.num_bytes <= budget_bytes


@torch.no_grad()
def test_prefix_cache_makes_a_pass_when_another_worker_needs_one(model):
    expected = loss_of(model, PrefixCache(model, **SHAPE, budget_bytes=ALL_BYTES))
    agree = Mock(return_value=True)
    cache = PrefixCache(model, **SHAPE, budget_bytes=ALL_BYTES, agree=agree)
    shapes = count_passes(model)
    assert [loss_of(model, cache) for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-5)
    assert agree.mock_calls == [call(True), call(False)]
    assert len(shapes) == 5  # the shared tokens, and for each call the prefixes and the rest
    assert cache.num_bytes == ALL_BYTES


def test_label_nll_and_its_gradient_equal_torch_in_float64():
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(3, 5, 11, generator=generator)
    labels = torch.randint(11, (3, 5), generator=generator)
    labels[0, :2] = labels[2] = IGNORE
    weights = torch.rand(3, 5, generator=generator)
    expected_input = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        expected_input.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
    )
    (expected * weights).sum().backward()
    own_input = logits.clone().requires_grad_()
    nll = label_nll(own_input, labels)
    (nll * weights).sum().backward()
    torch.testing.assert_close(nll.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own_input.grad.double(), expected_input.grad, rtol=1e-5, atol=1e-7)
    assert not nll[labels == IGNORE].any()
    assert not own_input.grad[labels == IGNORE].any()
