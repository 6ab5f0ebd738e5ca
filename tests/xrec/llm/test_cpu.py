"""What makes a CPU faster gives the same: grouped attention as eager's, packed layers' products."""

import pytest
import torch
from torch import Tensor, nn

from tests.world.models import FAMILIES, attach_toy, tiny_decoder, toy_model
from xrec.errors import ModelError
from xrec.llm.cpu import GROUPED, grouped_attention, pack_linears, register_grouped_attention

IDS = torch.tensor([[0, 0, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
PROMPT = torch.tensor([[5, 64, 9, 70, 11]])


def logits_and_gradients(model: nn.Module, implementation: str) -> tuple[Tensor, list[Tensor]]:
    """The logits at positions that are not padding, and the gradients of all weights."""
    register_grouped_attention()
    model.set_attn_implementation(implementation)
    positions = (MASK.cumsum(-1) - 1).clamp_min(0)
    logits = model(IDS, attention_mask=MASK, position_ids=positions).logits[MASK.bool()]
    model.zero_grad()
    logits.square().mean().backward()
    return logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("make", "given"),
    [*((toy_model, num_heads) for num_heads in (4, 2, 1)), *((tiny_decoder, f) for f in FAMILIES)],
)
def test_grouped_attention_equals_eager_with_gradients(make, given):
    model = make(given)
    logits, gradients = logits_and_gradients(model, GROUPED)
    expected_logits, expected = logits_and_gradients(model, "eager")
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)
    for gradient, other in zip(gradients, expected, strict=True):
        largest = float(other.abs().max())
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5 * max(largest, 1.0))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"s_aux": torch.zeros(4)}, "cannot handle s_aux"),
        ({"attention_mask": None}, "cannot handle a missing mask"),
    ],
)
def test_grouped_attention_refuses_what_it_would_leave_out(extra, message):
    query, key = torch.zeros(1, 4, 2, 8), torch.zeros(1, 2, 2, 8)
    given = {"attention_mask": torch.zeros(1, 1, 2, 2), **extra}
    with pytest.raises(ModelError, match=message):
        grouped_attention(nn.Identity(), query, key, key, **given)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_packed_layers_give_the_logits_of_their_weights_with_biases_and_injection(family):
    model = tiny_decoder(family)
    attach_toy(model, "direct")
    before = model(PROMPT).logits
    linears = [part for part in model.get_decoder().modules() if isinstance(part, nn.Linear)]
    assert pack_linears(model) == len(linears) + 1  # with the output layer
    packed = model(PROMPT).logits
    torch.testing.assert_close(packed, before, rtol=1e-4, atol=1e-5)
    linears[0].weight.zero_()
    assert torch.equal(model(PROMPT).logits, packed)


def test_weights_that_are_trained_are_not_packed():
    assert pack_linears(toy_model()) == 0
