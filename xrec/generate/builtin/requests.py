"""Requests, the prefixes that they share, and their slots in the KV cache.

A prefix is computed once for all requests that start with it. In lexicographic order, prompts with
a common prefix are neighbors. A node is a run of neighbors, and its prefix is what the whole run
shares. The run is cut wherever two neighbors share fewer than `LEAST_GAIN` tokens beyond this
prefix. Pieces of two or more prompts become nodes in turn; the remaining single prompts form a
group with the node's prefix. If the user's texts come before the item's, all pairs of a user form a
group, and users with one pair share the instruction.

The requests in a block have slots of one length, and their prefixes are in one block, so that
attention processes them together.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from xrec.generate.builtin.kv_cache import Block, KVCache, SlotLengths
from xrec.generate.engine import (
    FinishReason,
    LikelihoodParams,
    RequestParams,
    TextParams,
    TokenMask,
)

LEAST_GAIN = 16
"""Tokens per member that a longer prefix must save to get its own group."""


@dataclass(eq=False)
class Prefix:
    """The tokens that some prompts start with, and the requests that share them.

    The KV cache of its first `num_computed` tokens is in slot `slot` of `block`, which is None if
    the prefix has no slot yet or is empty. If `is_broken`, the content of the slot must not be
    reused for other prefixes.

    requests: those that have a slot. num_waiting: the number of the others.
    """

    token_ids: list[int]
    num_waiting: int = 0
    requests: "list[Request]" = field(default_factory=list)
    block: "PrefixBlock | None" = None
    slot: int = -1
    num_computed: int = 0
    is_broken: bool = False

    @property
    def is_computed(self) -> bool:
        """Whether the whole prefix is in the KV cache."""
        return self.num_computed == len(self.token_ids)

    @property
    def num_members(self) -> int:
        """Number of requests that share the prefix, waiting or not."""
        return self.num_waiting + len(self.requests)


@dataclass(eq=False)
class Request:
    """A prompt, the parameters of its text, and its progress.

    After `enter`, `token_ids` are the tokens after the prefix: the rest of the prompt, the
    continuation without its last token if there is one, and then the text. The KV cache of the
    first `num_computed` of them is in slot `slot` of `block`, which is None while the request
    waits. The slot needs `num_positions`. After a text with `keeps_prompt` has ended, the request
    keeps its slot, without the text, until another text of the prompt starts.
    """

    request_id: int
    prompt: list[int]
    params: RequestParams
    stop_token_ids: frozenset[int]
    mask: TokenMask | None = None
    prefix: Prefix = field(init=False)
    token_ids: list[int] = field(init=False)
    num_given: int = field(init=False)
    num_positions: int = field(init=False)
    block: "RequestBlock | None" = None
    slot: int = -1
    num_computed: int = 0
    is_again: bool = False
    uniform: list[float] | None = None
    log_likelihoods: list[float] = field(default_factory=list)

    def enter(self, prefix: Prefix, context_length: int) -> None:
        """Set the prefix, with which the prompt starts, and the fields that depend on it."""
        num_positions = positions_needed(self.prompt, self.params, context_length)
        self.prefix = prefix
        self.token_ids = [*self.prompt[len(prefix.token_ids) :], *self.given[:-1]]
        self.num_given = len(self.token_ids)
        self.num_positions = num_positions - len(prefix.token_ids)

    @property
    def text_params(self) -> TextParams:
        """The `params` of a request for a text."""
        assert isinstance(self.params, TextParams)
        return self.params

    @property
    def given(self) -> tuple[int, ...]:
        """The continuation whose likelihood is requested; empty for a text."""
        return self.params.continuation if isinstance(self.params, LikelihoodParams) else ()

    @property
    def num_rest(self) -> int:
        """Number of given tokens that belong to the prompt."""
        return self.num_given - max(0, len(self.given) - 1)

    @property
    def is_computed(self) -> bool:
        """Whether all given tokens are in the KV cache."""
        return self.num_computed >= self.num_given or self.is_again

    @property
    def generated(self) -> list[int]:
        """The tokens of the text so far."""
        return self.token_ids[self.num_given :]

    def finish_reason(self, context_length: int) -> FinishReason | None:
        """Return why the text ends after its last token, or None if it continues."""
        if self.token_ids[-1] in self.stop_token_ids:
            return "stop"
        num_generated = len(self.token_ids) - self.num_given
        is_full = len(self.prompt) + num_generated == context_length
        return "length" if num_generated == self.text_params.max_new_tokens or is_full else None

    def keep_prompt(self) -> None:
        """Remove the text, and keep the KV cache of the prompt."""
        self.is_again = True
        del self.token_ids[self.num_given :]
        self.num_computed = self.num_given - 1

    def begin_again(self, request_id: int, params: RequestParams, mask: TokenMask | None) -> None:
        """Start the next text with the KV cache that was kept.

        The prompt's last token is computed again, because its logits are needed.
        """
        self.request_id, self.params, self.mask = request_id, params, mask
        self.uniform = None


@dataclass(eq=False)
class RequestBlock(Block):
    """A block in which request i has slot i.

    The prefixes of all requests are in `prefix_block`; if it is None, all are empty.
    """

    prefix_block: "PrefixBlock | None" = None
    requests: list[Request] = field(default_factory=list)


@dataclass(eq=False)
class PrefixBlock(Block):
    """A block of prefixes, by slot.

    contents: the token IDs whose KV cache is in each slot, in use or not.
    """

    prefixes: dict[int, Prefix] = field(default_factory=dict)
    contents: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """The tokens `start` to `stop` of a prefix or a request, to be computed in one pass."""

    sequence: Prefix | Request
    start: int
    stop: int


def positions_needed(prompt: Sequence[int], params: RequestParams, context_length: int) -> int:
    """Return the number of positions that a prompt and its text need.

    The last token needs none, because no later token attends to it.
    """
    num_new = (
        len(params.continuation) if isinstance(params, LikelihoodParams) else params.max_new_tokens
    )
    return min(len(prompt) + num_new - 1, context_length)


def group_by_prefix(
    prompts: Sequence[list[int]], max_members: int
) -> list[tuple[list[int], list[int]]]:
    """Return groups of at most `max_members`: the prefix, and the indices of its prompts.

    The prefix never includes the last token of a member. Groups with similar prefixes are adjacent.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    shared = [
        shared_length(prompts[left], prompts[right]) for left, right in itertools.pairwise(order)
    ]
    return [
        (prompts[members[0]][: min(length, *(len(prompts[i]) - 1 for i in members))], members)
        for ranks, length in _nodes(shared, 0, len(order))
        for start in range(0, len(ranks), max_members)
        for members in [[order[rank] for rank in ranks[start : start + max_members]]]
    ]


def shared_length(left: list[int], right: list[int]) -> int:
    """Return the length of the longest common prefix of two lists."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _nodes(shared: Sequence[int], start: int, stop: int) -> Iterator[tuple[list[int], int]]:
    """Yield the ranks and the prefix length of each group among the ranks `start` to `stop`.

    A rank is an index into the sorted prompts, and `shared[i]` is the number of tokens that the
    prompts with ranks i and i + 1 share.
    """
    if stop - start <= 1:
        yield from [([start], 0)] if stop > start else []
        return
    length = min(shared[start : stop - 1])
    cuts = [
        start,
        *(rank + 1 for rank in range(start, stop - 1) if shared[rank] < length + LEAST_GAIN),
        stop,
    ]
    runs = list(itertools.pairwise(cuts))
    for first, last in runs:
        if last - first > 1:
            yield from _nodes(shared, first, last)
    alone = [first for first, last in runs if last - first == 1]
    if alone:
        yield alone, length


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
