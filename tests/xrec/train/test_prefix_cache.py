"""The cache of the prompts' beginnings.

It is right with any budget, computes no more often than it should, and keeps in step with others.
"""

from collections.abc import Sequence

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.toy import NUM_USERS, attach_toy, toy_model
from xrec.llm.examples import Example, collate, token_nll
from xrec.llm.prefix import PrefixCache

V = 64
ROWS = ([5, 6], [], [9, 9, 9, 9], [7])  # own texts of four prompts
EXAMPLES = [
    Example([1, 2, 3, *own, V + row, V + NUM_USERS + row, 4], [8, row + 10, 2])
    for row, own in enumerate(ROWS)
]
BYTES_A_TOKEN = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head_dim, float32
ALL_BYTES = sum(map(len, ROWS)) * BYTES_A_TOKEN


@pytest.fixture
def model() -> LlamaForCausalLM:
    model = toy_model()
    attach_toy(model, "projected")
    return model


def count_passes(model: LlamaForCausalLM) -> list[tuple[int, int]]:
    """Return a list, to which each pass through the decoder adds the shape of its input ids."""
    shapes: list[tuple[int, int]] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def loss_of(
    model: LlamaForCausalLM, cache: PrefixCache, examples: Sequence[Example] = EXAMPLES
) -> float:
    past, rest = cache.split(model, examples)
    return float(token_nll(model, collate(rest), past).sum())


@pytest.mark.parametrize("budget_bytes", [0, 3 * BYTES_A_TOKEN, ALL_BYTES, 10**9])
@torch.no_grad()
def test_prefix_cache_with_any_budget_gives_the_loss_of_whole_rows(
    model: LlamaForCausalLM, budget_bytes: int
) -> None:
    expected = sum(float(token_nll(model, collate([example])).sum()) for example in EXAMPLES)
    cache = PrefixCache(model, EXAMPLES, budget_bytes=budget_bytes)
    assert [loss_of(model, cache) for _ in range(3)] == pytest.approx([expected] * 3, rel=1e-5)
    assert loss_of(model, cache, EXAMPLES[:1]) + loss_of(
        model, cache, EXAMPLES[1:]
    ) == pytest.approx(expected, rel=1e-5)
    assert cache.num_bytes <= budget_bytes


@torch.no_grad()
def test_prefix_cache_within_budget_computes_each_beginning_once(model: LlamaForCausalLM) -> None:
    cache = PrefixCache(model, EXAMPLES, budget_bytes=ALL_BYTES)
    shapes = count_passes(model)
    for _ in range(2):
        cache.split(model, EXAMPLES)
    assert shapes == [(1, 3), (3, 4)]  # the shared tokens, then the three rows that add to them
    assert cache.num_bytes == ALL_BYTES


@torch.no_grad()
def test_prefix_cache_row_without_room_is_computed_each_time(model: LlamaForCausalLM) -> None:
    cache = PrefixCache(
        model, EXAMPLES, budget_bytes=3 * BYTES_A_TOKEN
    )  # room for [5, 6] and [7], not for [9, 9, 9, 9]
    shapes = count_passes(model)
    for _ in range(3):
        cache.split(model, EXAMPLES)
    assert shapes == [(1, 3), (3, 4), (1, 4), (1, 4)]
    assert cache.num_bytes == 3 * BYTES_A_TOKEN


@torch.no_grad()
def test_prefix_cache_goes_along_when_another_worker_computes(model: LlamaForCausalLM) -> None:
    asked: list[bool] = []

    def agree(needed: bool) -> bool:
        asked.append(needed)
        return True

    expected = loss_of(model, PrefixCache(model, EXAMPLES, budget_bytes=ALL_BYTES))
    cache = PrefixCache(model, EXAMPLES, budget_bytes=ALL_BYTES, agree=agree)
    shapes = count_passes(model)
    assert [loss_of(model, cache) for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-5)
    assert asked == [True, False]
    assert len(shapes) == 5  # shared, and for each call a beginning and the rest
    assert cache.num_bytes == ALL_BYTES


def test_prefix_cache_tokens_right_after_the_shared_text_leave_nothing_to_keep(
    model: LlamaForCausalLM,
) -> None:
    examples = [Example([1, 2, V + row, 5, 6, row], [7]) for row in range(3)]
    cache = PrefixCache(model, examples, budget_bytes=10**9)
    shapes = count_passes(model)
    for _ in range(2):
        cache.split(model, examples)
    assert shapes == [(1, 2)]
    assert cache.num_bytes == 0
    assert [cache.num_rest_tokens(example) for example in examples] == [5, 5, 5]
