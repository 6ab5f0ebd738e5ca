"""The default engine: continuous batching of packed passes over a transformers decoder, prefixes shared.

Prompts are grouped by what they begin with (xrec.generate.prefix_groups); keys and values are allocated once, within a
budget (memory_plan); a schedule says what is computed next; a pass has no padding (packed_attention). In float32 its
greedy tokens are those of `generate` on one prompt at a time.
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
    """An `Engine` over a transformers model, with collaborative tokens (xrec.adapter.model.attach_adapters) or without.

    `max_rows` prompts are at work together, fewer where `key_value_bytes` holds no more; `decode` gives the text of ids, for
    stop strings. The model's own generation settings are not used: only the job's config decides a backfill. `report` tells
    what the latest call cost. Raises ModelError for a decoder that has no packed pass.
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
        """Yield one completion a prompt, as they finish; those that cannot be completed first."""
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
        """Why `prompt` cannot be completed; None: it can."""
        failure = prompt_failure(prompt, self._model.num_ids, self._model.context_length)
        if failure is not None:
            return failure
        needed = (
            positions_needed(prompt, decoding.max_new_tokens) * self._model.shape.bytes_per_position
        )
        if needed > self._key_value_bytes:
            return Failure(
                "over_memory_budget",
                f"keys and values of {len(prompt)} tokens and {decoding.max_new_tokens} new ones take {needed:,} bytes, the budget is "
                f"{self._key_value_bytes:,} (key_value_gib); raise it, or lower decoding.max_new_tokens",
            )
        return None


def load_engine(
    model: PreTrainedModel,
    stop_token_ids: Sequence[int],
    decode: Callable[[list[int]], str],
    config: EngineConfig,
) -> TransformersEngine:
    """The engine that `config` describes; changes how `model`'s linear layers multiply, in place.

    Raises ModelError for a decoder that has no packed pass, or int8 layers away from a CPU.
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
