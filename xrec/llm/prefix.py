"""Keys and values of what comes before: the beginning of a prompt, up to its first collaborative token.

    prompt = [shared | own | rest]    what all prompts begin with, what this one adds, from its first collaborative token on

Attention is causal, the language model frozen, and no adapter touches shared and own: their keys and values are constants.
A forward pass over the rest alone, on those keys and values, gives the same logits and the same gradients as one over the
whole prompt (xrec.train.prefix_cache keeps them).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of P positions in every layer: `tensor` (layers, 2, B, heads, P, head_dim); `mask` (B, P), 0 at padding."""

    tensor: Tensor
    mask: Tensor

    def cache(self) -> DynamicCache:
        """As transformers takes them; what the model adds to it does not come back here."""
        return DynamicCache([(layer[0], layer[1]) for layer in self.tensor])


def num_prefix_tokens(prompt_ids: Sequence[int], num_text_tokens: int) -> int:
    """Tokens before the first collaborative one; the last token of a prompt is never among them: it predicts the first label."""
    return next(
        (position for position, token in enumerate(prompt_ids[:-1]) if token >= num_text_tokens),
        len(prompt_ids) - 1,
    )


def common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    """The longest beginning that all rows share."""
    first, last = (
        min(map(list, rows)),
        max(map(list, rows)),
    )  # in lexicographic order whatever these two share, all share
    length = next(
        (
            position
            for position, (left, right) in enumerate(zip(first, last, strict=False))
            if left != right
        ),
        min(len(first), len(last)),
    )
    return first[:length]


@torch.no_grad()
def compute_key_values(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], past: KeyValues | None = None
) -> list[Tensor]:
    """Keys and values of each row of token ids, (layers, 2, heads, length, head_dim); `past` (B = 1) comes before each row.

    One forward pass of the decoder, left-padded, without autograd and without logits.
    """
    length = max(len(row) for row in rows)
    device = model.device
    input_ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    cache = DynamicCache()
    if past is not None:
        before = past.mask.expand(len(rows), -1)
        mask = torch.cat([before, mask], dim=1)
        cache = KeyValues(past.tensor.expand(-1, -1, len(rows), -1, -1, -1), before).cache()
    model.get_decoder()(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=last_positions(mask, length),
        cache=cache,
        use_cache=True,
    )
    tensor = torch.stack(
        [
            torch.stack([layer.keys[..., -length:, :], layer.values[..., -length:, :]])
            for layer in cache.layers
        ]
    )
    return [tensor[:, :, index, :, length - len(row) :].clone() for index, row in enumerate(rows)]


def batch_key_values(shared: Tensor | None, rows: Sequence[Tensor | None]) -> KeyValues | None:
    """[shared | padding | own] for each row, from tensors as `compute_key_values` gives them (None: empty); None if there is no position."""
    parts = [part for part in (shared, *rows) if part is not None]
    if not parts:
        return None
    num_shared = 0 if shared is None else shared.shape[-2]
    length = num_shared + max((row.shape[-2] for row in rows if row is not None), default=0)
    layers, two, heads, _, head_dim = parts[0].shape
    tensor = parts[0].new_zeros(layers, two, len(rows), heads, length, head_dim)
    mask = torch.zeros(len(rows), length, dtype=torch.long, device=tensor.device)
    mask[:, :num_shared] = 1
    if shared is not None:
        tensor[..., :num_shared, :] = shared[:, :, None]
    for index, row in enumerate(rows):
        if row is not None:
            tensor[:, :, index, :, length - row.shape[-2] :] = row
            mask[index, length - row.shape[-2] :] = 1
    return KeyValues(tensor, mask)


def can_split(model: PreTrainedModel, num_positions: int) -> bool:
    """Whether a pass in two parts over `num_positions`, padding included, equals one pass: all layers attend to all of them."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    shared_layers = getattr(config, "num_kv_shared_layers", 0)
    return (
        kinds <= {"full_attention", "sliding_attention"}
        and (window is None or num_positions <= window)
        and not shared_layers
    )


def last_positions(mask: Tensor, count: int) -> Tensor:
    """Position ids of the last `count` columns of an attention mask (B, S), padding not counted: (B, count)."""
    return (mask.cumsum(-1) - 1).clamp_min(0)[:, -count:]
