"""Grouped attention for CPUs: softmax(q k^T / sqrt(d) + mask) v with the query heads of a group stacked, as two batched products.

Torch's attention kernel for the CPU reaches a tenth of the machine's bfloat16 matrix rate on rows of a few hundred positions, and
needs keys and values repeated for each query head. Here the G query heads that share a key head are rows of one product:
(B K, G S, d) x (B K, d, T). It holds the weights (B, heads, S, T), as `eager` does; on a GPU take sdpa.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from xrec.errors import ModelError

GROUPED = "grouped"


def register_grouped_attention() -> None:
    """Make `attn_implementation="grouped"` known to transformers; again is harmless."""
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
    """query (B, heads, S, d), key and value (B, K, T, d), additive mask (B, 1, S, T) -> (B, S, heads, d).

    Raises ModelError for attention sinks and position biases.
    """
    unknown = [name for name in ("s_aux", "position_bias") if kwargs.get(name) is not None]
    if unknown or attention_mask is None:
        raise ModelError(
            f"{type(module).__name__}: grouped attention knows no {', '.join(unknown) or 'missing mask'}; set llm.attn_implementation=eager"
        )
    rows, num_heads, length, width = query.shape
    num_groups = key.shape[1]
    stacked = (query * (width**-0.5 if scaling is None else scaling)).reshape(
        rows * num_groups, -1, width
    )  # (B K, G S, d)
    scores = torch.bmm(stacked, key.flatten(0, 1).transpose(1, 2)).view(
        rows, num_groups, -1, length, key.shape[2]
    )  # (B, K, G, S, T)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = nn.functional.softmax(scores + attention_mask[:, :, None], dim=-1)
    weights = nn.functional.dropout(weights, dropout, module.training)
    attended = torch.bmm(weights.view(rows * num_groups, -1, key.shape[2]), value.flatten(0, 1))
    return attended.view(rows, num_heads, length, -1).transpose(1, 2).contiguous(), None
