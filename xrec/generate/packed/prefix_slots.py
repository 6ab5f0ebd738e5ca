"""The slots of prefixes, and what is known of slots that are not in use any more."""

from collections.abc import Iterator

from xrec.generate.packed.arena import Arena
from xrec.generate.packed.prefix_groups import shared_length
from xrec.generate.packed.sequences import Prefix, PrefixSlab
from xrec.generate.packed.slot_lengths import SlotLengths


class PrefixSlots:
    """The slots of prefixes, which are found again in slots that are not in use any more.

    Ids from `num_text_tokens` on are users and items. They may stand for other vectors once no
    request holds them, so only the text before them is found again.
    """

    def __init__(self, arena: Arena, max_rows: int, num_text_tokens: int):
        self._arena, self._num_text_tokens = arena, num_text_tokens
        self._most = -(-max_rows // 2)
        self.lengths = SlotLengths(self._most, arena.num_positions // 3)
        self._slabs: dict[int, list[PrefixSlab]] = {}

    @property
    def count(self) -> int:
        """The number of prefixes that have a slot."""
        return sum(len(slab.prefixes) for slab in self._all)

    @property
    def num_positions(self) -> int:
        """The number of positions in slots that a prefix has."""
        return sum(len(slab.prefixes) * slab.slot_length for slab in self._all)

    @property
    def _all(self) -> Iterator[PrefixSlab]:
        return (slab for slabs in self._slabs.values() for slab in slabs)

    def place(self, prefix: Prefix) -> bool:
        """Give a prefix a slot; returns False if there is no room."""
        for length in self.lengths.choices(len(prefix.token_ids)):
            found = self._with_room(length)
            if found is not None:
                prefix.slab, prefix.slot = found
                prefix.slab.prefixes[prefix.slot] = prefix
                return True
        return False

    def release(self, prefix: Prefix) -> None:
        """Take a prefix's slot back; what was computed of it is lost to it."""
        assert prefix.slab is not None
        slab, slot = prefix.slab, prefix.slot
        del slab.prefixes[slot]
        if prefix.is_broken:
            self._arena.clear(slab, slot)
        if prefix.is_computed and slot in slab.contents:
            slab.contents[slot] = (self._text_of(prefix.token_ids), prefix.is_injected)
        prefix.slab, prefix.slot, prefix.num_computed = None, -1, 0

    def begin(self, prefix: Prefix, source: tuple[PrefixSlab, int], length: int) -> None:
        """Copy the first `length` positions of a prefix from another slot."""
        assert prefix.slab is not None
        if source != (prefix.slab, prefix.slot) and length:
            self._arena.copy(source, (prefix.slab, prefix.slot), length)
        prefix.slab.contents.pop(prefix.slot, None)
        prefix.num_computed = length
        self.computed(prefix)

    def computed(self, prefix: Prefix) -> None:
        """Make a prefix known as content of its slot, if all of it is computed."""
        if prefix.is_computed:
            assert prefix.slab is not None
            prefix.slab.contents[prefix.slot] = (prefix.token_ids, prefix.is_injected)

    def longest_beginning(self, prefix: Prefix) -> tuple[tuple[PrefixSlab, int], int]:
        """The slot whose content shares most tokens with a prefix that has a slot, and how many."""
        assert prefix.slab is not None
        best, most = (prefix.slab, prefix.slot), 0
        text = len(self._text_of(prefix.token_ids))
        for slab in self._all:
            for slot, (content, is_injected) in slab.contents.items():
                length = shared_length(content, prefix.token_ids)
                length = length if is_injected == prefix.is_injected else min(length, text)
                if length > most:
                    best, most = (slab, slot), length
        return best, most

    def shrink(self) -> None:
        """Give back the slots after the last one that is in use."""
        for length, slabs in self._slabs.items():
            for slab in slabs:
                num_slots = max(slab.prefixes, default=-1) + 1
                slab.contents = {
                    slot: content for slot, content in slab.contents.items() if slot < num_slots
                }
                self._arena.shrink(slab, num_slots)
            self._slabs[length] = [slab for slab in slabs if slab.num_slots]

    def _with_room(self, length: int) -> tuple[PrefixSlab, int] | None:
        slabs = self._slabs.setdefault(length, [])
        for slab in slabs:
            for slot in range(slab.num_slots):
                if slot not in slab.prefixes:
                    return slab, slot
        if slabs and self._arena.grow(slabs[-1]):
            return slabs[-1], slabs[-1].num_slots - 1
        wanted = min(self._most, self._arena.num_free // (4 * length))
        reserved = self._arena.reserve(length, max(1, wanted))
        if reserved is None:
            return None
        slabs.append(PrefixSlab(reserved[0], length, reserved[1]))
        return slabs[-1], 0

    def _text_of(self, token_ids: list[int]) -> list[int]:
        """The tokens before the first user or item."""
        return next(
            (
                token_ids[:place]
                for place, token in enumerate(token_ids)
                if token >= self._num_text_tokens
            ),
            token_ids,
        )
