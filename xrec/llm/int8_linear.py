"""Linear layers that multiply 8-bit integers: faster than bfloat16 on a CPU with VNNI.

    W_q = round(W / s),  s_out = max |W_out| / 127         once; one scale for each output
    x_q = round(x / t),  t_row = max |x_row| / 127         at each call; one scale for each row
    y = (x_q W_q^T) t s + b

The generated texts change and are a little worse (docs/log has the figures). Layers whose output is
narrower than their input keep their own product:

- Down projections of the MLPs. Their inputs have single channels a hundred times larger than the
  others, so that a row's 255 levels would hardly tell the other channels apart (outliers: LLM.int8,
  arXiv 2208.07339).
- Key and value projections of grouped-query attention. They are small, and their results stay in
  the cache for the whole text.
"""

from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xrec.errors import ModelError
from xrec.llm.packed_linear import linear_layers

_LEVELS = 127


def quantize_linears(model: PreTrainedModel) -> int:
    """Replace the product of the decoder's linear layers and of the output layer by an int8 one.

    Works in place and returns the number of layers. Layers whose output is narrower than their
    input are left out. Hooks keep working. The original weights stay in memory beside the 8-bit
    ones. Raises ModelError if `model` is not on a CPU.
    """
    if model.device.type != "cpu":
        raise ModelError(
            f"linear_layers = 'int8' is for CPUs, the model is on {model.device}; "
            "set engine.linear_layers=packed, or device=cpu"
        )
    linears = [
        linear for linear in linear_layers(model) if linear.in_features <= linear.out_features
    ]
    for linear in linears:
        weight, scales = _quantized(linear.weight.detach())
        linear.forward = partial(_product, weight, scales, linear.bias)  # type: ignore[method-assign]
    return len(linears)


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weight (out, in) as int8, transposed to (in, out), and the scales (out,)."""
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
