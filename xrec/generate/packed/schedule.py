"""Decides which tokens are computed next; the slots are `Slots`'.

Rows wait in groups that share a prefix. They get slots in the order in which they came, as rows end
and memory becomes free; of those that came together, one group after the other. Each prefix is
computed once.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from xrec.generate.packed.pass_spans import PassSpans
from xrec.generate.packed.prefix_groups import LEAST_GAIN, group_by_prefix, shared_length
from xrec.generate.packed.sequences import Prefix, Request, Row, Span, row_of
from xrec.generate.packed.slots import Slots

_MAX_MEMBERS = 16
"""Most rows of a prefix.

Attention pads every prefix of a step to the number of rows of the one that has most.
"""
_WORTH_WAITING = 16
"""A prefix waits for a later pass if this many of its tokens can then be copied from another one.

The other prefix must be in the present pass. Tokens that can be copied already do not count.
"""


class Schedule:
    """The rows that wait and those at work, at most `max_rows`, on a model of `context_length`."""

    def __init__(self, slots: Slots, max_rows: int, context_length: int):
        self._slots, self._max_rows, self._context_length = slots, max_rows, context_length
        self._prefixes: list[Prefix] = []
        self._latest: list[int] = []
        self._queue: deque[Row] = deque()
        """The rows that wait, in the order in which they get slots."""
        self._begun: list[Row] = []
        """The rows whose prompts are being computed, in the order in which they got slots."""
        self._capacity = max_rows
        self.num_rows = 0

    @property
    def num_waiting(self) -> int:
        """The number of rows that have no slot yet."""
        return len(self._queue)

    @property
    def is_idle(self) -> bool:
        """Whether there is no row."""
        return not self.num_rows and not self.num_waiting

    def add(self, requests: Sequence[Request]) -> None:
        """Let the rows of requests wait: with the prefixes that are there, or in new groups."""
        for is_injected in (True, False):
            self._add([one for one in requests if one.params.is_injected == is_injected])

    def _add(self, requests: Sequence[Request]) -> None:
        """Group the rows of requests by their beginnings.

        The prompt that came before them is grouped with them, so that one that comes alone shares a
        prefix too.
        """
        if not requests:
            return
        texts = [(request, number) for request in requests for number in range(request.num_texts)]
        prompts = [request.prompt for request, _ in texts]
        known = [*self._prefixes]
        earlier = [self._latest] if self._latest else []
        self._latest = prompts[-1]
        for group in group_by_prefix([*prompts, *earlier], _MAX_MEMBERS):
            members = [texts[index] for index in group.members if index < len(texts)]
            if members:
                self._add_group(group.prefix, members, known)

    def _add_group(
        self, token_ids: list[int], members: list[tuple[Request, int]], known: list[Prefix]
    ) -> None:
        if len(members) == 1 and len(token_ids) < LEAST_GAIN:
            token_ids = []
        prefix = self._prefix_of(token_ids, [request for request, _ in members], known)
        rows = [
            row_of(request, number, prefix, self._context_length) for request, number in members
        ]
        prefix.waiting.extend(rows)
        self._queue.extend(rows)
        self._slots.see(rows)

    def _prefix_of(
        self, token_ids: list[int], requests: list[Request], known: list[Prefix]
    ) -> Prefix:
        """One of the `known` prefixes that is as long as `token_ids` at least, or a new one."""
        shortest = min(len(request.prompt) for request in requests)
        shared = [
            prefix
            for prefix in known
            if max(1, len(token_ids)) <= len(prefix.token_ids) < shortest
            and prefix.is_injected == requests[0].params.is_injected
            and 0 < prefix.num_members <= _MAX_MEMBERS - len(requests)
            and all(
                request.prompt[: len(prefix.token_ids)] == prefix.token_ids for request in requests
            )
        ]
        if shared:
            return max(shared, key=lambda prefix: len(prefix.token_ids))
        prefix = Prefix(token_ids, requests[0].params.is_injected)
        self._prefixes.append(prefix)
        return prefix

    @property
    def is_due(self) -> bool:
        """Whether rows should get slots before the next decode step.

        They should if an eighth of the slots is free, so that a pass has enough to do, or if there
        is nothing to decode.
        """
        num_free = self._capacity - self.num_rows
        return self.num_waiting > 0 and (
            not self.num_rows or num_free >= min(self.num_waiting, max(1, self._capacity // 8))
        )

    def admit(self) -> None:
        """Give slots to rows that wait, in order, as long as there are some."""
        self._capacity = self._max_rows
        while self._queue and self.num_rows < self._max_rows:
            if self._slots.place(self._queue[0]):
                self._start(self._next_row())
            elif self.num_rows:
                self._capacity = self.num_rows
                return
            else:
                self._admit_alone(self._next_row())
                return

    def _next_row(self) -> Row:
        """Take the row that waits longest out of the queue; it is the first of its prefix, too."""
        row = self._queue.popleft()
        first = row.prefix.waiting.popleft()
        assert first is row, "the rows of a prefix wait in the order of the queue"
        return row

    def _start(self, row: Row) -> None:
        row.prefix.rows.append(row)
        self._begun.append(row)
        row.begin()
        self.num_rows += 1

    def _admit_alone(self, row: Row) -> None:
        """Give a row all memory: there is no room for it and its prefix's own slot together."""
        for other in self._prefixes:
            if other.slab is not None:
                self._slots.prefixes.release(other)
        prefix = Prefix([], row.prefix.is_injected)
        self._prefixes.append(prefix)
        self._forget(row.prefix)
        alone = row_of(row.request, row.number, prefix, self._context_length)
        is_placed = self._slots.place(alone)
        assert is_placed, "a request that does not fit alone is refused"
        self._start(alone)

    def next_pass(self, num_tokens: int) -> list[Span]:
        """The prompts to compute in one pass of at most `num_tokens`; empty if none is left."""
        self._begun = [row for row in self._begun if not row.is_computed]
        spans = PassSpans(num_tokens)
        for prefix in dict.fromkeys(row.prefix for row in self._begun):
            if not spans.is_full:
                self._fill(spans, prefix)
        return spans.ordered()

    def _fill(self, spans: PassSpans, prefix: Prefix) -> None:
        """Add what is left of a prefix, and of its rows once all of the prefix is in the pass."""
        if not prefix.is_computed:
            if not prefix.num_computed and not self._begin(prefix, spans):
                return
            num_left = len(prefix.token_ids) - prefix.num_computed
            if num_left and not spans.add(prefix, prefix.num_computed, len(prefix.token_ids)):
                return
        for row in prefix.rows:
            if not row.is_computed:
                spans.add(row, row.num_computed, row.num_given)

    def _begin(self, prefix: Prefix, spans: PassSpans) -> bool:
        """Copy what is computed of a prefix elsewhere; False if it is better to wait for more."""
        source, length = self._slots.prefixes.longest_beginning(prefix)
        if any(
            isinstance(span.sequence, Prefix)
            and span.sequence.is_injected == prefix.is_injected
            and shared_length(span.sequence.token_ids, prefix.token_ids) >= length + _WORTH_WAITING
            for span in spans.spans
        ):
            return False
        self._slots.prefixes.begin(prefix, source, length)
        return True

    def decode(self) -> list[Span]:
        """The spans of a decode step: the last token of each row whose text has begun."""
        return [
            Span(row, row.num_computed, row.num_computed + 1)
            for slab in self._slots.row_slabs
            for row in slab.rows
            if row.is_computed and row.num_computed == len(row.token_ids) - 1
        ]

    def computed(self, spans: Iterable[Span]) -> None:
        """Record that a pass over `spans` is done."""
        for span in spans:
            span.sequence.num_computed = span.stop
            if isinstance(span.sequence, Prefix):
                self._slots.prefixes.computed(span.sequence)

    def remove(self, rows: Sequence[Row]) -> None:
        """Remove rows that have ended."""
        self._slots.remove(rows)
        for row in rows:
            row.prefix.rows.remove(row)
            self._forget(row.prefix)
        self._begun = [row for row in self._begun if row.slab is not None]
        self.num_rows -= len(rows)

    def cancel(self, request_id: int) -> list[Row]:
        """Remove all rows of a request, and return them."""
        removed: list[Row] = []
        self._queue = deque(row for row in self._queue if row.request.request_id != request_id)
        for prefix in [*self._prefixes]:
            waiting = [row for row in prefix.waiting if row.request.request_id == request_id]
            for row in waiting:
                prefix.waiting.remove(row)
            rows = [row for row in prefix.rows if row.request.request_id == request_id]
            self.remove(rows)
            self._forget(prefix)
            removed += [*waiting, *rows]
        return removed

    def _forget(self, prefix: Prefix) -> None:
        """Give up a prefix that no row has."""
        if prefix.num_members or prefix not in self._prefixes:
            return
        self._prefixes.remove(prefix)
        if prefix.slab is not None:
            self._slots.prefixes.release(prefix)
