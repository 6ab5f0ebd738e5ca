"""The built-in engine: requests come and go, and each step computes a little for all of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from xrec.config.engine import EngineConfig
from xrec.generate.builtin.kv_cache import KVCache
from xrec.generate.builtin.model import PackedModel
from xrec.generate.builtin.model_runner import ModelRunner
from xrec.generate.builtin.requests import Request, Stopping, positions_needed
from xrec.generate.builtin.scheduler import Scheduler
from xrec.generate.builtin.slots import Slots
from xrec.generate.engine import (
    Advance,
    EngineReport,
    Failure,
    LikelihoodParams,
    RequestParams,
    failed,
    request_failure,
)
from xrec.generate.shared_engine import SharedEngine
from xrec.llm.cpu import pack_linears

PASS_TOKENS = 512
"""Most tokens of prompts in one pass."""


class BuiltinCore:
    """An `EngineCore` over `model`. Its KV cache is allocated at the first step, and only then.

    At most `max_rows` requests are at work at the same time, fewer if `kv_cache_bytes` do not hold
    as many; the others wait in order. `decode` gives the text of token ids; it is needed for stop
    strings. A step computes at most `passes_per_step` passes over prompts before it goes on with
    the texts that are being written; with None it computes all prompts that have a slot.
    """

    def __init__(
        self,
        model: PackedModel,
        stop_token_ids: Sequence[int],
        decode: Callable[[list[int]], str],
        *,
        max_rows: int,
        kv_cache_bytes: int,
        passes_per_step: int | None = None,
    ):
        self._model, self._decode = model, decode
        self._stop_token_ids = frozenset(stop_token_ids)
        self._passes_per_step = passes_per_step
        self.max_rows, self._budget = max_rows, kv_cache_bytes
        self._num_positions = min(
            kv_cache_bytes // model.shape.bytes_per_position,
            2 * max_rows * model.context_length,
        )
        self._memory: _Memory | None = None
        self._arrived: list[Request] = []
        self._next_id = 0
        self.report = EngineReport()

    @property
    def kv_cache_bytes(self) -> int:
        """See `EngineCore`."""
        return self._num_positions * self._model.shape.bytes_per_position

    @property
    def num_rows(self) -> int:
        """See `EngineCore`."""
        return self._memory.scheduler.num_rows if self._memory else 0

    @property
    def num_waiting(self) -> int:
        """See `EngineCore`."""
        return len(self._arrived) + (self._memory.scheduler.num_waiting if self._memory else 0)

    @property
    def is_idle(self) -> bool:
        """See `EngineCore`."""
        return not self.num_rows and not self.num_waiting

    def take_report(self) -> EngineReport:
        """See `EngineCore`."""
        taken, self.report = self.report, EngineReport()
        return taken

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        """See `EngineCore`."""
        model, context = self._model, self._model.context_length
        failure = request_failure(prompt, params, model.num_ids, model.num_text_tokens, context)
        if failure is not None:
            return failure
        num_positions = positions_needed(prompt, params, context)
        needed = num_positions * model.shape.bytes_per_position
        if needed > self.kv_cache_bytes:
            return Failure(
                "over_memory_budget",
                f"the KV cache of {len(prompt)} tokens and {num_positions + 1 - len(prompt)} "
                f"new ones takes {needed:,} bytes, the budget is {self._budget:,} (kv_cache_gib); "
                "raise it, or lower decoding.max_new_tokens",
            )
        return None

    def add(self, prompt: Sequence[int], params: RequestParams) -> int:
        """See `EngineCore`."""
        request = Request(self._next_id, list(prompt), params, self._stopping(params))
        self._arrived.append(request)
        self._next_id += 1
        return request.request_id

    @torch.inference_mode()
    def cancel(self, request_id: int) -> None:
        """See `EngineCore`."""
        self._arrived = [one for one in self._arrived if one.request_id != request_id]
        if self._memory is not None:
            request = self._memory.scheduler.cancel(request_id)
            if request is not None:
                self._memory.runner.let_go([request])

    @torch.inference_mode()
    def step(self) -> list[Advance]:
        """See `EngineCore`."""
        start = time.perf_counter()
        memory = self._memory = self._memory or self._allocated()
        advances = self._take_arrivals(memory)
        if memory.scheduler.is_due:
            memory.scheduler.admit()
        self._record(memory)
        num_passes = 0
        while num_passes != self._passes_per_step:
            spans = memory.scheduler.next_pass(PASS_TOKENS)
            if not spans:
                break
            advances += memory.runner.prefill(spans, self.report)
            num_passes += 1
        if spans := memory.scheduler.decode():
            advances += memory.runner.decode(spans, self.report)
        self.report.total_seconds += time.perf_counter() - start
        return advances

    def _stopping(self, params: RequestParams) -> Stopping:
        if isinstance(params, LikelihoodParams):
            return Stopping(frozenset(), (), self._decode, len(params.continuation))
        return Stopping(self._stop_token_ids, params.stop, self._decode, params.max_new_tokens)

    def _allocated(self) -> "_Memory":
        cache = KVCache(self._model.shape, self._num_positions)
        slots = Slots(cache, self.max_rows, self._model.num_text_tokens)
        scheduler = Scheduler(slots, self.max_rows, self._model.context_length)
        return _Memory(scheduler, slots, ModelRunner(self._model, scheduler, slots))

    def _record(self, memory: "_Memory") -> None:
        """Write down how much is at work."""
        report = self.report
        report.max_rows = max(report.max_rows, memory.scheduler.num_rows)
        used = memory.slots.num_positions * self._model.shape.bytes_per_position
        report.kv_cache_bytes = max(report.kv_cache_bytes, used)

    def _take_arrivals(self, memory: "_Memory") -> list[Advance]:
        """Let new requests wait; returns the failures of those that cannot be completed."""
        arrived, self._arrived = self._arrived, []
        if not arrived:
            return []
        refused: list[Advance] = []
        accepted: list[Request] = []
        for request in arrived:
            failure = self.refusal(request.prompt, request.params)
            if failure is not None:
                refused.append(failed(request.request_id, failure))
            else:
                request.has_vectors = True
                accepted.append(request)
        self.report.num_prompts += len(arrived)
        self.report.num_failed += len(refused)
        self.report.num_prompt_tokens += sum(len(request.prompt) for request in accepted)
        self._model.vectors.keep(request.prompt for request in accepted)
        memory.scheduler.add(accepted)
        return refused


@dataclass(frozen=True)
class _Memory:
    scheduler: Scheduler
    slots: Slots
    runner: ModelRunner


def load_engine(
    model: PreTrainedModel,
    stop_token_ids: Sequence[int],
    decode: Callable[[list[int]], str],
    config: EngineConfig,
    *,
    is_streaming: bool = False,
) -> SharedEngine:
    """The engine that `config` describes, over `model`, with collaborative tokens or without.

    (`xrec.adapter.model.attach_adapters` adds them.) On a CPU its linear layers are packed, in
    place. With `is_streaming` texts go on after each pass over others' prompts. The model's own
    generation settings are not used, so that only the job's config decides. Raises ModelError for a
    decoder that cannot run packed passes.
    """
    pack_linears(model)
    return SharedEngine(
        BuiltinCore(
            PackedModel(model),
            stop_token_ids,
            decode,
            max_rows=config.max_rows,
            kv_cache_bytes=int(config.kv_cache_gib * 2**30),
            passes_per_step=1 if is_streaming else None,
        )
    )
