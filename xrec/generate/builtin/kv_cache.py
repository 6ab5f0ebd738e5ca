"""The KV cache of all layers, which is allocated once, and how its slots are cut.

Positions are handed out as blocks. A block is a number of slots of equal length that follow each
other, and a slot holds the keys and values of one request or prefix. The slots of a block can be
read as one tensor without a copy.

Few blocks make attention fast, and slots that fit save memory. While the cache has room, all
requests of similar need get slots for the largest need, in one block. When it has not, they share a
length with those of a need up to twice as large only; and where that finds no room, a request gets
a slot of its own size class.
"""

import mmap
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KVShape:
    """The number and type of the values that one position of one request needs in every layer."""

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_position(self) -> int:
        """Bytes of one position in all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize


@dataclass(eq=False)
class Block:
    """Slots of `slot_length` positions each; the first one begins at position `start`."""

    start: int
    slot_length: int
    num_slots: int

    @property
    def stop(self) -> int:
        """The position after the last slot."""
        return self.start + self.num_slots * self.slot_length


class KVCache:
    """Keys and values of `num_positions` positions.

    `tensor` is (layers, 2, positions * heads, head_dim). Within a slot, each head's positions
    follow each other. It starts as zeros, because attention multiplies positions that were never
    written by a weight of zero, and zero times NaN is NaN. On a CPU, memory that was never written
    takes no room.
    """

    def __init__(self, shape: KVShape, num_positions: int):
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

    def grow(self, block: Block) -> bool:
        """Add a slot to a block, if the positions after it are free."""
        stop = block.stop + block.slot_length
        if not any(start == block.stop and end >= stop for start, end in self._free):
            return False
        self._take(block.stop, stop)
        block.num_slots += 1
        return True

    def shrink(self, block: Block, num_slots: int) -> None:
        """Give back all slots of a block but the first `num_slots`."""
        stop = block.stop
        block.num_slots = num_slots
        if stop > block.stop:
            self._free = _joined([*self._free, (block.stop, stop)])
            self.num_free += stop - block.stop

    def read(self, layer: int, block: Block) -> tuple[Tensor, Tensor]:
        """Views of the keys and values of a block, (slots, heads, slot_length, head_dim) each."""
        heads = self.shape.num_heads
        keys, values = self.tensor[layer, :, block.start * heads : block.stop * heads].view(
            2, block.num_slots, heads, block.slot_length, self.shape.head_dim
        )
        return keys, values

    def copy(self, source: tuple[Block, int], target: tuple[Block, int], length: int) -> None:
        """Copy the first `length` positions of one slot (block, number) to another."""
        self._slot(*target)[:, :, :, :length] = self._slot(*source)[:, :, :, :length]

    def clear_all(self) -> None:
        """Take all positions back, as zeros."""
        self.tensor.zero_()
        self._free, self.num_free = [(0, self.num_positions)], self.num_positions

    def clear(self, block: Block, slot: int) -> None:
        self._slot(block, slot).zero_()

    def _slot(self, block: Block, slot: int) -> Tensor:
        """A view (layers, 2, heads, slot_length, head_dim) of one slot."""
        heads, start = self.shape.num_heads, block.start + slot * block.slot_length
        part = self.tensor[:, :, start * heads : (start + block.slot_length) * heads]
        slot_view: Tensor = part.unflatten(2, (heads, block.slot_length))
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


class SlotLengths:
    """How long slots should be, by the needs that were seen.

    A slot is as long as the largest need of similar size if `num_slots` such slots take at most
    `num_positions`, else as the largest need below the next power of two.
    """

    def __init__(self, num_slots: int, num_positions: int):
        self._num_slots, self._num_positions = num_slots, num_positions
        self._largest: dict[int, int] = {}
        self._largest_of_octave: dict[int, int] = {}

    def see(self, need: int) -> None:
        """Take a need into account before slots are given out."""
        for largest, key in (
            (self._largest, _similar(need)),
            (self._largest_of_octave, _octave(need)),
        ):
            largest[key] = max(need, largest.get(key, 0))

    def choices(self, need: int) -> list[int]:
        """The lengths to try for a need, the best one first."""
        self.see(need)
        shared = size_class(self._largest[_similar(need)])
        if self._num_slots * shared > self._num_positions:
            shared = size_class(self._largest_of_octave[_octave(need)])
        return list(dict.fromkeys([shared, size_class(need), need]))


def size_class(need: int) -> int:
    """The length of a slot for a need: a multiple of 16, from 64 on at most a quarter longer."""
    step = max(16, 1 << max(0, need.bit_length() - 3))
    return -(-need // step) * step


def _similar(need: int) -> int:
    """Needs up to 64, 256, 1024 and so on are similar."""
    return (_octave(need) + 1) // 2


def _octave(need: int) -> int:
    """Needs up to 64, 128, 256 and so on."""
    return ((need - 1) // 64).bit_length()


def _zeros(shape: KVShape, num_positions: int) -> Tensor:
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
