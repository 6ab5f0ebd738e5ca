"""A pass split at the first collaborative token equals transformers' pass over each whole row."""

import random

import pytest
import torch
from transformers import (
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.toy import HIDDEN_SIZE, NUM_HEADS, NUM_USERS, attach_toy, toy_model
from xrec.config.adapter import Injection
from xrec.llm.examples import IGNORE, Example, collate, token_nll
from xrec.llm.prefix import (
    batch_key_values,
    can_split,
    common_prefix,
    compute_key_values,
    num_prefix_tokens,
)

V = 64
SHARED = [7, 8, 9]
RULES: list[Injection] = ["direct", "projected", "none"]


def make_examples(count: int = 6) -> list[Example]:
    """Examples with explanations of 1 to 4 tokens.

    A prompt is [shared, own text of 0 to 5 tokens, a user, up to two words, an item, a word].
    """
    rng = random.Random(0)

    def words(least: int, most: int) -> list[int]:
        return [rng.randrange(10, V) for _ in range(rng.randint(least, most))]

    return [
        Example(
            [
                *SHARED,
                *words(row, row),
                V + row % NUM_USERS,
                *words(0, 2),
                V + NUM_USERS + row,
                *words(1, 1),
            ],
            words(1, 4),
        )
        for row in range(count)
    ]


def gradients_by_transformers(
    model: LlamaForCausalLM, examples: list[Example]
) -> tuple[float, dict[str, torch.Tensor]]:
    """The sum of the labels' NLL by the model's own loss, and the gradients of the adapters.

    Each row is computed alone and as a whole.
    """
    total = torch.zeros(())
    for example in examples:
        ids = torch.tensor([[*example.prompt_ids, *example.label_ids]])
        labels = ids.clone()
        labels[0, : len(example.prompt_ids)] = IGNORE
        total = total + model(ids, labels=labels).loss * len(example.label_ids)
    total.backward()
    return total.item(), take_gradients(model)


def take_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    gradients = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rule", RULES)
def test_split_pass_has_the_loss_and_gradients_of_the_whole_pass(
    rule: Injection, attention: str
) -> None:
    model = toy_model()
    model.set_attn_implementation(attention)
    attach_toy(model, rule)
    examples = make_examples()
    expected_loss, expected = gradients_by_transformers(model, examples)
    lengths = [num_prefix_tokens(example.prompt_ids, V) for example in examples]
    assert lengths == [3, 4, 5, 6, 7, 8]

    (shared,) = compute_key_values(model, [SHARED])
    own = compute_key_values(
        model,
        [e.prompt_ids[3:n] for e, n in zip(examples[1:], lengths[1:], strict=True)],
        batch_key_values(shared, [None]),
    )
    rest = [Example(e.prompt_ids[n:], e.label_ids) for e, n in zip(examples, lengths, strict=True)]
    loss = token_nll(model, collate(rest), batch_key_values(shared, [None, *own])).sum()
    loss.backward()

    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    gradients = take_gradients(model)
    assert set(gradients) == set(expected)
    assert all("_adapter." in name for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-5, atol=1e-5 * float(expected[name].abs().max())
        )


def test_compute_key_values_of_a_padded_batch_equals_one_row_at_a_time() -> None:
    model = toy_model()
    rows = [[1, 2, 3, 4], [5], [6, 7]]
    (shared,) = compute_key_values(model, [SHARED])
    together = compute_key_values(model, rows, batch_key_values(shared, [None]))
    for row, tensor in zip(rows, together, strict=True):
        (whole,) = compute_key_values(model, [[*SHARED, *row]])
        assert tensor.shape == (2, 2, 2, len(row), HIDDEN_SIZE // NUM_HEADS)
        assert not tensor.requires_grad
        torch.testing.assert_close(tensor, whole[..., 3:, :], rtol=1e-5, atol=1e-6)


def test_batch_key_values_without_any_position_is_none() -> None:
    assert batch_key_values(None, [None, None]) is None


@pytest.mark.parametrize(
    ("prompt", "expected"),
    # In the last two cases the whole prompt is text; its last token does not count.
    [([1, 2, V, 3], 2), ([V, 1], 0), ([1, V + 3], 1), ([1, 2, 3], 2), ([4], 0)],
)
def test_num_prefix_tokens_ends_at_the_first_collaborative_token(
    prompt: list[int], expected: int
) -> None:
    assert num_prefix_tokens(prompt, V) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], [1, 2]),
        ([[1, 2], [1, 2, 3]], [1, 2]),
        ([[3], [4]], []),
        ([[], [1]], []),
        ([[5, 6]], [5, 6]),
    ],
)
def test_common_prefix_is_what_all_rows_begin_with(
    rows: list[list[int]], expected: list[int]
) -> None:
    assert common_prefix(rows) == expected


def test_can_split_refuses_windows_that_padding_would_shift() -> None:
    sizes = {
        "vocab_size": V,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": 2,
    }
    windowed = MistralForCausalLM(MistralConfig(**sizes, sliding_window=16))
    assert can_split(windowed, 16)
    assert not can_split(windowed, 17)
    assert can_split(toy_model(), 10**6)
    assert can_split(
        Qwen2ForCausalLM(Qwen2Config(**sizes, sliding_window=16, use_sliding_window=False)), 10**6
    )
