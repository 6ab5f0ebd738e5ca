"""The memory for keys and values of all layers, which is allocated once.

Positions are handed out as slabs. A slab is a number of slots of equal length that follow each
other, and a slot holds the keys and values of one sequence. The slots of a slab can be read as one
tensor without a copy.
"""

import mmap
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


@dataclass(eq=False)
class Slab:
    """Slots of `slot_length` positions each; the first one begins at position `start`."""

    start: int
    slot_length: int
    num_slots: int

    @property
    def stop(self) -> int:
        """The position after the last slot."""
        return self.start + self.num_slots * self.slot_length


class Arena:
    """Keys and values of `num_positions` positions.

    `tensor` is (layers, 2, positions * heads, head_dim). Within a slot, each head's positions
    follow each other. It starts as zeros, because attention multiplies positions that were never
    written by a weight of zero, and zero times NaN is NaN. On a CPU, memory that was never written
    takes no room.
    """

    def __init__(self, shape: KeyValueShape, num_positions: int):
        self.shape = shape
        self.num_positions = num_positions
        self.tensor = _zeros(shape, num_positions)
        self._free = [(0, num_positions)]
        self.num_free = num_positions

    def reserve(self, slot_length: int, num_slots: int) -> tuple[int, int] | None:
        """A range for `num_slots` slots, or for fewer if no free range holds as many.

        Returns its first position and its number of slots, or None if no range holds one slot.
        """
        ranges = [(start, (stop - start) // slot_length) for start, stop in self._free]
        start, most = next(
            (one for one in ranges if one[1] >= num_slots),
            max(ranges, key=lambda one: one[1], default=(0, 0)),
        )
        if not most:
            return None
        count = min(num_slots, most)
        self._take(start, start + count * slot_length)
        return start, count

    def grow(self, slab: Slab) -> bool:
        """Add a slot to a slab, if the positions after it are free."""
        stop = slab.stop + slab.slot_length
        if not any(start == slab.stop and end >= stop for start, end in self._free):
            return False
        self._take(slab.stop, stop)
        slab.num_slots += 1
        return True

    def shrink(self, slab: Slab, num_slots: int) -> None:
        """Give back all slots of a slab but the first `num_slots`."""
        stop = slab.stop
        slab.num_slots = num_slots
        if stop > slab.stop:
            self._free = _joined([*self._free, (slab.stop, stop)])
            self.num_free += stop - slab.stop

    def read(self, layer: int, slab: Slab) -> tuple[Tensor, Tensor]:
        """Views of the keys and values of a slab, (slots, heads, slot_length, head_dim) each."""
        heads = self.shape.num_heads
        keys, values = self.tensor[layer, :, slab.start * heads : slab.stop * heads].view(
            2, slab.num_slots, heads, slab.slot_length, self.shape.head_dim
        )
        return keys, values

    def copy(self, source: tuple[Slab, int], target: tuple[Slab, int], length: int) -> None:
        """Copy the first `length` positions of one slot (slab, number) to another."""
        self._slot(*target)[:, :, :, :length] = self._slot(*source)[:, :, :, :length]

    def clear(self, slab: Slab, slot: int) -> None:
        """Set a slot to zeros."""
        self._slot(slab, slot).zero_()

    def _slot(self, slab: Slab, slot: int) -> Tensor:
        """A view (layers, 2, heads, slot_length, head_dim) of one slot."""
        heads, start = self.shape.num_heads, slab.start + slot * slab.slot_length
        part = self.tensor[:, :, start * heads : (start + slab.slot_length) * heads]
        slot_view: Tensor = part.unflatten(2, (heads, slab.slot_length))
        return slot_view

    def _take(self, first: int, last: int) -> None:
        """Remove the positions `first` to `last`, all free, from the free ranges."""
        self._free = [
            part
            for start, stop in self._free
            for part in (
                ((start, first), (last, stop)) if start <= first < stop else ((start, stop),)
            )
            if part[0] < part[1]
        ]
        self.num_free -= last - first


def _zeros(shape: KeyValueShape, num_positions: int) -> Tensor:
    size = (shape.num_layers, 2, num_positions * shape.num_heads, shape.head_dim)
    if shape.device.type != "cpu" or not num_positions:
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)
    memory = mmap.mmap(-1, num_positions * shape.bytes_per_position)
    count = num_positions * shape.bytes_per_position // shape.dtype.itemsize
    return torch.frombuffer(memory, dtype=shape.dtype, count=count).view(size)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same positions in as few ranges as possible, in order."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
