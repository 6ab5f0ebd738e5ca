"""The built-in engine: requests come and go, and each step computes a little for all of them."""

import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from xrec.config.llm import EngineConfig
from xrec.generate.builtin.kv_cache import KVCache
from xrec.generate.builtin.model import PackedModel
from xrec.generate.builtin.model_runner import ModelRunner
from xrec.generate.builtin.requests import Request, positions_needed
from xrec.generate.builtin.scheduler import Scheduler
from xrec.generate.builtin.slots import Slots
from xrec.generate.engine import (
    Advance,
    EngineReport,
    Failure,
    RequestParams,
    failed,
    request_failure,
)
from xrec.generate.shared_engine import SharedEngine
from xrec.llm.cpu import pack_linears

PASS_TOKENS = 512
"""Most tokens of prompts in one pass."""


class BuiltinCore:
    """An `EngineCore` over `model`, with a KV cache of at most `kv_cache_bytes`.

    At most `max_rows` requests are at work at the same time, fewer if the KV cache does not hold
    as many; the others wait in order. A step computes at most `passes_per_step` passes over prompts
    before it goes on with the texts that are being written; with None it computes all prompts that
    have a slot.
    """

    def __init__(
        self,
        model: PackedModel,
        stop_token_ids: Sequence[int],
        *,
        max_rows: int,
        kv_cache_bytes: int,
        passes_per_step: int | None = None,
    ):
        self._model, self._stop_token_ids = model, frozenset(stop_token_ids)
        self._passes_per_step = passes_per_step
        self.max_rows, self._budget = max_rows, kv_cache_bytes
        num_positions = kv_cache_bytes // model.shape.bytes_per_position
        cache = KVCache(model.shape, min(num_positions, 2 * max_rows * model.context_length))
        slots = Slots(cache, max_rows, model.num_text_tokens)
        self._scheduler = Scheduler(slots, max_rows, model.context_length)
        self._runner = ModelRunner(model, self._scheduler, slots)
        self._num_positions = cache.num_positions
        self._arrived: list[Request] = []
        self._next_id = 0
        self.report = EngineReport()

    @property
    def num_rows(self) -> int:
        return self._scheduler.num_rows

    @property
    def is_idle(self) -> bool:
        return not (self._arrived or self._scheduler.num_rows or self._scheduler.num_waiting)

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        model, context = self._model, self._model.context_length
        failure = request_failure(prompt, params, model.num_ids, model.num_text_tokens, context)
        if failure is not None:
            return failure
        num_positions = positions_needed(prompt, params, context)
        if num_positions > self._num_positions:
            needed = num_positions * model.shape.bytes_per_position
            return Failure(
                "over_memory_budget",
                f"the KV cache of {len(prompt)} tokens and {num_positions + 1 - len(prompt)} "
                f"new ones takes {needed:,} bytes, the budget is {self._budget:,} (kv_cache_gib); "
                "raise it, or lower decoding.max_new_tokens",
            )
        return None

    def add(self, prompt: Sequence[int], params: RequestParams) -> int:
        request = Request(self._next_id, list(prompt), params, self._stop_token_ids)
        self._arrived.append(request)
        self._next_id += 1
        return request.request_id

    def cancel(self, request_id: int) -> None:
        self._arrived = [one for one in self._arrived if one.request_id != request_id]
        request = self._scheduler.cancel(request_id)
        if request is not None:
            self._model.vectors.drop(request.prompt)

    @torch.inference_mode()
    def step(self) -> list[Advance]:
        start = time.perf_counter()
        advances = self._take_arrivals()
        if self._scheduler.is_due:
            self._scheduler.admit()
        num_passes = 0
        while num_passes != self._passes_per_step:
            spans = self._scheduler.next_pass(PASS_TOKENS)
            if not spans:
                break
            advances += self._runner.prefill(spans, self.report)
            num_passes += 1
        if spans := self._scheduler.decode():
            advances += self._runner.decode(spans, self.report)
        self.report.total_seconds += time.perf_counter() - start
        return advances

    def _take_arrivals(self) -> list[Advance]:
        """Let new requests wait; returns the failures of those that cannot be completed."""
        arrived, self._arrived = self._arrived, []
        judged = [(one, self.refusal(one.prompt, one.params)) for one in arrived]
        accepted = [request for request, failure in judged if failure is None]
        self.report.num_prompt_tokens += sum(len(request.prompt) for request in accepted)
        self._model.vectors.keep(request.prompt for request in accepted)
        self._scheduler.add(accepted)
        return [failed(request.request_id, why) for request, why in judged if why is not None]


def load_engine(
    model: PreTrainedModel,
    stop_token_ids: Sequence[int],
    config: EngineConfig,
    *,
    is_streaming: bool = False,
) -> SharedEngine:
    """The engine that `config` describes, over `model`.

    `xrec.adapter.model.attach_adapters` may have added collaborative tokens to the model. On a CPU
    its linear layers are packed, in place. With `is_streaming` texts go on after each pass over
    others' prompts. The model's own generation settings are not used, so that only the job's config
    decides. Raises ModelError for a decoder that cannot run packed passes.
    """
    pack_linears(model)
    return SharedEngine(
        BuiltinCore(
            PackedModel(model),
            stop_token_ids,
            max_rows=config.max_rows,
            kv_cache_bytes=int(config.kv_cache_gib * 2**30),
            passes_per_step=1 if is_streaming else None,
        ),
        config.row_seconds,
    )
