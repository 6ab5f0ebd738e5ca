"""Which tokens are computed next: prefixes once, rows as places become free, decoding in between. No tensors here.

A row is a prompt at work; rows 0..n-1 are in slots 0..n-1. When one ends, the last takes its slot.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from xrec.generate.memory_plan import MemoryPlan
from xrec.generate.prefix_groups import shared_length

_WORTH_WAITING = 16
"""Tokens that a prefix must share with one of the same pass, beyond what is there to copy, to wait for that one."""


@dataclass(eq=False)
class Prefix:
    """A group at work: its prefix in slot `slot` (-1: none is needed), the prompts that wait for a row, the number of rows."""

    token_ids: list[int]
    waiting: deque[int]
    slot: int = -1
    num_computed: int = 0
    num_rows: int = 0


@dataclass(eq=False)
class Row:
    """A prompt at work: `token_ids` are what follows the prefix, prompt and text; the first `num_computed` are in slot `slot`."""

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
    """Tokens `start` to `stop` of a prefix or a row, to be computed in one pass."""

    sequence: Prefix | Row
    start: int
    stop: int


@dataclass(frozen=True)
class Copy:
    """The first `length` positions of one slot, to be copied to another."""

    source: int
    target: int
    length: int


@dataclass(eq=False)
class Schedule:
    """The state of a run; `chunk_tokens` is the most that a pass computes of prompts."""

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
        """No row and none to come."""
        return not self.rows and not self._num_waiting

    @property
    def prefill_is_due(self) -> bool:
        """Enough places are free, an eighth of them, for passes over prompts to be worth it; or nothing is left to decode."""
        num_free = self.plan.num_rows - len(self.rows)
        return self._num_waiting > 0 and (
            not self.rows or num_free >= min(self._num_waiting, max(1, self.plan.num_rows // 8))
        )

    def open_prefixes(self) -> None:
        """Give slots to the next groups until the free rows have prompts."""
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
        """Copies to make, then prefixes to compute in one pass; none when all open ones are there."""
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
        """Prompts of prefixes that are there become rows."""
        for prefix in self._open:
            while prefix.waiting and len(self.rows) < self.plan.num_rows:
                index = prefix.waiting.popleft()
                rest = list(self.prompts[index][len(prefix.token_ids) :])
                self.rows.append(Row(index, prefix, rest, len(rest), slot=len(self.rows)))
                prefix.num_rows += 1
                self._num_waiting -= 1

    def next_rows(self) -> list[Span]:
        """Prompts to compute in one pass; none when those of all rows are there."""
        spans = PassSpans(self.chunk_tokens)
        for row in self.rows:
            if row.num_computed < row.num_prompt_tokens and not spans.is_full:
                spans.add(row, row.num_computed, row.num_prompt_tokens)
        return spans.spans

    def decode(self) -> list[Span]:
        """The last token of each row."""
        return [Span(row, row.num_computed, row.num_computed + 1) for row in self.rows]

    def computed(self, spans: Sequence[Span]) -> None:
        """A pass over `spans` is done."""
        for span in spans:
            self._advance(span.sequence, span.stop)

    def remove(self, ended: Sequence[Row]) -> Iterator[Copy]:
        """End rows; yields what must be copied at once so that those left are in slots 0..n-1."""
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
        """The slot whose content shares most with `prefix`, and how much; what has ended is still there until its slot is taken."""
        shared = {
            slot: shared_length(content, prefix.token_ids)
            for slot, content in self._content.items()
        }
        slot = max(shared, key=lambda slot: shared[slot], default=-1)
        return slot, shared.get(slot, 0)


def close_gaps(rows: list[RowT], ended: Sequence[RowT]) -> Iterator[Copy]:
    """Take `ended` out of `rows`, the last row into each freed slot; yields what must be copied at once."""
    for row in sorted(ended, key=lambda row: row.slot, reverse=True):
        last = rows.pop()
        if last is not row:
            yield Copy(last.slot, row.slot, last.num_computed)
            last.slot = row.slot
            rows[last.slot] = last


class PassSpans:
    """Spans of one pass: at most `limit` tokens, and at most 4 times as many cells when padded to the longest."""

    def __init__(self, limit: int):
        self.spans: list[Span] = []
        self.is_full = False
        self._limit, self._left, self._longest = limit, limit, 0

    def add(self, sequence: Prefix | Row, start: int, stop: int) -> None:
        """Take as much of it as fits."""
        stop = min(stop, start + self._left)
        longest = max(self._longest, stop - start)
        if longest * (len(self.spans) + 1) > 4 * self._limit:
            self.is_full = True
            return
        self.spans.append(Span(sequence, start, stop))
        self._left -= stop - start
        self._longest, self.is_full = longest, not self._left
