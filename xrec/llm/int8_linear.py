"""Linear layers whose products are of 8-bit integers: faster than bfloat16 on a CPU with VNNI, and nearly as good.

    W_q = round(W / s),  s_out = max |W_out| / 127         once, a scale for each output
    x_q = round(x / t),  t_row = max |x_row| / 127         at each call, a scale for each row
    y = (x_q W_q^T) t s + b

Layers that narrow are left alone. Down projections of a decoder's MLPs: their inputs have single channels a hundred times the
others', which leave few of a row's 255 levels to the rest (outliers: LLM.int8, arXiv 2208.07339). Keys and values of
grouped-query attention: they are few, and kept.
"""

from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xrec.errors import ModelError
from xrec.llm.packed_linear import linear_layers

_LEVELS = 127


def quantize_linears(model: PreTrainedModel) -> int:
    """Give the decoder's linear layers that don't narrow, and the output layer, an int8 forward, in place; returns how many.

    Hooks stay, and the weights beside their 8-bit form. Raises ModelError if `model` is not on a CPU.
    """
    if model.device.type != "cpu":
        raise ModelError(
            f"linear_layers = 'int8' is for CPUs, the model is on {model.device}; set engine.linear_layers=packed, or device=cpu"
        )
    linears = [
        linear for linear in linear_layers(model) if linear.in_features <= linear.out_features
    ]
    for linear in linears:
        weight, scales = _quantized(linear.weight.detach())
        linear.forward = partial(_product, weight, scales, linear.bias)  # type: ignore[method-assign]
    return len(linears)


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) to int8, transposed (in, out), and the scales (out,)."""
    scales = weight.float().abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / _LEVELS
    return (weight.float() / scales[:, None]).round().to(torch.int8).t(), scales


def _product(weight: Tensor, scales: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    flat = rows.reshape(-1, rows.shape[-1]).float()
    row_scales = (
        flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny * _LEVELS)
        / _LEVELS
    )
    product = (
        torch._int_mm((flat / row_scales).round().to(torch.int8), weight)
        .float()
        .mul_(row_scales)
        .mul_(scales)
    )
    if bias is not None:
        product += bias
    return product.to(rows.dtype).view(*rows.shape[:-1], weight.shape[1])
