"""Generation for online requests: prompts join and leave while others are being decoded.

(`GenerationRun` is for a list of prompts that is known from the start.) One step gives free rows to
waiting prompts, computes at most `_CHUNK_TOKENS` tokens of prompts that are not in the store yet,
and then computes one token of every row whose prompt is. `beginning`, the instruction that all
prompts share, is computed once, when the run is made. Rows 0..n-1 are in slots 0..n-1 of a store
that is allocated once. In float32 the greedy tokens equal those of `GenerationRun`, whatever
arrives or leaves in between.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xrec.config.llm import DecodingConfig
from xrec.errors import ModelError
from xrec.generate.engine import Completion, Failure, FinishReason, prompt_failure
from xrec.generate.generation_run import Stopping
from xrec.generate.key_values import KeyValueStore
from xrec.generate.layouts import positions, prefix_layout, row_layout, token_ids
from xrec.generate.memory_plan import positions_needed
from xrec.generate.packed_model import PackedModel
from xrec.generate.sampling import draws, greedy, sampled
from xrec.generate.schedule import PassSpans, Prefix, Row, Span, close_gaps

_CHUNK_TOKENS = 512


@dataclass(frozen=True)
class Advance:
    """The result of one step for request `request_id`: the ids of its text so far.

    `completion` is set once the text has ended; its index is the request's id.
    """

    request_id: int
    token_ids: list[int]
    completion: Completion | None = None


@dataclass(eq=False)
class LiveRow(Row):
    """A request. While it waits its slot is -1.

    If `is_injected` is false, its vectors enter by the prompt only and not by the layers.
    """

    prompt: Sequence[int] = field(default_factory=list)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    stopping: Stopping | None = None
    is_injected: bool = True
    uniform: Tensor | None = None

    @property
    def is_computed(self) -> bool:
        """Whether its whole prompt is in the store."""
        return self.num_computed >= self.num_prompt_tokens


class LiveRun:
    """An open run over `model`; to be used by one thread.

    `add` takes a request, `step` computes until the run is idle, `cancel` ends a request early. A
    row has `max_positions` positions for the prompt after `beginning` and for the text. At most
    `max_rows` requests have a row at the same time, fewer if `key_value_bytes` does not hold as
    many; the others wait in order. Raises ModelError if not even one row fits.
    """

    def __init__(
        self,
        model: PackedModel,
        beginning: Sequence[int],
        stop_token_ids: Sequence[int],
        decode: Callable[[list[int]], str],
        *,
        max_rows: int,
        key_value_bytes: int,
        max_positions: int,
    ):
        self._model, self._decode, self._stop_token_ids = model, decode, frozenset(stop_token_ids)
        self._max_positions = min(max_positions, model.context_length)
        self._beginning = Prefix(list(beginning), deque(), slot=0)
        self._nothing = Prefix([], deque(), slot=0)  # for prompts that begin differently
        self.num_slots = min(
            max_rows,
            (key_value_bytes // model.shape.bytes_per_position - len(beginning))
            // self._max_positions,
        )
        if self.num_slots < 1:
            needed = (len(beginning) + self._max_positions) * model.shape.bytes_per_position
            raise ModelError(
                f"keys and values of one row of {self._max_positions} positions take "
                f"{needed:,} bytes, the budget is {key_value_bytes:,} "
                "(engine.key_value_gib); raise it, or lower decoding.max_new_tokens"
            )
        self._waiting: deque[LiveRow] = deque()
        self._rows: list[LiveRow] = []
        self._next_id = 0
        with torch.inference_mode():
            self._store = KeyValueStore(model.shape, self.num_slots, self._max_positions)
            self._prefixes = KeyValueStore(model.shape, 1, max(1, len(beginning)))
        if beginning:
            self._compute_beginning()

    @property
    def num_waiting(self) -> int:
        """The number of requests that wait for a row."""
        return len(self._waiting)

    @property
    def num_rows(self) -> int:
        """The number of requests that have a row."""
        return len(self._rows)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self._rows and not self._waiting

    @property
    def key_value_bytes(self) -> int:
        """Bytes that were allocated for keys and values."""
        return sum(store.tensor.nbytes for store in (self._store, self._prefixes))

    def refusal(self, prompt: Sequence[int], decoding: DecodingConfig) -> Failure | None:
        """Why `prompt` cannot be completed, or None if it can."""
        failure = prompt_failure(prompt, self._model.num_ids, self._model.context_length)
        if failure is not None:
            return failure
        needed = min(positions_needed(prompt, decoding.max_new_tokens), self._model.context_length)
        if needed > self._max_positions:
            return Failure(
                "over_memory_budget",
                f"{len(prompt)} tokens and {decoding.max_new_tokens} new ones; "
                f"a row has {self._max_positions} positions",
            )
        return None

    def add(
        self, prompt: Sequence[int], decoding: DecodingConfig, *, is_injected: bool = True
    ) -> int:
        """Add a prompt and return its request's id.

        Raises ValueError for a prompt that `refusal` refuses.
        """
        refused = self.refusal(prompt, decoding)
        if refused is not None:
            raise ValueError(refused.message)
        prefix = self._prefix_of(prompt)
        rest = list(prompt[len(prefix.token_ids) :])
        row = LiveRow(
            self._next_id,
            prefix,
            rest,
            len(rest),
            -1,
            prompt=prompt,
            decoding=decoding,
            is_injected=is_injected,
        )
        row.stopping = Stopping(
            self._stop_token_ids, decoding.stop, self._decode, decoding.max_new_tokens
        )
        self._waiting.append(row)
        self._next_id += 1
        return row.index

    def cancel(self, request_id: int) -> None:
        """Stop a request, so that `step` neither computes nor reports it any more.

        An id of a request that has ended, or that never existed, is ignored.
        """
        self._waiting = deque(row for row in self._waiting if row.index != request_id)
        self._remove([row for row in self._rows if row.index == request_id])

    def step(self) -> list[Advance]:
        """Compute one step; returns an `Advance` for each request that got a token."""
        self._admit()
        advances = self._prefill()
        rows = [
            row
            for row in self._rows
            if row.is_computed and row.generated and row.num_computed == len(row.token_ids) - 1
        ]
        if rows:
            spans = [Span(row, row.num_computed, row.num_computed + 1) for row in rows]
            advances += self._next_tokens(rows, self._pass(spans, None))
        return advances

    def _prefix_of(self, prompt: Sequence[int]) -> Prefix:
        length = len(self._beginning.token_ids)
        return (
            self._beginning
            if len(prompt) > length and list(prompt[:length]) == self._beginning.token_ids
            else self._nothing
        )

    def _admit(self) -> None:
        while self._waiting and len(self._rows) < self.num_slots:
            row = self._waiting.popleft()
            row.slot = len(self._rows)
            self._rows.append(row)

    def _prefill(self) -> list[Advance]:
        due = [row for row in self._rows if not row.is_computed]
        spans = PassSpans(_CHUNK_TOKENS)
        for row in due:
            if not spans.is_full:
                spans.add(row, row.num_computed, row.num_prompt_tokens)
        if not spans.spans:
            return []
        self._model.adapt(row.prompt for row in due)
        complete = [
            place
            for place, span in enumerate(spans.spans)
            if span.stop == len(span.sequence.token_ids)
        ]
        ends = torch.tensor([span.stop - span.start for span in spans.spans]).cumsum(0) - 1
        logits = self._pass(spans.spans, ends[complete].tolist())
        return self._next_tokens([spans.spans[place].sequence for place in complete], logits)  # type: ignore[misc]

    def _compute_beginning(self) -> None:
        spans = [Span(self._beginning, 0, len(self._beginning.token_ids))]
        self._model.adapt([])
        self._model.logits(
            token_ids(spans), positions(spans), prefix_layout(spans, self._prefixes), []
        )

    def _pass(self, spans: Sequence[Span], keep: list[int] | None) -> Tensor:
        plain = [
            place
            for place, span in enumerate(_sequence_of_each_token(spans))
            if isinstance(span.sequence, LiveRow) and not span.sequence.is_injected
        ]
        logits = self._model.logits(
            token_ids(spans),
            positions(spans),
            row_layout(spans, self._store, self._prefixes),
            keep,
            not_injected=plain,
        )
        for span in spans:
            span.sequence.num_computed = span.stop
        return logits

    def _next_tokens(self, rows: Sequence[LiveRow], logits: Tensor) -> list[Advance]:
        advances: list[Advance] = []
        ended: list[LiveRow] = []
        for row, token in zip(rows, self._sample(rows, logits), strict=True):
            row.token_ids.append(token)
            assert row.stopping is not None
            num_left = self._model.context_length - len(row.prefix.token_ids) - len(row.token_ids)
            reason = row.stopping.reason(row.generated, num_left)
            advances.append(
                Advance(row.index, row.generated) if reason is None else self._ended(row, reason)
            )
            ended += [row] if reason is not None else []
        self._remove(ended)
        return advances

    def _ended(self, row: LiveRow, reason: FinishReason) -> Advance:
        assert row.stopping is not None
        text = row.stopping.without_end(row.generated)
        return Advance(row.index, text, Completion(row.index, text, reason))

    @torch.inference_mode()
    def _sample(self, rows: Sequence[LiveRow], logits: Tensor) -> list[int]:
        tokens: list[int] = greedy(logits).tolist() if rows else []
        for place, row in enumerate(rows):
            if row.decoding.temperature:
                row.uniform = (
                    draws(row.prompt, row.decoding) if row.uniform is None else row.uniform
                )
                uniform = row.uniform[len(row.generated)][None]
                tokens[place] = int(
                    sampled(
                        logits[place : place + 1],
                        uniform,
                        row.decoding.temperature,
                        row.decoding.top_p,
                    )
                )
        return tokens

    @torch.inference_mode()
    def _remove(self, rows: Sequence[LiveRow]) -> None:
        """Remove rows; each freed slot is taken by the last row."""
        for copy in close_gaps(self._rows, rows):
            self._store.copy(copy.source, copy.target, copy.length)


def _sequence_of_each_token(spans: Sequence[Span]) -> Iterator[Span]:
    for span in spans:
        for _ in range(span.start, span.stop):
            yield span
