"""The transformer's layer against torch's own, and sines against their formula."""

import math

import pytest
import torch
from torch import nn

from xrec.lab.baselines.models.transformer import Block, sines

D, HEADS, F = 8, 2, 12


@pytest.fixture
def block() -> Block:
    torch.manual_seed(3)
    made = Block(D, HEADS, F, dropout=0.3).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made


def test_block_computes_what_torchs_layer_does(block: Block) -> None:
    layer = nn.TransformerEncoderLayer(D, HEADS, F, dropout=0.3, batch_first=True).eval()
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": block.attention_in.weight,
            "self_attn.in_proj_bias": block.attention_in.bias,
            "self_attn.out_proj.weight": block.attention_out.weight,
            "self_attn.out_proj.bias": block.attention_out.bias,
            "linear1.weight": block.feedforward_in.weight,
            "linear1.bias": block.feedforward_in.bias,
            "linear2.weight": block.feedforward_out.weight,
            "linear2.bias": block.feedforward_out.bias,
            "norm1.weight": block.attention_norm.weight,
            "norm1.bias": block.attention_norm.bias,
            "norm2.weight": block.feedforward_norm.weight,
            "norm2.bias": block.feedforward_norm.bias,
        }
    )
    x = torch.randn(3, 5, D)
    sees = torch.ones(5, 5, dtype=torch.bool).tril()
    found, _ = block(x, sees)
    assert torch.allclose(found, layer(x, src_mask=~sees), atol=1e-5)


def test_block_goes_on_from_keys_and_values(block: Block) -> None:
    x = torch.randn(2, 5, D)
    sees = torch.ones(5, 5, dtype=torch.bool).tril()
    whole, _ = block(x, sees)
    first, state = block(x[:, :3], sees[:3, :3])
    second, state = block(x[:, 3:4], sees[3:4, :4], state)
    third, _ = block(x[:, 4:], sees[4:], state)
    assert torch.allclose(torch.cat([first, second, third], dim=1), whole, atol=1e-5)


def test_block_begins_like_torchs_layer() -> None:
    torch.manual_seed(0)
    block = Block(D, HEADS, F, dropout=0.0)
    assert not block.attention_in.bias.any()
    assert not block.attention_out.bias.any()
    assert block.attention_in.weight.abs().max() <= math.sqrt(6 / (D + 3 * D))


@pytest.mark.parametrize("size", [6, 7])
def test_sines_are_those_of_the_formula(size: int) -> None:
    table = sines(4, size)
    for place in range(4):
        for k in range(size):
            angle = place / 10000 ** (2 * (k // 2) / size)
            expected = math.cos(angle) if k % 2 else math.sin(angle)
            assert table[place, k].item() == pytest.approx(expected, abs=1e-5)
