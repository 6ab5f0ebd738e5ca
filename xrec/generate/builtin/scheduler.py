"""Decide which tokens are computed next.

Requests wait in groups that share a prefix, which is computed once. They get slots (`Slots`) in
order of arrival, as others end and memory becomes free. Those that arrive together are served one
group after another.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from xrec.generate.builtin.requests import (
    LEAST_GAIN,
    Prefix,
    Request,
    Slots,
    Span,
    group_by_prefix,
    shared_length,
)
from xrec.generate.engine import RequestParams, TokenMask

_MAX_MEMBERS = 16
"""Maximum number of requests per prefix.

In each step, attention pads every prefix to the largest number of requests of one prefix.
"""
_WORTH_WAITING = 16
"""Tokens of a prefix that waiting for the next pass must save.

They can then be copied from a prefix in the current pass. Tokens that can be copied now do not
count.
"""


class Scheduler:
    """The requests that wait, and up to `max_rows` that are running."""

    def __init__(self, slots: Slots, max_rows: int, context_length: int):
        self._slots, self._max_rows, self._context_length = slots, max_rows, context_length
        self._requests: dict[int, Request] = {}
        self._prefixes: list[Prefix] = []
        self._latest: list[int] = []
        self._queue: deque[Request] = deque()
        """The waiting requests, in the order in which they get slots."""
        self._prefilling: list[Request] = []
        """The requests whose prompts are being computed, in the order in which they got slots."""
        self.ended: dict[int, Request] = {}
        """The requests whose texts have ended and whose prompts are kept, by ID."""
        self._capacity = max_rows
        self.num_rows = 0

    @property
    def num_waiting(self) -> int:
        """Number of requests that have no slot yet."""
        return len(self._queue)

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests, with existing prefixes or in new groups.

        The previous prompt is included in the grouping, so that requests that arrive one by one
        share prefixes too.
        """
        if not requests:
            return
        prompts = [request.prompt for request in requests]
        known = [*self._prefixes]
        earlier = [self._latest] if self._latest else []
        self._latest = prompts[-1]
        for prefix, indices in group_by_prefix([*prompts, *earlier], _MAX_MEMBERS):
            members = [requests[index] for index in indices if index < len(requests)]
            if members:
                self._add_group(prefix, members, known)

    def _add_group(self, token_ids: list[int], members: list[Request], known: list[Prefix]) -> None:
        if len(members) == 1 and len(token_ids) < LEAST_GAIN:
            token_ids = []
        prefix = self._prefix_of(token_ids, members, known)
        for request in members:
            request.enter(prefix, self._context_length)
            self._requests[request.request_id] = request
        prefix.num_waiting += len(members)
        self._queue.extend(members)
        self._slots.see(members)

    def _prefix_of(
        self, token_ids: list[int], requests: list[Request], known: list[Prefix]
    ) -> Prefix:
        """Return the longest suitable prefix in `known`, or a new one for `token_ids`."""
        shortest = min(len(request.prompt) for request in requests)
        shared = [
            prefix
            for prefix in known
            if max(1, len(token_ids)) <= len(prefix.token_ids) < shortest
            and 0 < prefix.num_members <= _MAX_MEMBERS - len(requests)
            and all(
                request.prompt[: len(prefix.token_ids)] == prefix.token_ids for request in requests
            )
        ]
        if shared:
            return max(shared, key=lambda prefix: len(prefix.token_ids))
        prefix = Prefix(token_ids)
        self._prefixes.append(prefix)
        return prefix

    @property
    def is_due(self) -> bool:
        """Whether requests should get slots before the next decode step.

        They should if an eighth of the slots is free, so that a pass is large enough, or if there
        is nothing to decode.
        """
        num_free = self._capacity - self.num_rows
        return self.num_waiting > 0 and (
            not self.num_rows or num_free >= min(self.num_waiting, max(1, self._capacity // 8))
        )

    def admit(self) -> None:
        """Give slots to waiting requests, in order, while there is room."""
        self._capacity = self._max_rows
        while self._queue and self.num_rows < self._max_rows:
            if self._slots.place(self._queue[0]):
                self._start(self._queue.popleft())
            elif self.num_rows:
                self._capacity = self.num_rows
                return
            else:
                self._admit_alone(self._queue.popleft())
                return

    def _start(self, request: Request) -> None:
        request.prefix.num_waiting -= 1
        request.prefix.requests.append(request)
        self._prefilling.append(request)
        self.num_rows += 1

    def _admit_alone(self, request: Request) -> None:
        """Give a request all memory, without a separate slot for its prefix, which does not fit."""
        for other in self._prefixes:
            if other.block is not None:
                self._slots.prefixes.release(other)
        request.prefix.num_waiting -= 1
        self._forget(request.prefix)
        prefix = Prefix([], num_waiting=1)
        self._prefixes.append(prefix)
        request.enter(prefix, self._context_length)
        is_placed = self._slots.place(request)
        assert is_placed, "a request that does not fit alone is refused"
        self._start(request)

    def next_pass(self, num_tokens: int) -> list[Span]:
        """Return spans of prompts to compute in one pass of at most `num_tokens`; [] if none."""
        self._prefilling = [request for request in self._prefilling if not request.is_computed]
        spans = _PassSpans(num_tokens)
        for prefix in dict.fromkeys(request.prefix for request in self._prefilling):
            if not spans.is_full:
                self._fill(spans, prefix)
        return spans.ordered()

    def _fill(self, spans: "_PassSpans", prefix: Prefix) -> None:
        """Add the rest of a prefix and, once the whole prefix is in the pass, its requests."""
        if not prefix.is_computed:
            if not prefix.num_computed and not self._begin(prefix, spans):
                return
            num_left = len(prefix.token_ids) - prefix.num_computed
            if num_left and not spans.add(prefix, prefix.num_computed, len(prefix.token_ids)):
                return
        for request in prefix.requests:
            if not request.is_computed:
                spans.add(request, request.num_computed, request.num_given)

    def _begin(self, prefix: Prefix, spans: "_PassSpans") -> bool:
        """Copy the part of a prefix that is in another slot; return False if it should wait."""
        source, length = self._slots.prefixes.longest_beginning(prefix)
        if any(
            isinstance(span.sequence, Prefix)
            and shared_length(span.sequence.token_ids, prefix.token_ids) >= length + _WORTH_WAITING
            for span in spans.spans
        ):
            return False
        self._slots.prefixes.begin(prefix, source, length)
        return True

    def decode(self) -> list[Span]:
        """Return the spans of a decode step: the last token of each text that has started."""
        return [
            Span(request, request.num_computed, request.num_computed + 1)
            for block in self._slots.request_blocks
            for request in block.requests
            if request.request_id not in self.ended
            and request.is_computed
            and request.num_computed == len(request.token_ids) - 1
        ]

    def computed(self, spans: Iterable[Span]) -> None:
        """Record that a pass over `spans` is done."""
        for span in spans:
            span.sequence.num_computed = span.stop
            if isinstance(span.sequence, Prefix):
                self._slots.prefixes.computed(span.sequence)

    def keep_prompt(self, request: Request) -> None:
        """Keep the slot of a request whose text has ended."""
        request.keep_prompt()
        self.ended[request.request_id] = request

    def begin_again(
        self, ended: int, request_id: int, params: RequestParams, mask: TokenMask | None
    ) -> bool:
        """Start another text for the prompt of `ended`; return False if it was not kept."""
        request = self.ended.pop(ended, None)
        if request is None:
            return False
        del self._requests[ended]
        self._requests[request_id] = request
        request.begin_again(request_id, params, mask)
        return True

    def remove(self, requests: Sequence[Request]) -> None:
        self._slots.remove(requests)
        for request in requests:
            del self._requests[request.request_id]
            self.ended.pop(request.request_id, None)
            request.prefix.requests.remove(request)
            self._forget(request.prefix)
        self._prefilling = [request for request in self._prefilling if request.block is not None]
        self.num_rows -= len(requests)

    def cancel(self, request_id: int) -> Request | None:
        """Remove and return the request with this ID; return None if there is none."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        if request.block is not None:
            self.remove([request])
        else:
            del self._requests[request_id]
            self._queue.remove(request)
            request.prefix.num_waiting -= 1
            self._forget(request.prefix)
        return request

    def _forget(self, prefix: Prefix) -> None:
        """Remove a prefix if no request has it."""
        if prefix.num_members or prefix not in self._prefixes:
            return
        self._prefixes.remove(prefix)
        if prefix.block is not None:
            self._slots.prefixes.release(prefix)


class _PassSpans:
    """The spans of one pass over prompts, with at most `limit` tokens in total.

    The spans of a block are padded to the longest of them, to at most 4 * `limit` cells in total.
    """

    def __init__(self, limit: int):
        self.spans: list[Span] = []
        self.is_full = False
        self._limit, self._left = limit, limit
        self._sizes: dict[int, tuple[int, int]] = {}

    def add(self, sequence: Prefix | Request, start: int, stop: int) -> bool:
        """Add as many of the tokens `start` to `stop` as fit; return whether all did."""
        end = min(stop, start + self._left)
        assert sequence.block is not None
        block = id(sequence.block)
        count, longest = self._sizes.get(block, (0, 0))
        sizes = {**self._sizes, block: (count + 1, max(longest, end - start))}
        if end == start or sum(many * long for many, long in sizes.values()) > 4 * self._limit:
            self.is_full = True
            return False
        self._sizes = sizes
        self.spans.append(Span(sequence, start, end))
        self._left -= end - start
        self.is_full = not self._left
        return end == stop

    def ordered(self) -> list[Span]:
        """Return the spans grouped by block, in the order of their slots."""
        order = {block: index for index, block in enumerate(self._sizes)}
        return sorted(
            self.spans, key=lambda span: (order[id(span.sequence.block)], span.sequence.slot)
        )
