"""Products of 8-bit integers are close to the exact ones, also where rows differ in size."""

import pytest
import torch
from torch import nn

from tests.decoders import FAMILIES, tiny_decoder
from tests.toy import attach_toy
from xrec.errors import ModelError
from xrec.llm.int8_linear import quantize_linears
from xrec.llm.packed_linear import linear_layers, pack_linears

IDS = torch.tensor([[5, 64, 9, 70, 11]])


@pytest.mark.parametrize("family", FAMILIES)
def test_quantize_linears_logits_stay_close_with_biases_and_injection(family: str) -> None:
    model = tiny_decoder(family)
    attach_toy(model, "direct")
    with torch.inference_mode():
        before = model(IDS).logits
        num_wide = sum(linear.in_features <= linear.out_features for linear in linear_layers(model))
        assert quantize_linears(model) == num_wide > 0
        after = model(IDS).logits
    assert not torch.equal(after, before)
    assert (after - before).norm() < 0.05 * before.norm()


def test_quantize_linears_each_row_has_its_own_scale() -> None:
    model = tiny_decoder("llama")
    linear: nn.Linear = model.get_decoder().layers[0].mlp.up_proj
    rows = (
        torch.randn(6, linear.in_features) * torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6, 0.0])[:, None]
    )
    exact = rows @ linear.weight.T
    quantize_linears(model)
    error = (linear(rows) - exact).norm(dim=1)
    assert (error <= 0.02 * exact.norm(dim=1)).all()


def test_quantize_linears_narrowing_layers_stay_exact_and_can_be_packed() -> None:
    model = tiny_decoder("llama").requires_grad_(False)
    down = model.get_decoder().layers[0].mlp.down_proj
    rows = torch.randn(3, down.in_features)
    exact = down(rows)
    quantize_linears(model)
    assert torch.equal(down(rows), exact)
    assert pack_linears(model) == sum(
        isinstance(part, nn.Linear) and part.in_features > part.out_features
        for part in model.modules()
    )


def test_quantize_linears_away_from_a_cpu_is_refused() -> None:
    model = tiny_decoder("llama").to("meta")
    with pytest.raises(ModelError, match="is for CPUs, the model is on meta"):
        quantize_linears(model)


def test_quantize_linears_no_rows_give_no_rows() -> None:
    model = tiny_decoder("llama")
    quantize_linears(model)
    up = model.get_decoder().layers[0].mlp.up_proj
    assert up(torch.zeros(1, 0, up.in_features)).shape == (1, 0, up.out_features)
