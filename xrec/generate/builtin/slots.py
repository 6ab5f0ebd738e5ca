"""Assign slots in the KV cache to requests and prefixes, and reuse the prefixes in free slots.

The requests in a block have slots of one length, and their prefixes are in one block, so that
attention processes them together.
"""

import itertools
from collections.abc import Iterable, Iterator

from xrec.generate.builtin.kv_cache import KVCache, SlotLengths
from xrec.generate.builtin.requests import Prefix, PrefixBlock, Request, RequestBlock, shared_length


class Slots:
    """The slots of at most `max_rows` requests and of their prefixes.

    There are no gaps: when a request ends, the last one of the same kind moves to its slot.
    """

    def __init__(self, cache: KVCache, max_rows: int, num_text_tokens: int):
        self.cache = cache
        self.prefixes = PrefixSlots(cache, max_rows, num_text_tokens)
        self._max_rows, self._num_requests = max_rows, 0
        self._lengths = SlotLengths(max_rows, cache.num_positions * 2 // 3)
        self._blocks: dict[tuple[int, PrefixBlock | None], list[RequestBlock]] = {}

    @property
    def request_blocks(self) -> Iterator[RequestBlock]:
        """All blocks of requests. None is empty."""
        return (block for blocks in self._blocks.values() for block in blocks)

    def see(self, requests: Iterable[Request]) -> None:
        """Take the needs of waiting requests into account."""
        for request in requests:
            self._lengths.see(request.num_positions)
            if request.prefix.token_ids:
                self.prefixes.lengths.see(len(request.prefix.token_ids))

    def place(self, request: Request) -> bool:
        """Give a request a slot, and its prefix too if it has none.

        Return False if there is no room; neither gets a slot then.
        """
        prefix = request.prefix
        is_new = bool(prefix.token_ids) and prefix.block is None
        for _ in range(2):
            has_prefix = not is_new or prefix.block is not None or self.prefixes.place(prefix)
            if has_prefix and self._place(request):
                return True
            self._make_room()
        if is_new and prefix.block is not None:
            self.prefixes.release(prefix)
        return False

    def remove(self, requests: Iterable[Request]) -> None:
        for request in sorted(requests, key=lambda request: request.slot, reverse=True):
            self._remove(request)

    def clear(self, request: Request) -> None:
        """Erase the KV cache of a request before it is removed, and that of its prefix.

        Other requests may share the prefix, so its slot is erased when the last of them has ended.
        """
        assert request.block is not None
        self.cache.clear(request.block, request.slot)
        if request.prefix.block is not None:
            request.prefix.block.contents.pop(request.prefix.slot, None)
            request.prefix.is_broken = True

    def _place(self, request: Request) -> bool:
        for length in self._lengths.choices(request.num_positions):
            block = self._with_room(length, request.prefix.block)
            if block is not None:
                request.block, request.slot = block, len(block.requests)
                block.requests.append(request)
                self._num_requests += 1
                return True
        return False

    def _remove(self, request: Request) -> None:
        """Free a request's slot, and move the last request of the same kind there."""
        assert request.block is not None
        block, slot = request.block, request.slot
        key = (block.slot_length, block.prefix_block)
        last_block = self._blocks[key][-1]
        last = last_block.requests.pop()
        if last is not request:
            self.cache.copy((last_block, last.slot), (block, slot), last.num_computed)
            last.block, last.slot = block, slot
            block.requests[slot] = last
        request.block = None
        self._num_requests -= 1
        if not last_block.requests:
            self.cache.shrink(last_block, 0)
            self._blocks[key].pop()
            if not self._blocks[key]:
                del self._blocks[key]

    def _with_room(self, length: int, prefix_block: PrefixBlock | None) -> RequestBlock | None:
        blocks = self._blocks.get((length, prefix_block), [])
        if blocks and (
            len(blocks[-1].requests) < blocks[-1].num_slots or self.cache.grow(blocks[-1])
        ):
            return blocks[-1]
        wanted = min(self._max_rows - self._num_requests, self.cache.num_free // (2 * length))
        reserved = self.cache.reserve(length, max(1, wanted))
        if reserved is None:
            return None
        block = RequestBlock(reserved[0], length, reserved[1], prefix_block)
        self._blocks.setdefault((length, prefix_block), []).append(block)
        return block

    def _make_room(self) -> None:
        """Free all slots that no request or prefix uses."""
        for block in self.request_blocks:
            self.cache.shrink(block, len(block.requests))
        self.prefixes.shrink()


class PrefixSlots:
    """The slots of prefixes, which can be reused after their requests have ended.

    IDs from `num_text_tokens` on are users and items. Their vectors may change once no request
    needs them, so only the text before them is reused.
    """

    def __init__(self, cache: KVCache, max_rows: int, num_text_tokens: int):
        self._cache, self._num_text_tokens = cache, num_text_tokens
        self._most = -(-max_rows // 2)
        self.lengths = SlotLengths(self._most, cache.num_positions // 3)
        self._blocks: dict[int, list[PrefixBlock]] = {}

    @property
    def blocks(self) -> Iterator[PrefixBlock]:
        return (block for blocks in self._blocks.values() for block in blocks)

    def place(self, prefix: Prefix) -> bool:
        """Give a prefix a slot; return False if there is no room."""
        for length in self.lengths.choices(len(prefix.token_ids)):
            free = self._with_room(length)
            if free is not None:
                prefix.block, prefix.slot = free
                prefix.block.prefixes[prefix.slot] = prefix
                return True
        return False

    def release(self, prefix: Prefix) -> None:
        """Free a prefix's slot; the prefix has to be computed or copied again."""
        assert prefix.block is not None
        block, slot = prefix.block, prefix.slot
        del block.prefixes[slot]
        if prefix.is_broken:
            self._cache.clear(block, slot)
        if prefix.is_computed and slot in block.contents:
            block.contents[slot] = self._text_of(prefix.token_ids)
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
        """Record a prefix as the content of its slot, if it is completely computed."""
        if prefix.is_computed:
            assert prefix.block is not None
            prefix.block.contents[prefix.slot] = prefix.token_ids

    def longest_beginning(self, prefix: Prefix) -> tuple[tuple[PrefixBlock, int], int]:
        """Return the slot whose content shares most tokens with a prefix, and how many."""
        assert prefix.block is not None
        best, most = (prefix.block, prefix.slot), 0
        for block in self.blocks:
            for slot, content in block.contents.items():
                length = shared_length(content, prefix.token_ids)
                if length > most:
                    best, most = (block, slot), length
        return best, most

    def shrink(self) -> None:
        """Free the slots after the last one in use."""
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
        """Return the tokens before the first user or item."""
        return list(itertools.takewhile(lambda token: token < self._num_text_tokens, token_ids))
