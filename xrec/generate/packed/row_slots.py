"""The slots of rows.

Rows that share a slab have slots of one length, and their prefixes are in one slab: together they
are one part of attention's work.
"""

from collections.abc import Iterator

from xrec.generate.packed.arena import Arena
from xrec.generate.packed.sequences import PrefixSlab, Row, RowSlab
from xrec.generate.packed.slot_lengths import SlotLengths


class RowSlots:
    """The slots of at most `max_rows` rows.

    Rows stand without gaps: when one ends, the last one of its kind takes its slot.
    """

    def __init__(self, arena: Arena, max_rows: int):
        self._arena, self._max_rows, self._num_rows = arena, max_rows, 0
        self.lengths = SlotLengths(max_rows, arena.num_positions * 2 // 3)
        self._slabs: dict[tuple[int, PrefixSlab | None], list[RowSlab]] = {}

    @property
    def slabs(self) -> Iterator[RowSlab]:
        """All slabs; none is empty."""
        return (slab for slabs in self._slabs.values() for slab in slabs)

    @property
    def num_positions(self) -> int:
        """The number of positions in slots that a row has."""
        return sum(len(slab.rows) * slab.slot_length for slab in self.slabs)

    def place(self, row: Row) -> bool:
        """Give a row a slot; returns False if there is no room."""
        for length in self.lengths.choices(row.num_positions):
            slab = self._with_room(length, row.prefix.slab)
            if slab is not None:
                row.slab, row.slot = slab, len(slab.rows)
                slab.rows.append(row)
                self._num_rows += 1
                return True
        return False

    def remove(self, row: Row) -> None:
        """Take a row's slot back, and move the last row of its kind there."""
        assert row.slab is not None
        slab, slot = row.slab, row.slot
        key = (slab.slot_length, slab.prefix_slab)
        last_slab = self._slabs[key][-1]
        last = last_slab.rows.pop()
        if last is not row:
            self._arena.copy((last_slab, last.slot), (slab, slot), last.num_computed)
            last.slab, last.slot = slab, slot
            slab.rows[slot] = last
        row.slab = None
        self._num_rows -= 1
        if not last_slab.rows:
            self._arena.shrink(last_slab, 0)
            self._slabs[key].pop()
            if not self._slabs[key]:
                del self._slabs[key]

    def shrink(self) -> None:
        """Give back the slots that no row has."""
        for slab in self.slabs:
            self._arena.shrink(slab, len(slab.rows))

    def _with_room(self, length: int, prefix_slab: PrefixSlab | None) -> RowSlab | None:
        slabs = self._slabs.get((length, prefix_slab), [])
        if slabs and (len(slabs[-1].rows) < slabs[-1].num_slots or self._arena.grow(slabs[-1])):
            return slabs[-1]
        wanted = min(self._max_rows - self._num_rows, self._arena.num_free // (2 * length))
        reserved = self._arena.reserve(length, max(1, wanted))
        if reserved is None:
            return None
        slab = RowSlab(reserved[0], length, reserved[1], prefix_slab)
        self._slabs.setdefault((length, prefix_slab), []).append(slab)
        return slab
