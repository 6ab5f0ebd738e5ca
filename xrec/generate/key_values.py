"""A store for keys and values of all layers, allocated once."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeyValueShape:
    """The number and type of the values that one position of one sequence needs in every layer."""

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_position(self) -> int:
        """Bytes of one position's keys and values in all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize


class KeyValueStore:
    """Keys and values of `num_slots` sequences of at most `length` positions each.

    `tensor` is (layers, 2, slots, heads, length, head_dim). It starts as zeros, because attention
    multiplies positions that were never written by a weight of zero, and zero times NaN is NaN.
    """

    def __init__(self, shape: KeyValueShape, num_slots: int, length: int):
        self.num_slots, self.length = num_slots, length
        self.tensor = torch.zeros(
            shape.num_layers,
            2,
            num_slots,
            shape.num_heads,
            length,
            shape.head_dim,
            dtype=shape.dtype,
            device=shape.device,
        )

    def write(
        self, layer: int, slots: Tensor, positions: Tensor, key: Tensor, value: Tensor
    ) -> None:
        """Write `key` and `value` (T, heads, head_dim) of T tokens in one layer.

        Token t goes to position `positions[t]` of slot `slots[t]`; both are (T,).
        """
        for kind, states in enumerate((key, value)):
            self.tensor[layer, kind].transpose(1, 2)[slots, positions] = states

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` to slot `target`, in all layers."""
        self.tensor[:, :, target, :, :length] = self.tensor[:, :, source, :, :length]
