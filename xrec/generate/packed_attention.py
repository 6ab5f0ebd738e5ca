"""Attention of a packed pass: tokens of many sequences in one row without padding, each attending to its own sequence.

A sequence b is [prefix | own]: the prefix's keys and values lie once in the store of prefixes, for all sequences that
share it; its own lie in slot b of the store of rows. With q stacked by key head (C query columns, G query heads a group)

    scores = [q prefix^T | q own^T] + mask,    softmax over both,    out = w_prefix V_prefix + w_own V_own

The own part is one batched product over sequences, the prefix part one over prefixes, all of whose sequences are rows
of it: a prefix is read once a step and not once a row. No loop over rows.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from xrec.errors import ModelError
from xrec.generate.key_values import KeyValueStore

PACKED = "packed"
_FEW_QUERIES = 16


class Attends(Protocol):
    """What the forward pass is given as `packed=`."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        """query (T, heads, d), scaled, key and value (T, K, d) -> (T, heads, d)."""
        ...


def register_packed_attention() -> None:
    """Make `attn_implementation="packed"` known to transformers, which then builds no mask; again is harmless."""
    AttentionInterface.register(PACKED, packed_attention)


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
    packed: Attends | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, T, d), key and value (1, K, T, d) -> (1, T, heads, d).

    Raises ModelError for attention sinks and position biases.
    """
    unknown = [name for name in ("s_aux", "position_bias") if kwargs.get(name) is not None]
    if unknown or packed is None:
        raise ModelError(
            f"{type(module).__name__}: packed attention knows no {', '.join(unknown) or 'pass without a layout'}; use another model"
        )
    scaled = query[0].transpose(0, 1) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    layer = module.layer_idx
    assert isinstance(layer, int)
    return packed.attend(
        layer, scaled, key[0].transpose(0, 1), value[0].transpose(0, 1), softcap, sliding_window
    )[None], None


@dataclass(frozen=True, eq=False)
class Extent:
    """Slots of a store, the first `length` positions of each: `slots` a slice (a view) or (n,) (a copy)."""

    store: KeyValueStore
    slots: slice | Tensor
    length: int

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values, (n, K, length, d) each."""
        keys, values = self.store.tensor[layer, :, :, :, : self.length]
        if isinstance(self.slots, slice):
            return keys[self.slots], values[self.slots]
        return keys.index_select(0, self.slots), values.index_select(0, self.slots)


@dataclass(frozen=True, eq=False)
class SharedPrefixes:
    """The prefixes of a pass: sequence b is member `members[b]` = prefix * N + place, of N = `max_members` places each.

    `rows` (prefixes * N,) is the inverse, 0 at places of no sequence: what is computed there is not looked at.
    """

    extent: Extent
    members: Tensor
    rows: Tensor
    lengths: Tensor
    """(B,), of the prefix of each sequence."""
    num_prefixes: int
    max_members: int


@dataclass(eq=False)
class PackedLayout:
    """Where the T tokens of one pass stand: token t is cell `cells[t]` = sequence * C + column of B sequences x C columns.

    `cells` None: one token a sequence, in order; `tokens` (B * C,) is the inverse, 0 at cells of no token. `positions` (B, C),
    in the sequence's own part.
    """

    own: Extent
    slots: Tensor
    own_positions: Tensor
    positions: Tensor
    cells: Tensor | None
    tokens: Tensor | None
    prefixes: SharedPrefixes | None
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        """See `Attends`; writes the keys and values first."""
        self.own.store.write(layer, self.slots, self.own_positions, key, value)
        stacked = self._stack(query, key.shape[1])  # (B, K, C, G, d)
        own_keys, own_values = self.own.read(layer)
        scores = _products(stacked, own_keys)
        if self.prefixes is None:
            weights = self._weights(scores, softcap, window)
            return self._unstack(_weighted(weights, own_values), len(query))
        keys, values = self.prefixes.extent.read(layer)
        on_prefix = _leave(self.prefixes, _products(_gather(self.prefixes, stacked), keys))
        weights = self._weights(torch.cat([on_prefix, scores], dim=-1), softcap, window)
        prefix_weights, own_weights = weights.split(
            [self.prefixes.extent.length, self.own.length], dim=-1
        )
        attended = _leave(self.prefixes, _weighted(_gather(self.prefixes, prefix_weights), values))
        return self._unstack(attended + _weighted(own_weights, own_values), len(query))

    def _stack(self, query: Tensor, num_groups: int) -> Tensor:
        """(T, heads, d) -> (B, K, C, G, d)."""
        batch, columns = self.positions.shape
        if self.tokens is not None:
            query = query.index_select(0, self.tokens)
        return query.reshape(batch, columns, num_groups, -1, query.shape[-1]).transpose(1, 2)

    def _unstack(self, attended: Tensor, num_tokens: int) -> Tensor:
        """(B, K, C, G, d) -> (T, heads, d)."""
        cells = attended.transpose(1, 2).reshape(self.positions.numel(), -1, attended.shape[-1])
        return cells if self.cells is None else cells.index_select(0, self.cells)

    def _weights(self, scores: Tensor, softcap: float | None, window: int | None) -> Tensor:
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        # In float32: exact, and on a CPU twice as fast as the bfloat16 kernel.
        return torch.softmax(scores.float().add_(self._masks[window]), dim=-1).to(scores.dtype)

    def _mask(self, window: int | None) -> Tensor:
        """Additive, float32, (B, 1, C, 1, prefix + own): 0 for a key that a query may see."""
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


def _products(query: Tensor, keys: Tensor) -> Tensor:
    """(n, K, ..., d), (n, K, L, d) -> (n, K, ..., L). The larger factor on the left where queries are few: it is not repacked there."""
    flat, rows = keys.flatten(0, 1), query.flatten(0, 1).flatten(1, -2)
    if rows.shape[1] < _FEW_QUERIES:
        scores = torch.bmm(flat, rows.transpose(1, 2)).transpose(1, 2).contiguous()
    else:
        scores = torch.bmm(rows, flat.transpose(1, 2))
    return scores.view(*query.shape[:-1], keys.shape[2])


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """(n, K, ..., L), (n, K, L, d) -> (n, K, ..., d)."""
    return torch.bmm(weights.flatten(0, 1).flatten(1, -2), values.flatten(0, 1)).view(
        *weights.shape[:-1], values.shape[-1]
    )


def _gather(prefixes: SharedPrefixes, rows: Tensor) -> Tensor:
    """Sequences (B, K, C, G, x) to the prefixes that they share, (prefixes, K, N, C, G, x)."""
    return (
        rows.index_select(0, prefixes.rows)
        .view(-1, prefixes.max_members, *rows.shape[1:])
        .transpose(1, 2)
    )


def _leave(prefixes: SharedPrefixes, gathered: Tensor) -> Tensor:
    """The inverse of `_gather`."""
    return gathered.transpose(1, 2).flatten(0, 1).index_select(0, prefixes.members)
