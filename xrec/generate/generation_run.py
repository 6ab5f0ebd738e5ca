"""One generate call: runs the passes that the schedule chooses through the model."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xrec.config.llm import DecodingConfig
from xrec.generate.engine import Completion, FinishReason
from xrec.generate.engine_report import EngineReport
from xrec.generate.key_values import KeyValueStore
from xrec.generate.layouts import (
    num_key_cells,
    num_seen_keys,
    positions,
    prefix_layout,
    row_layout,
    token_ids,
)
from xrec.generate.memory_plan import MemoryPlan
from xrec.generate.packed_attention import PackedLayout
from xrec.generate.packed_model import PackedModel
from xrec.generate.sampling import draws, greedy, sampled
from xrec.generate.schedule import Copy, Row, Schedule, Span

_CHUNK_TOKENS = 512


@dataclass(frozen=True)
class Stopping:
    """The rules by which a text ends: an end token, a stop string, or its length.

    `decode` gives the text of token ids.
    """

    token_ids: frozenset[int]
    strings: tuple[str, ...]
    decode: Callable[[list[int]], str]
    max_new_tokens: int

    def reason(self, generated: list[int], num_left: int) -> FinishReason | None:
        """Why the text ends after its last token, or None if it goes on.

        `num_left` is the number of further tokens that the model's context can hold.
        """
        if generated[-1] in self.token_ids:
            return "stop"
        if self.strings:
            text = self.decode(generated)
            if any(string in text for string in self.strings):
                return "stop"
        return "length" if len(generated) == self.max_new_tokens or not num_left else None

    def without_end(self, generated: list[int]) -> list[int]:
        """The text's ids without the end token."""
        return generated[:-1] if generated[-1] in self.token_ids else generated


class GenerationRun:
    """The state of one generate call over the prompts of `plan`."""

    def __init__(
        self,
        model: PackedModel,
        prompts: Sequence[Sequence[int]],
        plan: MemoryPlan,
        decoding: DecodingConfig,
        stopping: Stopping,
        report: EngineReport,
    ):
        self._model, self._prompts, self._decoding = model, prompts, decoding
        self._stopping, self._report = stopping, report
        self._schedule = Schedule(plan, prompts, _CHUNK_TOKENS)
        with torch.inference_mode():
            self._rows = KeyValueStore(model.shape, plan.num_rows, plan.row_length)
            self._prefixes = (
                KeyValueStore(model.shape, plan.num_prefixes, plan.prefix_length)
                if plan.num_prefixes
                else None
            )
        self._draws: dict[int, Tensor] = {}

    def completions(self) -> Iterator[Completion]:
        """Yield each prompt's completion as it finishes."""
        while not self._schedule.is_done:
            if self._schedule.prefill_is_due:
                yield from self._prefill()
            if self._schedule.rows:
                spans = self._schedule.decode()
                logits = self._pass(spans, row_layout(spans, self._rows, self._prefixes), None)
                self._report.num_decode_steps += 1
                self._report.num_decoded_tokens += len(spans)
                yield from self._next_tokens([span.sequence for span in spans], logits)  # type: ignore[misc]

    def _prefill(self) -> Iterator[Completion]:
        self._schedule.open_prefixes()
        while any(planned := self._schedule.next_prefixes()):
            copies, spans = planned
            self._copy(self._prefixes, copies)
            if spans:
                assert self._prefixes is not None
                self._pass(spans, prefix_layout(spans, self._prefixes), [])
        self._schedule.admit()
        ended: list[Completion] = []
        started: list[tuple[list[Row], Tensor]] = []
        while spans := self._schedule.next_rows():
            complete = [
                place
                for place, span in enumerate(spans)
                if span.stop == len(span.sequence.token_ids)
            ]
            ends = torch.tensor([span.stop - span.start for span in spans]).cumsum(0) - 1
            logits = self._pass(
                spans, row_layout(spans, self._rows, self._prefixes), ends[complete].tolist()
            )
            started.append(([spans[place].sequence for place in complete], logits))  # type: ignore[misc]
        for rows, logits in started:
            ended += self._next_tokens(rows, logits)
        yield from ended

    def _pass(self, spans: Sequence[Span], layout: PackedLayout, keep: list[int] | None) -> Tensor:
        """Run the model over `spans`; returns the logits of the tokens `keep` (None means all)."""
        report, start = self._report, time.perf_counter()
        logits = self._model.logits(token_ids(spans), positions(spans), layout, keep)
        self._schedule.computed(spans)
        report.num_logits += len(logits)
        report.num_key_cells += num_key_cells(layout)
        report.num_seen_keys += num_seen_keys(spans)
        if keep is None:
            report.decode_seconds += time.perf_counter() - start
        else:
            report.prefill_seconds += time.perf_counter() - start
            report.num_prefill_passes += 1
            report.num_computed_prompt_tokens += sum(span.stop - span.start for span in spans)
        return logits

    def _next_tokens(self, rows: Sequence[Row], logits: Tensor) -> Iterator[Completion]:
        """Give each row its next token, remove rows that end, and yield their completions."""
        start = time.perf_counter()
        tokens = self._sample(rows, logits)
        self._report.sampling_seconds += time.perf_counter() - start
        ended: list[tuple[Row, FinishReason]] = []
        for row, token in zip(rows, tokens, strict=True):
            row.token_ids.append(token)
            num_left = self._model.context_length - len(row.prefix.token_ids) - len(row.token_ids)
            reason = self._stopping.reason(row.generated, num_left)
            if reason is not None:
                ended.append((row, reason))
        self._copy(self._rows, self._schedule.remove([row for row, _ in ended]))
        for row, reason in ended:
            yield Completion(row.index, self._stopping.without_end(row.generated), reason)

    @torch.inference_mode()
    def _sample(self, rows: Sequence[Row], logits: Tensor) -> list[int]:
        if not self._decoding.temperature:
            return greedy(logits).tolist()
        uniform = torch.stack([self._uniform(row) for row in rows])
        return sampled(logits, uniform, self._decoding.temperature, self._decoding.top_p).tolist()

    def _uniform(self, row: Row) -> Tensor:
        if row.index not in self._draws:
            self._draws[row.index] = draws(self._prompts[row.index], self._decoding)
        return self._draws[row.index][len(row.generated)]

    @torch.inference_mode()
    def _copy(self, store: KeyValueStore | None, copies: Iterator[Copy] | Sequence[Copy]) -> None:
        for copy in copies:
            assert store is not None
            store.copy(copy.source, copy.target, copy.length)
