"""Decides which tokens are computed next; no tensors are touched here.

Each prefix is computed once. A row is a prompt that is being computed or decoded; prompts become
rows as places become free. Rows 0..n-1 are in slots 0..n-1: when a row ends, the last one takes its
slot.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from xrec.generate.memory_plan import MemoryPlan
from xrec.generate.prefix_groups import shared_length

_WORTH_WAITING = 16
"""A prefix waits for a later pass if this many of its tokens can then be copied from another one.

The other prefix must be in the present pass. Tokens that can be copied already do not count.
"""


@dataclass(eq=False)
class Prefix:
    """A group that is at work: its prefix, the prompts that wait for a row, and its number of rows.

    `slot` is where the prefix's keys and values are, or -1 if the plan has no shared prefixes.
    """

    token_ids: list[int]
    waiting: deque[int]
    slot: int = -1
    num_computed: int = 0
    num_rows: int = 0


@dataclass(eq=False)
class Row:
    """A prompt that is at work.

    `token_ids` are the rest of the prompt after the prefix, then the text. Keys and values of the
    first `num_computed` of them are in slot `slot`.
    """

    index: int
    prefix: Prefix
    token_ids: list[int]
    num_prompt_tokens: int
    slot: int
    num_computed: int = 0

    @property
    def generated(self) -> list[int]:
        """The text so far."""
        return self.token_ids[self.num_prompt_tokens :]


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True)
class Span:
    """The tokens `start` to `stop` of a prefix or a row, which are computed in one pass."""

    sequence: Prefix | Row
    start: int
    stop: int


@dataclass(frozen=True)
class Copy:
    """An order to copy the first `length` positions of slot `source` to slot `target`."""

    source: int
    target: int
    length: int


@dataclass(eq=False)
class Schedule:
    """The state of a run; a pass computes at most `chunk_tokens` tokens of prompts."""

    plan: MemoryPlan
    prompts: Sequence[Sequence[int]]
    chunk_tokens: int
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._queue = deque(
            Prefix(group.prefix, deque(group.members)) for group in self.plan.groups
        )
        self._open: list[Prefix] = []
        self._free_prefix_slots = list(range(self.plan.num_prefixes - 1, -1, -1))
        self._content: dict[int, list[int]] = {}
        self._num_waiting = sum(len(group.members) for group in self.plan.groups)

    @property
    def is_done(self) -> bool:
        """Whether there is no row and no prompt that waits for one."""
        return not self.rows and not self._num_waiting

    @property
    def prefill_is_due(self) -> bool:
        """Whether prompts should be computed before the next decode step.

        They should if an eighth of the rows is free, so that a pass has enough to do, or if there
        is nothing to decode.
        """
        num_free = self.plan.num_rows - len(self.rows)
        return self._num_waiting > 0 and (
            not self.rows or num_free >= min(self._num_waiting, max(1, self.plan.num_rows // 8))
        )

    def open_prefixes(self) -> None:
        """Give slots to the next groups until there are enough prompts for the free rows."""
        num_wanted = (
            self.plan.num_rows - len(self.rows) - sum(len(prefix.waiting) for prefix in self._open)
        )
        while (
            num_wanted > 0
            and self._queue
            and (self._free_prefix_slots or not self.plan.num_prefixes)
        ):
            prefix = self._queue.popleft()
            if self.plan.num_prefixes:
                prefix.slot = self._free_prefix_slots.pop()
            self._open.append(prefix)
            num_wanted -= len(prefix.waiting)

    def next_prefixes(self) -> tuple[list[Copy], list[Span]]:
        """The copies to make, and the prefixes to compute in one pass after them.

        Both are empty when all open prefixes are computed.
        """
        copies: list[Copy] = []
        spans = PassSpans(self.chunk_tokens)
        for prefix in self._open:
            if prefix.num_computed == len(prefix.token_ids) or spans.is_full:
                continue
            if not prefix.num_computed:
                source, length = self._longest_beginning(prefix)
                others = [span.sequence.token_ids for span in spans.spans]
                if any(
                    shared_length(other, prefix.token_ids) >= length + _WORTH_WAITING
                    for other in others
                ):
                    continue
                self._content.pop(prefix.slot, None)
                copies += [Copy(source, prefix.slot, length)] if length else []
                self._advance(prefix, length)
            if prefix.num_computed < len(prefix.token_ids):
                spans.add(prefix, prefix.num_computed, len(prefix.token_ids))
        return copies, spans.spans

    def admit(self) -> None:
        """Turn prompts whose prefixes are computed into rows while rows are free."""
        for prefix in self._open:
            while prefix.waiting and len(self.rows) < self.plan.num_rows:
                index = prefix.waiting.popleft()
                rest = list(self.prompts[index][len(prefix.token_ids) :])
                self.rows.append(Row(index, prefix, rest, len(rest), slot=len(self.rows)))
                prefix.num_rows += 1
                self._num_waiting -= 1

    def next_rows(self) -> list[Span]:
        """The prompts to compute in one pass; empty when those of all rows are computed."""
        spans = PassSpans(self.chunk_tokens)
        for row in self.rows:
            if row.num_computed < row.num_prompt_tokens and not spans.is_full:
                spans.add(row, row.num_computed, row.num_prompt_tokens)
        return spans.spans

    def decode(self) -> list[Span]:
        """The spans of a decode step: the last token of each row."""
        return [Span(row, row.num_computed, row.num_computed + 1) for row in self.rows]

    def computed(self, spans: Sequence[Span]) -> None:
        """Record that a pass over `spans` is done."""
        for span in spans:
            self._advance(span.sequence, span.stop)

    def remove(self, ended: Sequence[Row]) -> Iterator[Copy]:
        """Remove rows that have ended.

        Yields copies that must be made at once, so that the remaining rows are in slots 0..n-1.
        """
        yield from close_gaps(self.rows, ended)
        for row in ended:
            self._leave(row.prefix)

    def _advance(self, sequence: Prefix | Row, num_computed: int) -> None:
        sequence.num_computed = num_computed
        if isinstance(sequence, Prefix) and num_computed == len(sequence.token_ids):
            self._content[sequence.slot] = sequence.token_ids

    def _leave(self, prefix: Prefix) -> None:
        prefix.num_rows -= 1
        if not prefix.num_rows and not prefix.waiting:
            self._open.remove(prefix)
            if self.plan.num_prefixes:
                self._free_prefix_slots.append(prefix.slot)
                self._free_prefix_slots.sort(reverse=True)

    def _longest_beginning(self, prefix: Prefix) -> tuple[int, int]:
        """The slot whose content shares most tokens with `prefix`, and how many.

        The content of a slot that was given back counts until another prefix takes the slot.
        """
        shared = {
            slot: shared_length(content, prefix.token_ids)
            for slot, content in self._content.items()
        }
        slot = max(shared, key=lambda slot: shared[slot], default=-1)
        return slot, shared.get(slot, 0)


def close_gaps(rows: list[RowT], ended: Sequence[RowT]) -> Iterator[Copy]:
    """Remove the rows `ended` from `rows` and move the last row into each freed slot.

    Yields copies that must be made at once.
    """
    for row in sorted(ended, key=lambda row: row.slot, reverse=True):
        last = rows.pop()
        if last is not row:
            yield Copy(last.slot, row.slot, last.num_computed)
            last.slot = row.slot
            rows[last.slot] = last


class PassSpans:
    """The spans of one pass.

    They have at most `limit` tokens together, and at most 4 * `limit` cells when every span is
    padded to the longest.
    """

    def __init__(self, limit: int):
        self.spans: list[Span] = []
        self.is_full = False
        self._limit, self._left, self._longest = limit, limit, 0

    def add(self, sequence: Prefix | Row, start: int, stop: int) -> None:
        """Add as many of the tokens `start` to `stop` as fit."""
        stop = min(stop, start + self._left)
        longest = max(self._longest, stop - start)
        if longest * (len(self.spans) + 1) > 4 * self._limit:
            self.is_full = True
            return
        self.spans.append(Span(sequence, start, stop))
        self._left -= stop - start
        self._longest, self.is_full = longest, not self._left
