"""How long slots should be.

Few slabs make attention fast, and slots that fit save memory. While the arena has room, all rows of
similar need get slots for the largest need, in one slab; when it has not, each row gets a slot of
its own size class.
"""


class SlotLengths:
    """How long slots should be, by the needs that were seen.

    A slot is as long as the largest need of similar size if `num_slots` such slots take at most
    `num_positions`, else as long as the size class of its own need.
    """

    def __init__(self, num_slots: int, num_positions: int):
        self._num_slots, self._num_positions = num_slots, num_positions
        self._largest: dict[int, int] = {}

    def see(self, need: int) -> None:
        """Take a need into account before slots are given out."""
        self._largest[_similar(need)] = max(need, self._largest.get(_similar(need), 0))

    def choices(self, need: int) -> list[int]:
        """The lengths to try for a need, the best one first."""
        self.see(need)
        shared, own = size_class(self._largest[_similar(need)]), size_class(need)
        fits = self._num_slots * shared <= self._num_positions
        return list(dict.fromkeys([shared if fits else own, own, need]))


def size_class(need: int) -> int:
    """The length of a slot for a need: a multiple of 16, from 64 on at most a quarter longer."""
    step = max(16, 1 << max(0, need.bit_length() - 3))
    return -(-need // step) * step


def _similar(need: int) -> int:
    """Needs up to 64, 256, 1024 and so on are similar."""
    return (((need - 1) // 64).bit_length() + 1) // 2
