"""The built-in engine: requests come and go, and each step advances all of them."""

import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from xrec.config import EngineConfig
from xrec.errors import Failure
from xrec.generate.builtin.kv_cache import KVCache
from xrec.generate.builtin.model import ModelRunner, PackedModel
from xrec.generate.builtin.requests import Request, Slots, positions_needed
from xrec.generate.builtin.scheduler import Scheduler
from xrec.generate.engine import (
    Advance,
    EngineReport,
    RequestParams,
    TextParams,
    failed,
    request_failure,
)
from xrec.generate.shared_engine import SharedEngine
from xrec.llm.cpu import pack_linears


class BuiltinCore:
    """An `EngineCore` over `model`, with a KV cache of at most `kv_cache_bytes`.

    At most `max_rows` requests run at a time, or as many as fit in the KV cache; the others wait in
    order. Before it decodes, a step computes up to `passes_per_step` passes over prompts, of up to
    `pass_tokens` tokens each. With None, it computes all prompts that have a slot.
    """

    def __init__(
        self,
        model: PackedModel,
        stop_token_ids: Sequence[int],
        *,
        max_rows: int,
        kv_cache_bytes: int,
        passes_per_step: int | None = None,
        pass_tokens: int = 512,
    ):
        self._model, self._stop_token_ids = model, frozenset(stop_token_ids)
        self._passes_per_step, self._pass_tokens = passes_per_step, pass_tokens
        self.max_rows, self._budget = max_rows, kv_cache_bytes
        num_positions = kv_cache_bytes // model.shape.bytes_per_position
        self._cache = KVCache(model.shape, min(num_positions, 2 * max_rows * model.context_length))
        self._reset()
        self._next_id = 0
        self.report = EngineReport()

    def _reset(self) -> None:
        """Start without requests and with an empty cache."""
        slots = Slots(self._cache, self.max_rows, self._model.num_text_tokens)
        self._scheduler = Scheduler(slots, self.max_rows, self._model.context_length)
        self._runner = ModelRunner(self._model, self._scheduler, slots)
        self._arrived: list[Request] = []
        self._refused: list[tuple[int, Failure]] = []

    @property
    def num_rows(self) -> int:
        return self._scheduler.num_rows - len(self._scheduler.ended)

    @property
    def is_idle(self) -> bool:
        scheduler = self._scheduler
        return not (self._arrived or self._refused or self.num_rows or scheduler.num_waiting)

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        model, context = self._model, self._model.context_length
        failure = request_failure(prompt, params, model.num_ids, model.num_text_tokens, context)
        if failure is not None:
            return failure
        num_positions = positions_needed(prompt, params, context)
        if num_positions > self._cache.num_positions:
            needed = num_positions * model.shape.bytes_per_position
            return Failure(
                "over_memory_budget",
                f"the KV cache for {len(prompt)} tokens and {num_positions + 1 - len(prompt)} "
                f"new ones takes {needed:,} bytes, more than the {self._budget:,} of kv_cache_gib; "
                "raise it, or lower decoding.max_new_tokens",
            )
        return None

    def add(self, prompt: Sequence[int], params: RequestParams, after: int | None = None) -> int:
        request_id = self._next_id
        self._next_id += 1
        failure = self.refusal(prompt, params)
        if failure is not None:
            self._refused.append((request_id, failure))
            if after is not None:
                self.cancel(after)
            return request_id
        mask = params.new_mask() if isinstance(params, TextParams) else None
        if after is None or not self._scheduler.begin_again(after, request_id, params, mask):
            stops = self._stop_token_ids
            self._arrived.append(Request(request_id, list(prompt), params, stops, mask))
        return request_id

    def cancel(self, request_id: int) -> None:
        self._refused = [refused for refused in self._refused if refused[0] != request_id]
        self._arrived = [arrived for arrived in self._arrived if arrived.request_id != request_id]
        request = self._scheduler.cancel(request_id)
        if request is not None:
            self._model.vectors.drop(request.prompt)

    def step(self) -> list[Advance]:
        start = time.perf_counter()
        try:
            return self._step()
        except BaseException:
            self._cache.clear_all()
            self._model.vectors.drop_all()
            self._reset()
            raise
        finally:
            self.report.total_seconds += time.perf_counter() - start

    @torch.inference_mode()
    def _step(self) -> list[Advance]:
        advances = [failed(*refused) for refused in self._refused]
        self._refused.clear()
        self._take_arrivals()
        if self._scheduler.num_waiting and not self.num_rows:
            for request_id in list(self._scheduler.ended):  # frees their prompts' slots
                self.cancel(request_id)
        if self._scheduler.is_due:
            self._scheduler.admit()
        num_passes = 0
        while num_passes != self._passes_per_step:
            spans = self._scheduler.next_pass(self._pass_tokens)
            if not spans:
                break
            advances += self._runner.prefill(spans, self.report)
            num_passes += 1
        if spans := self._scheduler.decode():
            advances += self._runner.decode(spans, self.report)
        return advances

    def _take_arrivals(self) -> None:
        """Queue new requests."""
        arrived, self._arrived = self._arrived, []
        self.report.num_prompt_tokens += sum(len(request.prompt) for request in arrived)
        self._model.vectors.keep(request.prompt for request in arrived)
        self._scheduler.add(arrived)


def load_engine(
    model: PreTrainedModel,
    stop_token_ids: Sequence[int],
    config: EngineConfig,
    *,
    is_streaming: bool = False,
) -> SharedEngine:
    """Return an engine over `model`.

    `xrec.adapter.model.attach_adapters` may have added collaborative tokens to the model. On a CPU,
    its linear layers are packed in place. With `is_streaming`, texts advance after each pass over
    prompts. The model's own generation settings are ignored; only the job's config counts. Raises
    ModelError for a decoder that cannot run packed passes.
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
