"""Keys and values of all layers, allocated once: `num_slots` sequences of at most `length` positions each."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeyValueShape:
    """What one position of one sequence holds in every layer."""

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_position(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize


class KeyValueStore:
    """`tensor` (layers, 2, slots, heads, length, head_dim); what was never written is zero, not NaN."""

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
        """key, value (T, heads, head_dim) of T tokens to their `slots` (T,) and `positions` (T,)."""
        for kind, states in enumerate((key, value)):
            self.tensor[layer, kind].transpose(1, 2)[slots, positions] = states

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot to another, in all layers."""
        self.tensor[:, :, target, :, :length] = self.tensor[:, :, source, :, :length]
