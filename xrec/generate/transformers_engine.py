"""The default engine: continuous batching over a transformers decoder, with shared prefixes.

Prompts are grouped by their beginnings (prefix_groups). Keys and values are allocated once, within
a budget (memory_plan). A schedule decides what is computed next (schedule). A pass has no padding
(packed_attention). In float32 the greedy tokens equal those of transformers' `generate` on one
prompt at a time.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedModel

from xrec.config.llm import DecodingConfig, EngineConfig
from xrec.generate.engine import Completion, Failure, prompt_failure
from xrec.generate.engine_report import EngineReport
from xrec.generate.generation_run import GenerationRun, Stopping
from xrec.generate.memory_plan import plan_memory, positions_needed
from xrec.generate.packed_model import PackedModel
from xrec.llm.int8_linear import quantize_linears
from xrec.llm.packed_linear import pack_linears


class TransformersEngine:
    """An `Engine` over a transformers model, with collaborative tokens or without.

    (`xrec.adapter.model.attach_adapters` adds them.) At most `max_rows` prompts are at work at the
    same time, fewer if `key_value_bytes` does not hold as many. `decode` gives the text of token
    ids; it is needed for stop strings. The model's own generation settings are not used, so that
    only the job's config decides. `report` has the cost of the latest call.

    Raises ModelError for a decoder that cannot run packed passes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Sequence[int],
        *,
        max_rows: int,
        key_value_bytes: int,
        decode: Callable[[list[int]], str],
    ):
        self._model = PackedModel(model)
        self._stop_token_ids = frozenset(stop_token_ids)
        self._max_rows, self._key_value_bytes, self._decode = max_rows, key_value_bytes, decode
        self.report = EngineReport()

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
    ) -> Iterator[Completion]:
        """Yield one completion for each prompt, in the order in which they finish.

        Prompts that cannot be completed come first.
        """
        start = time.perf_counter()
        self.report = report = EngineReport(
            num_prompts=len(prompts), key_value_budget_bytes=self._key_value_bytes
        )
        failures = {
            index: failure
            for index, prompt in enumerate(prompts)
            if (failure := self._failure(prompt, decoding)) is not None
        }
        report.num_failed = len(failures)
        for index, failure in failures.items():
            yield Completion(index, [], "failed", failure)
        accepted = [index for index in range(len(prompts)) if index not in failures]
        if accepted:
            yield from self._run(prompts, accepted, decoding, report)
        report.total_seconds = time.perf_counter() - start

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        indices: list[int],
        decoding: DecodingConfig,
        report: EngineReport,
    ) -> Iterator[Completion]:
        bytes_per_position = self._model.shape.bytes_per_position
        plan = plan_memory(
            prompts,
            indices,
            decoding.max_new_tokens,
            self._key_value_bytes // bytes_per_position,
            self._max_rows,
        )
        report.num_prompt_tokens = sum(len(prompts[index]) for index in indices)
        report.max_rows, report.max_prefixes = plan.num_rows, plan.num_prefixes
        report.key_value_bytes = plan.num_positions * bytes_per_position
        self._model.adapt(prompts[index] for index in indices)
        stopping = Stopping(
            self._stop_token_ids, decoding.stop, self._decode, decoding.max_new_tokens
        )
        yield from GenerationRun(
            self._model, prompts, plan, decoding, stopping, report
        ).completions()

    def _failure(self, prompt: Sequence[int], decoding: DecodingConfig) -> Failure | None:
        """Why `prompt` cannot be completed, or None if it can."""
        failure = prompt_failure(prompt, self._model.num_ids, self._model.context_length)
        if failure is not None:
            return failure
        needed = (
            positions_needed(prompt, decoding.max_new_tokens) * self._model.shape.bytes_per_position
        )
        if needed > self._key_value_bytes:
            return Failure(
                "over_memory_budget",
                f"keys and values of {len(prompt)} tokens and {decoding.max_new_tokens} new ones "
                f"take {needed:,} bytes, the budget is {self._key_value_bytes:,} (key_value_gib); "
                "raise it, or lower decoding.max_new_tokens",
            )
        return None


def load_engine(
    model: PreTrainedModel,
    stop_token_ids: Sequence[int],
    decode: Callable[[list[int]], str],
    config: EngineConfig,
) -> TransformersEngine:
    """The engine that `config` describes; `model`'s linear layers get other products, in place.

    Raises ModelError for a decoder that cannot run packed passes, and for int8 layers on a GPU.
    """
    if config.linear_layers == "int8":
        quantize_linears(model)
    if config.linear_layers != "plain":
        pack_linears(model)
    return TransformersEngine(
        model,
        stop_token_ids,
        max_rows=config.max_rows,
        key_value_bytes=int(config.key_value_gib * 2**30),
        decode=decode,
    )
