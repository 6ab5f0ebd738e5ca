"""How long slots should be.

Few slabs make attention fast, and slots that fit save memory. While the arena has room, all rows of
similar need get slots for the largest need, in one slab. When it has not, rows share a length with
those of a need up to twice as large only; and where that finds no room, a row gets a slot of its
own size class.
"""


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
