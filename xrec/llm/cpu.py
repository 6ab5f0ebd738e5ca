"""Speedups of a language model on a CPU: grouped attention, and packed linear layers.

Grouped attention is softmax(q k^T / sqrt(d) + mask) v as two batched matrix products. For rows of a
few hundred positions, torch's attention kernel for CPUs reaches about a tenth of the machine's
bfloat16 matrix rate, and needs keys and values repeated for each query head. Here the G query heads
that share a key head are stacked as rows of one product: (B K, G S, d) x (B K, d, T). Like `eager`,
this keeps the attention weights (B, heads, S, T) in memory; use sdpa on a GPU.

Packed linear layers convert their weights once to the layout of oneDNN's kernels; torch would
convert them at every call. On a CPU with AVX512 that is a tenth of the time of a bfloat16 product
of a hundred rows. Float32 products, which torch would leave to MKL, become twice as fast. The
original weights are kept, so these layers take twice the memory.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from xrec.errors import ModelError

GROUPED = "grouped"


def register_grouped_attention() -> None:
    """Register `attn_implementation="grouped"` with transformers; may be called repeatedly."""
    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, eager_mask)


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention output (B, S, heads, d), and None in place of the weights.

    `query` (B, heads, S, d), `key` and `value` (B, K, T, d); `attention_mask` (B, 1, S, T) is added
    to the scores. Raises ModelError for attention sinks, position biases, or a missing mask.
    """
    unknown = [name for name in ("s_aux", "position_bias") if kwargs.get(name) is not None]
    if unknown or attention_mask is None:
        raise ModelError(
            f"{type(module).__name__}: grouped attention cannot handle "
            f"{', '.join(unknown) or 'a missing mask'}; set llm.attn_implementation=eager",
            code="unsupported_attention",
            key="llm.attn_implementation",
            saw=sorted(unknown),
        )
    rows, num_heads, length, width = query.shape
    num_groups = key.shape[1]
    scaled = query * (width**-0.5 if scaling is None else scaling)
    stacked = scaled.reshape(rows * num_groups, -1, width)  # (B K, G S, d)
    scores = torch.bmm(stacked, key.flatten(0, 1).transpose(1, 2))
    scores = scores.view(rows, num_groups, -1, length, key.shape[2])  # (B, K, G, S, T)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = nn.functional.softmax(scores + attention_mask[:, :, None], dim=-1)
    weights = nn.functional.dropout(weights, dropout, module.training)
    attended = torch.bmm(weights.view(rows * num_groups, -1, key.shape[2]), value.flatten(0, 1))
    return attended.view(rows, num_heads, length, -1).transpose(1, 2).contiguous(), None


def pack_linears(model: PreTrainedModel) -> int:
    """Make the decoder's frozen linear layers and the output layer use packed weights, in place.

    Returns the number of changed layers. Hooks keep working. Layers whose forward was replaced, on
    a GPU, or with a dtype that oneDNN cannot multiply here are left unchanged.
    """
    parts = (*model.get_decoder().modules(), model.get_output_embeddings())
    linears = [part for part in parts if isinstance(part, nn.Linear) and _can_pack(part)]
    for linear in linears:
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        linear.forward = partial(_product, packed, linear.bias)  # type: ignore[method-assign]
    return len(linears)


def _can_pack(linear: nn.Linear) -> bool:
    weight = linear.weight
    if (
        "forward" in vars(linear)
        or weight.requires_grad
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
