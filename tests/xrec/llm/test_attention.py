"""Grouped attention equals transformers' eager attention in whole models, with gradients."""

import pytest
import torch

from tests.decoders import FAMILIES, tiny_decoder
from tests.toy import toy_model
from xrec.errors import ModelError
from xrec.llm.cpu import GROUPED, grouped_attention, register_grouped_attention

IDS = torch.tensor([[0, 0, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


def logits_and_gradients(
    model: torch.nn.Module, implementation: str
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits at positions that are not padding, and the gradients of all weights."""
    register_grouped_attention()
    model.set_attn_implementation(implementation)
    logits = model(
        input_ids=IDS, attention_mask=MASK, position_ids=(MASK.cumsum(-1) - 1).clamp_min(0)
    ).logits[MASK.bool()]
    model.zero_grad()
    logits.square().mean().backward()
    return logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("num_key_value_heads", [4, 2, 1])
def test_grouped_attention_equals_eager_with_gradients(num_key_value_heads: int) -> None:
    model = toy_model(num_key_value_heads)
    (logits, gradients), (expected_logits, expected) = (
        logits_and_gradients(model, name) for name in (GROUPED, "eager")
    )
    torch.testing.assert_close(logits, expected_logits, rtol=1e-5, atol=1e-5)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_grouped_attention_of_each_family_equals_eager(family: str) -> None:
    model = tiny_decoder(family)
    grouped, eager = (logits_and_gradients(model, name)[0] for name in (GROUPED, "eager"))
    torch.testing.assert_close(grouped, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"s_aux": torch.zeros(4)}, "cannot handle s_aux"),
        ({"attention_mask": None}, "cannot handle a missing mask"),
    ],
)
def test_grouped_attention_refuses_what_it_would_leave_out(
    extra: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = {
        "query": torch.zeros(1, 4, 2, 8),
        "key": torch.zeros(1, 2, 2, 8),
        "value": torch.zeros(1, 2, 2, 8),
    }
    with pytest.raises(ModelError, match=message):
        grouped_attention(
            torch.nn.Identity(), **{**tensors, "attention_mask": torch.zeros(1, 1, 2, 2), **extra}
        )
