"""The slots of prefixes, and what is known of slots that are not in use any more."""

from collections.abc import Iterator

from xrec.generate.builtin.kv_cache import KVCache, SlotLengths
from xrec.generate.builtin.prefix_groups import shared_length
from xrec.generate.builtin.requests import Prefix, PrefixBlock


class PrefixSlots:
    """The slots of prefixes, which are found again in slots that are not in use any more.

    Ids from `num_text_tokens` on are users and items. They may stand for other vectors once no
    request holds them, so only the text before them is found again.
    """

    def __init__(self, cache: KVCache, max_rows: int, num_text_tokens: int):
        self._cache, self._num_text_tokens = cache, num_text_tokens
        self._most = -(-max_rows // 2)
        self.lengths = SlotLengths(self._most, cache.num_positions // 3)
        self._blocks: dict[int, list[PrefixBlock]] = {}

    @property
    def count(self) -> int:
        """The number of prefixes that have a slot."""
        return sum(len(block.prefixes) for block in self._all)

    @property
    def num_positions(self) -> int:
        """The number of positions in slots that a prefix has."""
        return sum(len(block.prefixes) * block.slot_length for block in self._all)

    @property
    def _all(self) -> Iterator[PrefixBlock]:
        return (block for blocks in self._blocks.values() for block in blocks)

    def place(self, prefix: Prefix) -> bool:
        """Give a prefix a slot; returns False if there is no room."""
        for length in self.lengths.choices(len(prefix.token_ids)):
            found = self._with_room(length)
            if found is not None:
                prefix.block, prefix.slot = found
                prefix.block.prefixes[prefix.slot] = prefix
                return True
        return False

    def release(self, prefix: Prefix) -> None:
        """Take a prefix's slot back; what was computed of it is lost to it."""
        assert prefix.block is not None
        block, slot = prefix.block, prefix.slot
        del block.prefixes[slot]
        if prefix.is_broken:
            self._cache.clear(block, slot)
        if prefix.is_computed and slot in block.contents:
            block.contents[slot] = (self._text_of(prefix.token_ids), prefix.is_injected)
        prefix.block, prefix.slot, prefix.num_computed = None, -1, 0

    def begin(self, prefix: Prefix, source: tuple[PrefixBlock, int], length: int) -> None:
        """Copy the first `length` positions of a prefix from another slot."""
        assert prefix.block is not None
        if source != (prefix.block, prefix.slot) and length:
            self._cache.copy(source, (prefix.block, prefix.slot), length)
        prefix.block.contents.pop(prefix.slot, None)
        prefix.num_computed = length
        self.computed(prefix)

    def computed(self, prefix: Prefix) -> None:
        """Make a prefix known as content of its slot, if all of it is computed."""
        if prefix.is_computed:
            assert prefix.block is not None
            prefix.block.contents[prefix.slot] = (prefix.token_ids, prefix.is_injected)

    def longest_beginning(self, prefix: Prefix) -> tuple[tuple[PrefixBlock, int], int]:
        """The slot whose content shares most tokens with a prefix that has a slot, and how many."""
        assert prefix.block is not None
        best, most = (prefix.block, prefix.slot), 0
        text = len(self._text_of(prefix.token_ids))
        for block in self._all:
            for slot, (content, is_injected) in block.contents.items():
                length = shared_length(content, prefix.token_ids)
                length = length if is_injected == prefix.is_injected else min(length, text)
                if length > most:
                    best, most = (block, slot), length
        return best, most

    def shrink(self) -> None:
        """Give back the slots after the last one that is in use."""
        for length, blocks in self._blocks.items():
            for block in blocks:
                num_slots = max(block.prefixes, default=-1) + 1
                block.contents = {
                    slot: content for slot, content in block.contents.items() if slot < num_slots
                }
                self._cache.shrink(block, num_slots)
            self._blocks[length] = [block for block in blocks if block.num_slots]

    def _with_room(self, length: int) -> tuple[PrefixBlock, int] | None:
        blocks = self._blocks.setdefault(length, [])
        for block in blocks:
            for slot in range(block.num_slots):
                if slot not in block.prefixes:
                    return block, slot
        if blocks and self._cache.grow(blocks[-1]):
            return blocks[-1], blocks[-1].num_slots - 1
        wanted = min(self._most, self._cache.num_free // (4 * length))
        reserved = self._cache.reserve(length, max(1, wanted))
        if reserved is None:
            return None
        blocks.append(PrefixBlock(reserved[0], length, reserved[1]))
        return blocks[-1], 0

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
