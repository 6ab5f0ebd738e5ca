"""Linear layers whose weights are converted once to the memory layout of oneDNN's kernels.

Without this, torch converts the weights at every call. On a CPU with AVX512 that conversion is a
tenth of the time of a bfloat16 product of a hundred rows. Float32 products, which torch would give
to MKL, become twice as fast. The model's own weights stay beside the converted ones, so these
layers take twice the memory.
"""

from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def pack_linears(model: PreTrainedModel) -> int:
    """Make the frozen linear layers of the decoder and the output layer use converted weights.

    Works in place and returns the number of layers that were changed. Hooks keep working. Layers
    whose forward was replaced before are left alone. On a GPU, and for a type of weights that
    oneDNN cannot multiply here, no layer is changed.
    """
    linears = [linear for linear in linear_layers(model) if _can_pack(linear)]
    for linear in linears:
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        linear.forward = partial(_product, packed, linear.bias)  # type: ignore[method-assign]
    return len(linears)


def linear_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers of the decoder, and the output layer, whose forward was not replaced."""
    parts = (*model.get_decoder().modules(), model.get_output_embeddings())
    return [part for part in parts if isinstance(part, nn.Linear) and "forward" not in vars(part)]


def _can_pack(linear: nn.Linear) -> bool:
    weight = linear.weight
    if (
        weight.requires_grad
        or weight.device.type != "cpu"
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _product(weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product
