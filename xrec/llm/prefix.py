"""Keys and values of a prompt's prefix: its tokens before the first collaborative token.

    prompt = [shared | own | rest]

`shared` is the beginning that all prompts have in common, `own` is what this prompt adds to it, and
`rest` starts at the first collaborative token. Attention is causal, the language model is frozen,
and no adapter acts on shared and own, so their keys and values are constants. A forward pass over
the rest alone, with those keys and values, gives the same logits and the same gradients as one over
the whole prompt. `PrefixCache` keeps them in all epochs of a training: those of `shared` are
computed once, those of `own` when they are first needed. They are kept if the budget has room, and
computed again each time without it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from xrec.llm.examples import CACHE, Example, KeyValues, last_positions
from xrec.llm.model import unusual_layers


def num_prefix_tokens(prompt_ids: Sequence[int], num_text_tokens: int) -> int:
    """The number of tokens before the first collaborative one.

    The last token of the prompt never counts, because its output predicts the first label.
    """
    return next(
        (position for position, token in enumerate(prompt_ids[:-1]) if token >= num_text_tokens),
        len(prompt_ids) - 1,
    )


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
        use_cache=True,
        **{CACHE: cache},
    )
    tensor = torch.stack(
        [
            torch.stack([layer.keys[..., -length:, :], layer.values[..., -length:, :]])
            for layer in cache.layers
        ]
    )
    return [tensor[:, :, index, :, length - len(row) :].clone() for index, row in enumerate(rows)]


def key_value_bytes(model: PreTrainedModel) -> int:
    """The size of the keys and values of one position."""
    config = model.config.get_text_config(decoder=True)
    num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * 2 * num_heads * head_dim * model.dtype.itemsize)


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
    window = getattr(config, "sliding_window", None)
    return not unusual_layers(model) and (window is None or num_positions <= window)


class PrefixCache:
    """Splits examples at their first collaborative token; keeps keys and values of the beginnings.

    `agree` takes whether this worker has a beginning to compute, and returns whether any worker
    has: under ZeRO stage 3 all workers must make the same forward passes. If `split` is False,
    whole examples go through the model each time. All prompts begin with `shared_ids`, and no batch
    has more than `num_positions` columns.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shared_ids: Sequence[int],
        *,
        num_positions: int,
        budget_bytes: int,
        agree: Callable[[bool], bool] = lambda needed: needed,
        split: bool = True,
    ):
        self._num_text_tokens = model.get_input_embeddings().vocabulary.num_text_tokens
        self.can_split = can_split(model, num_positions)
        """Whether passes in two parts give the same; it does not depend on `split`."""
        self._splits = split and self.can_split
        self._shared_ids = list(shared_ids) if self._splits else []
        self._shared: Tensor | None = None
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._budget_bytes = budget_bytes
        self._agree = agree
        self.num_bytes = 0
        """Size of the keys and values that are kept, without those that all prompts share."""

    def split(
        self, model: PreTrainedModel, examples: Sequence[Example]
    ) -> tuple[KeyValues | None, list[Example]]:
        """Return the keys and values of the examples' beginnings, and the rest of the examples.

        The rest goes from the first collaborative token on. The examples must be among those that
        the cache was made for, because these share the same first tokens.
        """
        num_shared = len(self._shared_ids)
        assert all(
            list(example.prompt_ids[:num_shared]) == self._shared_ids for example in examples
        )
        if self._shared is None and self._shared_ids:
            (self._shared,) = compute_key_values(model, [self._shared_ids])
        lengths = [
            num_prefix_tokens(example.prompt_ids, self._num_text_tokens) if self._splits else 0
            for example in examples
        ]
        own_ids = [
            tuple(example.prompt_ids[num_shared:length])
            for example, length in zip(examples, lengths, strict=True)
        ]
        computed = self._compute(
            model, [ids for ids in dict.fromkeys(own_ids) if ids and ids not in self._kept]
        )
        rest = [
            Example(example.prompt_ids[length:], example.label_ids)
            for example, length in zip(examples, lengths, strict=True)
        ]
        return batch_key_values(
            self._shared, [computed.get(ids, self._kept.get(ids)) for ids in own_ids]
        ), rest

    def _compute(
        self, model: PreTrainedModel, missing: list[tuple[int, ...]]
    ) -> dict[tuple[int, ...], Tensor]:
        if not self._agree(bool(missing)):
            return {}
        # If only other workers have beginnings to compute, this one makes a pass over any token.
        rows = missing or [(0,)]
        past = batch_key_values(self._shared, [None])
        computed = dict(zip(rows, compute_key_values(model, rows, past), strict=True))
        for ids in missing:
            num_bytes = computed[ids].nbytes
            if self.num_bytes + num_bytes <= self._budget_bytes:
                self._kept[ids] = computed[ids]
                self.num_bytes += num_bytes
        return computed
