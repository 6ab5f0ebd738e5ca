"""Attention for a packed pass: the tokens of many sequences in one row, without padding.

Each token attends only to its own sequence, which is [prefix | own]. The keys and values of a
prefix are stored once, in their own slot, for all sequences that share it. Those of the own part
are in the sequence's slot. For the queries q of a sequence:

    scores = [q prefix^T | q own^T] + mask
    weights = softmax(scores), over both parts together
    output = weights_prefix V_prefix + weights_own V_own

The own part is one batched product over the sequences of a block. The prefix part is one batched
product over prefixes, in which all sequences of a prefix are rows of one matrix. A prefix is
therefore read once per step, not once per sequence. There is no loop over sequences.

In shape comments, B is the number of sequences, C the most tokens of one sequence in the pass, K
the number of key heads, G the number of query heads per key head, and d the width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xrec.errors import ModelError
from xrec.generate.builtin.kv_cache import Block, KVCache

PACKED = "packed"
_FEW_QUERIES = 16


Attend = Callable[[int, Tensor, Tensor, Tensor, float | None, int | None], Tensor]
"""A function that returns the attention output (T, heads, d) of one layer; passed as `packed=`.

Its arguments are the layer, the scaled query (T, heads, d), key and value (T, K, d), and the
layer's cap on scores and sliding window, or None.
"""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    packed: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention output (1, T, heads, d), and None instead of the attention weights.

    `query` is (1, heads, T, d), `key` and `value` are (1, K, T, d). Raises ModelError for a model
    that uses attention sinks or position biases, and outside of a packed pass.
    """
    unknown = [name for name in ("s_aux", "position_bias") if kwargs.get(name) is not None]
    if unknown or packed is None:
        raise ModelError(
            f"{type(module).__name__}: packed attention does not support "
            f"{', '.join(unknown) or 'a pass without a layout'}; use another model",
            code="unsupported_attention",
            saw=sorted(unknown),
        )
    scaled = query[0].transpose(0, 1) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    layer = module.layer_idx
    assert isinstance(layer, int)
    return packed(
        layer, scaled, key[0].transpose(0, 1), value[0].transpose(0, 1), softcap, sliding_window
    )[None], None


@dataclass(frozen=True, eq=False)
class Extent:
    """The first `length` positions of some slots in a block.

    If `slots` is a slice, reading returns a view. If it is a tensor (n,), reading copies.
    """

    block: Block
    slots: slice | Tensor
    length: int

    def read(self, cache: KVCache, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys and the values, (n, K, length, d) each."""
        keys, values = (states[:, :, : self.length] for states in cache.read(layer, self.block))
        if isinstance(self.slots, slice):
            return keys[self.slots], values[self.slots]
        return keys.index_select(0, self.slots), values.index_select(0, self.slots)


@dataclass(frozen=True, eq=False)
class SharedPrefixes:
    """The prefixes of a part, each with N = `max_members` seats for its sequences.

    Sequence b has seat `members[b]` = prefix * N + seat. `rows` (prefixes * N,) is the inverse of
    `members`. It is 0 for empty seats, whose results are not used.
    """

    extent: Extent
    members: Tensor
    rows: Tensor
    lengths: Tensor
    """(B,), the length of each sequence's prefix."""
    max_members: int


@dataclass(eq=False)
class Part:
    """The tokens of a pass whose sequences are in one block: a grid of B sequences and C columns.

    Token t of the part is in cell `cells[t]` = sequence * C + column. If `cells` is None, every
    sequence has one token, in order. `token_of_cell` (B * C,) is the inverse of `cells`; it is 0
    for empty cells. `positions` (B, C) are relative to the start of the sequence's own part.
    """

    tokens: slice
    own: Extent
    positions: Tensor
    cells: Tensor | None
    token_of_cell: Tensor | None
    prefixes: SharedPrefixes | None
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def stack(self, query: Tensor, num_groups: int) -> Tensor:
        """Return queries (T, heads, d) as (B, K, C, G, d)."""
        batch, columns = self.positions.shape
        if self.token_of_cell is not None:
            query = query.index_select(0, self.token_of_cell)
        return query.reshape(batch, columns, num_groups, -1, query.shape[-1]).transpose(1, 2)

    def unstack(self, attended: Tensor) -> Tensor:
        """Return (B, K, C, G, d) as (T, heads, d), the inverse of `stack`."""
        cells = attended.transpose(1, 2).reshape(self.positions.numel(), -1, attended.shape[-1])
        return cells if self.cells is None else cells.index_select(0, self.cells)

    def mask(self, window: int | None) -> Tensor:
        """Return the additive mask (B, 1, C, 1, prefix + own), float32: 0 for visible keys."""
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int | None) -> Tensor:
        device = self.positions.device
        keys, at = torch.arange(self.own.length, device=device), self.positions[:, :, None]
        seen = (keys <= at) & (keys > at - window) if window else keys <= at
        if self.prefixes is not None:
            keys, lengths = (
                torch.arange(self.prefixes.extent.length, device=device),
                self.prefixes.lengths[:, None, None],
            )
            on_prefix = (
                (keys < lengths) & (keys > at + lengths - window)
                if window
                else (keys < lengths).expand(-1, at.shape[1], -1)
            )
            seen = torch.cat([on_prefix, seen], dim=-1)
        mask = torch.zeros(seen.shape, device=device).masked_fill_(
            ~seen, torch.finfo(torch.float32).min
        )
        return mask[:, None, :, None]


@dataclass(eq=False)
class PackedLayout:
    """The T tokens of one pass, and the cache rows for their keys and values.

    `rows` (T * K,) are the rows in a layer of the cache for token 0's heads, then token 1's, and so
    on. `parts` together contain all tokens, in order.
    """

    cache: KVCache
    rows: Tensor
    parts: list[Part]

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        """See `Attend`; write the keys and values to the cache first."""
        for kind, states in enumerate((key, value)):
            self.cache.tensor[layer, kind].index_copy_(0, self.rows, states.flatten(0, 1))
        attended = [
            _attend_part(part, self.cache, layer, query[part.tokens], softcap, window)
            for part in self.parts
        ]
        return attended[0] if len(attended) == 1 else torch.cat(attended)


def _attend_part(
    part: Part, cache: KVCache, layer: int, query: Tensor, softcap: float | None, window: int | None
) -> Tensor:
    stacked = part.stack(query, cache.shape.num_heads)  # (B, K, C, G, d)
    own_keys, own_values = part.own.read(cache, layer)
    scores = _products(stacked, own_keys)
    if part.prefixes is None:
        return part.unstack(_weighted(_weights(scores, part.mask(window), softcap), own_values))
    keys, values = part.prefixes.extent.read(cache, layer)
    on_prefix = _scatter(part.prefixes, _products(_gather(part.prefixes, stacked), keys))
    scores = torch.cat([on_prefix, scores], dim=-1)
    prefix_weights, own_weights = _weights(scores, part.mask(window), softcap).split(
        [part.prefixes.extent.length, part.own.length], dim=-1
    )
    attended = _scatter(part.prefixes, _weighted(_gather(part.prefixes, prefix_weights), values))
    return part.unstack(attended + _weighted(own_weights, own_values))


def _weights(scores: Tensor, mask: Tensor, softcap: float | None) -> Tensor:
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    # float32 is more exact and, on a CPU, twice as fast as the bfloat16 kernel.
    return torch.softmax(scores.float().add_(mask), dim=-1).to(scores.dtype)


def _products(query: Tensor, keys: Tensor) -> Tensor:
    """Return the products (n, K, ..., L) of queries (n, K, ..., d) and keys (n, K, L, d)."""
    flat, rows = keys.flatten(0, 1), query.flatten(0, 1).flatten(1, -2)
    if rows.shape[1] < _FEW_QUERIES:
        # With few queries, the keys are the larger factor. On the left they are not repacked.
        scores = torch.bmm(flat, rows.transpose(1, 2)).transpose(1, 2).contiguous()
    else:
        scores = torch.bmm(rows, flat.transpose(1, 2))
    return scores.view(*query.shape[:-1], keys.shape[2])


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Return the sums (n, K, ..., d) of values (n, K, L, d), weighted by (n, K, ..., L)."""
    return torch.bmm(weights.flatten(0, 1).flatten(1, -2), values.flatten(0, 1)).view(
        *weights.shape[:-1], values.shape[-1]
    )


def _gather(prefixes: SharedPrefixes, rows: Tensor) -> Tensor:
    """Return rows (B, K, C, G, x) of sequences, by prefix: (prefixes, K, N, C, G, x)."""
    return (
        rows.index_select(0, prefixes.rows)
        .view(-1, prefixes.max_members, *rows.shape[1:])
        .transpose(1, 2)
    )


def _scatter(prefixes: SharedPrefixes, gathered: Tensor) -> Tensor:
    """Return rows by sequence, the inverse of `_gather`."""
    return gathered.transpose(1, 2).flatten(0, 1).index_select(0, prefixes.members)
