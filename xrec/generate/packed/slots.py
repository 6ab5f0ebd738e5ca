"""Gives rows and prefixes their slots in the arena."""

from collections.abc import Iterable, Iterator

from xrec.generate.packed.arena import Arena
from xrec.generate.packed.prefix_slots import PrefixSlots
from xrec.generate.packed.row_slots import RowSlots
from xrec.generate.packed.sequences import Row, RowSlab


class Slots:
    """The slots of all rows and prefixes in `arena`."""

    def __init__(self, arena: Arena, max_rows: int, num_text_tokens: int):
        self.arena = arena
        self._rows = RowSlots(arena, max_rows)
        self.prefixes = PrefixSlots(arena, max_rows, num_text_tokens)

    @property
    def row_slabs(self) -> Iterator[RowSlab]:
        """The slabs of rows."""
        return self._rows.slabs

    @property
    def num_positions(self) -> int:
        """The number of positions in slots that a row or a prefix has."""
        return self._rows.num_positions + self.prefixes.num_positions

    def see(self, rows: Iterable[Row]) -> None:
        """Take the needs of rows that will come into account."""
        for row in rows:
            self._rows.lengths.see(row.num_positions)
            if row.prefix.token_ids:
                self.prefixes.lengths.see(len(row.prefix.token_ids))

    def place(self, row: Row) -> bool:
        """Give a row a slot, and its prefix too if it has none; returns False if there is no room.

        Then neither has got one.
        """
        prefix = row.prefix
        is_new = bool(prefix.token_ids) and prefix.slab is None
        for _ in range(2):
            has_prefix = not is_new or prefix.slab is not None or self.prefixes.place(prefix)
            if has_prefix and self._rows.place(row):
                return True
            self._make_room()
        if is_new and prefix.slab is not None:
            self.prefixes.release(prefix)
        return False

    def remove(self, rows: Iterable[Row]) -> None:
        """Take the slots of rows back."""
        for row in sorted(rows, key=lambda row: row.slot, reverse=True):
            self._rows.remove(row)

    def clear(self, row: Row) -> None:
        """Let nothing of a row that will be removed stay in memory, nor of its prefix.

        Other rows may have this prefix: its slot is cleared when the last of them has ended.
        """
        assert row.slab is not None
        self.arena.clear(row.slab, row.slot)
        if row.prefix.slab is not None:
            row.prefix.slab.contents.pop(row.prefix.slot, None)
            row.prefix.is_broken = True

    def _make_room(self) -> None:
        """Give back what is neither a row's nor a prefix's."""
        self._rows.shrink()
        self.prefixes.shrink()
