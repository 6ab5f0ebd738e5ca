"""Keys and values of a prompt's prefix: its tokens before the first collaborative token.

    prompt = [shared | own | rest]

`shared` is the beginning that all prompts have in common, `own` is what this prompt adds to it, and
`rest` starts at the first collaborative token. Attention is causal, the language model is frozen,
and no adapter acts on shared and own, so their keys and values are constants. A forward pass over
the rest alone, with those keys and values, gives the same logits and the same gradients as one over
the whole prompt. Training keeps them (xrec.train.prefix_cache).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of P positions in every layer, for B rows.

    `tensor` (layers, 2, B, heads, P, head_dim); `mask` (B, P) is 1, and 0 at padding.
    """

    tensor: Tensor
    mask: Tensor

    def cache(self) -> DynamicCache:
        """A new cache for transformers; what the model appends to it does not change `self`."""
        return DynamicCache([(layer[0], layer[1]) for layer in self.tensor])


def num_prefix_tokens(prompt_ids: Sequence[int], num_text_tokens: int) -> int:
    """The number of tokens before the first collaborative one.

    The last token of the prompt never counts, because its output predicts the first label.
    """
    return next(
        (position for position, token in enumerate(prompt_ids[:-1]) if token >= num_text_tokens),
        len(prompt_ids) - 1,
    )


def common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    """The longest beginning that all rows share."""
    # Rows between the first and the last in lexicographic order share what these two share.
    first, last = min(map(list, rows)), max(map(list, rows))
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
    """Keys and values of each row of token ids: one (layers, 2, heads, length, head_dim) per row.

    `past`, with B = 1, holds positions that come before every row. This is one forward pass of the
    decoder over the left-padded rows, without autograd and without logits.
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
    """One batch with the positions [shared | padding | own] for each row.

    `shared` and `rows` are tensors that `compute_key_values` returned; None stands for no tokens.
    Returns None if there is no position at all.
    """
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
    """Whether a pass in two parts over `num_positions` positions gives the same as one pass.

    It does if every layer attends to all of the positions, padding included.
    """
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
    """Position ids (B, count) of the last `count` columns of an attention mask (B, S).

    Padding does not count as a position.
    """
    return (mask.cumsum(-1) - 1).clamp_min(0)[:, -count:]
