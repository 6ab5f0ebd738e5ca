"""The run of our engine: requests come and go, and each step computes a little for all of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from xrec.generate.engine import (
    Advance,
    Failure,
    LikelihoodParams,
    RequestParams,
    prompt_failure,
)
from xrec.generate.engine_report import EngineReport
from xrec.generate.packed.arena import Arena
from xrec.generate.packed.attention import Kernel, attend_by_products
from xrec.generate.packed.model import PackedModel
from xrec.generate.packed.passes import Passes
from xrec.generate.packed.schedule import Schedule
from xrec.generate.packed.sequences import (
    Request,
    Stopping,
    continuation_failure,
    positions_needed,
)
from xrec.generate.packed.slots import Slots
from xrec.generate.packed.writing import Writing, failed_text

PASS_TOKENS = 512
"""Most tokens of prompts in one pass."""


class PackedRun:
    """A `Run` over `model`. Keys and values are allocated at the first step, and only then.

    At most `max_rows` texts have a row at the same time, fewer if `key_value_bytes` do not hold as
    many; the others wait in order. `decode` gives the text of token ids; it is needed for stop
    strings. A step computes at most `passes_per_step` passes over prompts before it goes on with
    the texts that are being written; with None it computes all prompts that have a row.
    """

    def __init__(
        self,
        model: PackedModel,
        stop_token_ids: Sequence[int],
        decode: Callable[[list[int]], str],
        *,
        max_rows: int,
        key_value_bytes: int,
        passes_per_step: int | None = None,
        kernel: Kernel = attend_by_products,
    ):
        self._model, self._decode, self._kernel = model, decode, kernel
        self._stop_token_ids = frozenset(stop_token_ids)
        self._passes_per_step = passes_per_step
        self.max_rows, self._budget = max_rows, key_value_bytes
        self._num_positions = min(
            key_value_bytes // model.shape.bytes_per_position,
            2 * max_rows * model.context_length,
        )
        self._memory: _Memory | None = None
        self._arrived: list[Request] = []
        self._next_id = 0
        self.report = EngineReport(key_value_budget_bytes=key_value_bytes)

    @property
    def key_value_bytes(self) -> int:
        """See `Run`."""
        return self._num_positions * self._model.shape.bytes_per_position

    @property
    def num_rows(self) -> int:
        """See `Run`."""
        return self._memory.schedule.num_rows if self._memory else 0

    @property
    def num_waiting(self) -> int:
        """See `Run`."""
        arrived = sum(request.num_texts for request in self._arrived)
        return arrived + (self._memory.schedule.num_waiting if self._memory else 0)

    @property
    def is_idle(self) -> bool:
        """See `Run`."""
        return not self.num_rows and not self.num_waiting

    def take_report(self) -> EngineReport:
        """See `Run`."""
        taken, self.report = self.report, EngineReport(key_value_budget_bytes=self._budget)
        return taken

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        """See `Run`."""
        context = self._model.context_length
        failure = prompt_failure(prompt, self._model.num_ids, context)
        if failure is None and isinstance(params, LikelihoodParams):
            failure = continuation_failure(
                prompt, params.continuation, self._model.num_text_tokens, context
            )
        if failure is not None:
            return failure
        num_positions = positions_needed(prompt, params, context)
        needed = num_positions * self._model.shape.bytes_per_position
        if needed > self.key_value_bytes:
            return Failure(
                "over_memory_budget",
                f"keys and values of {len(prompt)} tokens and {num_positions + 1 - len(prompt)} "
                f"new ones take {needed:,} bytes, the budget is {self._budget:,} (key_value_gib); "
                "raise it, or lower decoding.max_new_tokens",
            )
        return None

    def add(self, prompt: Sequence[int], params: RequestParams) -> int:
        """See `Run`."""
        request = Request(self._next_id, list(prompt), params, self._stopping(params))
        self._arrived.append(request)
        self._next_id += 1
        return request.request_id

    @torch.inference_mode()
    def cancel(self, request_id: int) -> None:
        """See `Run`."""
        self._arrived = [one for one in self._arrived if one.request_id != request_id]
        if self._memory is not None:
            rows = self._memory.schedule.cancel(request_id)
            self._memory.writing.let_go(
                [row for row in rows if row.request.retry or not row.is_computed]
            )

    @torch.inference_mode()
    def step(self) -> list[Advance]:
        """See `Run`."""
        start = time.perf_counter()
        memory = self._memory = self._memory or self._allocated()
        advances = self._take_arrivals(memory)
        if memory.schedule.is_due:
            memory.schedule.admit()
        self._record(memory)
        num_passes = 0
        while num_passes != self._passes_per_step:
            spans = memory.schedule.next_pass(PASS_TOKENS)
            if not spans:
                break
            advances += memory.writing.prefill(spans, self.report)
            num_passes += 1
        if spans := memory.schedule.decode():
            advances += memory.writing.decode(spans, self.report)
        self.report.total_seconds += time.perf_counter() - start
        return advances

    def _stopping(self, params: RequestParams) -> Stopping:
        if isinstance(params, LikelihoodParams):
            return Stopping(frozenset(), (), self._decode, len(params.continuation))
        tokens = self._stop_token_ids.union(params.stop_token_ids)
        return Stopping(tokens, params.stop, self._decode, params.max_new_tokens)

    def _allocated(self) -> "_Memory":
        arena = Arena(self._model.shape, self._num_positions)
        slots = Slots(arena, self.max_rows, self._model.num_text_tokens)
        schedule = Schedule(slots, self.max_rows, self._model.context_length)
        passes = Passes(self._model, arena, self._kernel)
        return _Memory(schedule, slots, Writing(self._model, schedule, slots, passes))

    def _record(self, memory: "_Memory") -> None:
        """Write down how much is at work."""
        report = self.report
        report.max_rows = max(report.max_rows, memory.schedule.num_rows)
        report.max_prefixes = max(report.max_prefixes, memory.slots.prefixes.count)
        used = memory.slots.num_positions * self._model.shape.bytes_per_position
        report.key_value_bytes = max(report.key_value_bytes, used)

    def _take_arrivals(self, memory: "_Memory") -> list[Advance]:
        """Let new requests wait; returns the failures of those that cannot be completed."""
        arrived, self._arrived = self._arrived, []
        if not arrived:
            return []
        failed: list[Advance] = []
        accepted: list[Request] = []
        for request in arrived:
            failure = self.refusal(request.prompt, request.params)
            if failure is not None:
                failed += [
                    failed_text(request, number, failure) for number in range(request.num_texts)
                ]
            else:
                accepted.append(request)
        self.report.num_prompts += len(arrived)
        self.report.num_failed += len(failed)
        self.report.num_prompt_tokens += sum(
            len(request.prompt) * request.num_texts for request in accepted
        )
        self._model.vectors.keep(request.prompt for request in accepted)
        memory.schedule.add(accepted)
        return failed


@dataclass(frozen=True)
class _Memory:
    schedule: Schedule
    slots: Slots
    writing: Writing
