"""Packed layers give the same products, with hooks; layers that cannot be packed do not change."""

import pytest
import torch

from tests.decoders import FAMILIES, tiny_decoder
from tests.toy import attach_toy, toy_model
from xrec.llm.cpu import pack_linears

IDS = torch.tensor([[5, 64, 9, 70, 11]])


@pytest.mark.parametrize("family", FAMILIES)
def test_pack_linears_logits_stay_with_biases_and_injection(family: str) -> None:
    model = tiny_decoder(family)
    attach_toy(model, "direct")
    with torch.inference_mode():
        before = model(IDS).logits
        num_linears = (
            sum(isinstance(part, torch.nn.Linear) for part in model.get_decoder().modules()) + 1
        )
        assert pack_linears(model) == num_linears
        torch.testing.assert_close(model(IDS).logits, before, rtol=1e-4, atol=1e-5)


def test_pack_linears_products_are_of_the_packed_weights() -> None:
    model = toy_model().requires_grad_(False)
    pack_linears(model)
    packed = model(IDS[:, :1]).logits
    model.lm_head.weight.zero_()
    assert torch.equal(model(IDS[:, :1]).logits, packed)


def test_pack_linears_trainable_weights_are_left_alone() -> None:
    assert pack_linears(toy_model()) == 0
