"""The KV cache of all layers, allocated once, and the lengths of its slots.

Positions are allocated as blocks. A block consists of consecutive slots of equal length, and a slot
stores the keys and values of one request or prefix. The slots of a block can be read as one tensor
without copying.

Few blocks make attention fast, and tight slots save memory. While the cache has room, all requests
of similar size get slots for the largest of them, in one block. When it runs short, only sizes up
to the next power of two share a length. If there is still no room, a request gets a slot of its own
size class.
"""

import mmap
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KVShape:
    """The number and type of the values that one position takes in every layer."""

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_position(self) -> int:
        """Size of one position in all layers, in bytes."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize


@dataclass(eq=False)
class Block:
    """Slots of `slot_length` positions each; the first one starts at position `start`."""

    start: int
    slot_length: int
    num_slots: int

    @property
    def stop(self) -> int:
        """The position after the last slot."""
        return self.start + self.num_slots * self.slot_length


class KVCache:
    """The keys and values of `num_positions` positions.

    `tensor` is (layers, 2, positions * heads, head_dim). Within a slot, the positions of a head are
    consecutive. The tensor starts as zeros, because attention multiplies unwritten positions by a
    weight of zero, and zero times NaN is NaN. On a CPU, memory that was never written takes no
    space.
    """

    def __init__(self, shape: KVShape, num_positions: int):
        self.shape = shape
        self.num_positions = num_positions
        self.tensor = _zeros(shape, num_positions)
        self._free = [(0, num_positions)]
        self.num_free = num_positions

    def reserve(self, slot_length: int, num_slots: int) -> tuple[int, int] | None:
        """Reserve a range for `num_slots` slots, or for fewer if no free range is large enough.

        Return its first position and its number of slots, or None if not even one slot fits.
        """
        ranges = [(start, (stop - start) // slot_length) for start, stop in self._free]
        start, most = next(
            (free for free in ranges if free[1] >= num_slots),
            max(ranges, key=lambda free: free[1], default=(0, 0)),
        )
        if not most:
            return None
        count = min(num_slots, most)
        self._take(start, start + count * slot_length)
        return start, count

    def grow(self, block: Block) -> bool:
        """Add a slot to a block if the positions after it are free; return whether they were."""
        stop = block.stop + block.slot_length
        if not any(start == block.stop and end >= stop for start, end in self._free):
            return False
        self._take(block.stop, stop)
        block.num_slots += 1
        return True

    def shrink(self, block: Block, num_slots: int) -> None:
        """Free all slots of a block except the first `num_slots`."""
        stop = block.stop
        block.num_slots = num_slots
        if stop > block.stop:
            self._free = _joined([*self._free, (block.stop, stop)])
            self.num_free += stop - block.stop

    def read(self, layer: int, block: Block) -> tuple[Tensor, Tensor]:
        """Return views of a block's keys and values, (slots, heads, slot_length, head_dim) each."""
        heads = self.shape.num_heads
        keys, values = self.tensor[layer, :, block.start * heads : block.stop * heads].view(
            2, block.num_slots, heads, block.slot_length, self.shape.head_dim
        )
        return keys, values

    def copy(self, source: tuple[Block, int], target: tuple[Block, int], length: int) -> None:
        """Copy the first `length` positions of one slot (block, number) to another."""
        self._slot(*target)[:, :, :, :length] = self._slot(*source)[:, :, :, :length]

    def clear_all(self) -> None:
        """Free all positions and set them to zero."""
        self.tensor.zero_()
        self._free, self.num_free = [(0, self.num_positions)], self.num_positions

    def clear(self, block: Block, slot: int) -> None:
        self._slot(block, slot).zero_()

    def _slot(self, block: Block, slot: int) -> Tensor:
        """Return a view (layers, 2, heads, slot_length, head_dim) of one slot."""
        heads, start = self.shape.num_heads, block.start + slot * block.slot_length
        part = self.tensor[:, :, start * heads : (start + block.slot_length) * heads]
        slot_view: Tensor = part.unflatten(2, (heads, block.slot_length))
        return slot_view

    def _take(self, first: int, last: int) -> None:
        """Remove the free positions `first` to `last` from the free ranges."""
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
    """Chooses the lengths of slots from the needs seen so far, in positions.

    A slot is as long as the largest similar need if `num_slots` such slots fit in `num_positions`.
    Otherwise it is as long as the largest need up to the next power of two.
    """

    def __init__(self, num_slots: int, num_positions: int):
        self._num_slots, self._num_positions = num_slots, num_positions
        self._largest: dict[int, int] = {}
        self._largest_of_octave: dict[int, int] = {}

    def see(self, need: int) -> None:
        """Take a future need into account."""
        for largest, key in (
            (self._largest, _similar(need)),
            (self._largest_of_octave, _octave(need)),
        ):
            largest[key] = max(need, largest.get(key, 0))

    def choices(self, need: int) -> list[int]:
        """Return the lengths to try for a need, best first."""
        self.see(need)
        shared = size_class(self._largest[_similar(need)])
        if self._num_slots * shared > self._num_positions:
            shared = size_class(self._largest_of_octave[_octave(need)])
        return list(dict.fromkeys([shared, size_class(need), need]))


def size_class(need: int) -> int:
    """Return the length for a need: a multiple of 16, at most a quarter longer from 64 on."""
    step = max(16, 1 << max(0, need.bit_length() - 3))
    return -(-need // step) * step


def _similar(need: int) -> int:
    """Return the class of similar needs: up to 64, 256, 1024 and so on."""
    return (_octave(need) + 1) // 2


def _octave(need: int) -> int:
    """Return the class of a need: up to 64, 128, 256 and so on."""
    return ((need - 1) // 64).bit_length()


def _zeros(shape: KVShape, num_positions: int) -> Tensor:
    size = (shape.num_layers, 2, num_positions * shape.num_heads, shape.head_dim)
    if shape.device.type != "cpu" or not num_positions:
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)
    memory = mmap.mmap(-1, num_positions * shape.bytes_per_position)
    count = num_positions * shape.bytes_per_position // shape.dtype.itemsize
    return torch.frombuffer(memory, dtype=shape.dtype, count=count).view(size)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges sorted, with adjacent ones merged."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
