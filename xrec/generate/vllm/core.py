"""vLLM as an `EngineCore`: requests come and go at any time, and vLLM batches them.

Each request is a request to vLLM; the vectors of its users and items are fixed when it is added. A
further text for a prompt is a new request, whose prompt vLLM finds in its prefix cache. To get the
likelihoods of a given text, all but its last token are appended to the prompt. The last one is
looked up among the candidates for the token that vLLM draws.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from vllm import LLMEngine, RequestOutput, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.inputs import EngineInput
from vllm.sampling_params import RequestOutputKind

from xrec.errors import Failure
from xrec.generate.engine import (
    NOT_A_NUMBER,
    Advance,
    Completion,
    EngineReport,
    FinishReason,
    LikelihoodParams,
    RequestParams,
    TextParams,
    failed,
    request_failure,
)
from xrec.llm.collaborative import Vocabulary
from xrec.storage import fingerprint_of

_HIGHEST_TEMPERATURE = 2.0
_BANNED = -100.0  # the lowest bias that vLLM allows


@dataclass(frozen=True, eq=False)
class _Request:
    request_id: int
    params: RequestParams
    token_ids: list[int] = field(default_factory=list)


class VllmCore:
    """An `EngineCore` over `engine`; to be used by one thread at a time.

    stop_token_ids: the tokens that end a text.
    inputs: converts a prompt's token IDs to vLLM's input.

    vLLM reports the first token of a text, its end, and tokens in between at its `stream_interval`.
    """

    def __init__(
        self,
        engine: LLMEngine,
        vocabulary: Vocabulary,
        stop_token_ids: Sequence[int],
        inputs: Callable[[Sequence[int]], EngineInput],
        *,
        context: int,
        max_rows: int,
    ):
        self._engine, self._vocabulary, self._inputs = engine, vocabulary, inputs
        self._stop_token_ids, self._context = list(stop_token_ids), context
        self.max_rows = max_rows
        self._max_num_tokens = engine.model_config.max_model_len
        self._refused: list[tuple[int, Failure]] = []
        self._requests: dict[str, _Request] = {}
        self._next_id = 0
        self.report = EngineReport()

    @property
    def is_idle(self) -> bool:
        return not self._requests and not self._refused

    @property
    def num_rows(self) -> int:
        """Number of requests that vLLM may compute together now."""
        return min(len(self._requests), self.max_rows)

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        num_ids, num_text = self._vocabulary.num_ids, self._vocabulary.num_text_tokens
        failure = request_failure(prompt, params, num_ids, num_text, self._context)
        if failure is not None:
            return failure
        if isinstance(params, LikelihoodParams):
            return self._over_memory(len(prompt), len(params.continuation))
        over = self._over_memory(len(prompt), params.max_new_tokens)
        return over or _unsupported(params)

    def add(self, prompt: Sequence[int], params: RequestParams, after: int | None = None) -> int:
        request_id = self._next_id
        self._next_id += 1
        failure = self.refusal(prompt, params)
        if failure is None:
            try:
                self._enter(request_id, prompt, params)
            except (VLLMValidationError, ValueError) as error:
                failure = Failure("unsupported_request", f"vLLM refuses the request: {error}")
        if failure is not None:
            self._refused.append((request_id, failure))
        return request_id

    def step(self) -> list[Advance]:
        """Let vLLM compute a step; return the advances of requests that it reports."""
        advances = [failed(request_id, failure) for request_id, failure in self._refused]
        self._refused.clear()
        if not self._requests:
            return advances
        started = time.perf_counter()
        try:
            for output in self._engine.step():
                # vLLM's process may report a canceled request once more.
                request = self._requests.get(output.request_id)
                if request is not None:
                    advances.append(self._advance(request, output))
        except BaseException:
            requests, self._requests = list(self._requests), {}
            with suppress(Exception):  # vLLM may have exited
                self._engine.abort_request(requests)
            raise
        finally:
            self.report.total_seconds += time.perf_counter() - started
        return advances

    def cancel(self, request_id: int) -> None:
        self._refused = [refused for refused in self._refused if refused[0] != request_id]
        if self._requests.pop(str(request_id), None) is not None:
            self._engine.abort_request([str(request_id)])

    def _over_memory(self, num_tokens: int, num_new: int) -> Failure | None:
        if min(num_tokens + num_new, self._context) <= self._max_num_tokens:
            return None
        return Failure(
            "over_memory_budget",
            f"prompt of {num_tokens} tokens and {num_new} new ones, but the KV cache has room for "
            f"{self._max_num_tokens}; raise kv_cache_gib or vllm.gpu_memory_utilization, or lower "
            "decoding.max_new_tokens",
        )

    def _enter(self, request_id: int, prompt: Sequence[int], params: RequestParams) -> None:
        """Pass a request to vLLM; raise what vLLM raises."""
        inputs = self._inputs(prompt)
        if isinstance(params, LikelihoodParams):
            inputs, sampling = _likelihood_sampling(inputs, params)
        else:
            sampling = _text_sampling(prompt, params, self._stop_token_ids)
        self._engine.add_request(str(request_id), inputs, sampling)
        self._requests[str(request_id)] = _Request(request_id, params)

    def _advance(self, request: _Request, output: RequestOutput) -> Advance:
        (sequence,) = output.outputs
        if output.finished:
            del self._requests[output.request_id]
            num_tokens = len(output.prompt_token_ids or ())
            self.report.num_prompt_tokens += num_tokens
            self.report.num_computed_prompt_tokens += num_tokens - (output.num_cached_tokens or 0)
        if sequence.finish_reason in ("error", "abort"):
            message = f"vLLM ended the text ({sequence.finish_reason}); see vLLM's log"
            return failed(request.request_id, Failure("unsupported_request", message))
        if output.finished and output.metrics is not None and output.metrics.is_corrupted:
            return failed(request.request_id, NOT_A_NUMBER)
        if isinstance(request.params, LikelihoodParams):
            return _likelihood(request.request_id, request.params, output)
        request.token_ids.extend(sequence.token_ids)
        self.report.num_decoded_tokens += len(sequence.token_ids)
        if sequence.finish_reason is None:
            return Advance(request.request_id, list(request.token_ids))
        reason: FinishReason = "length"
        if sequence.finish_reason == "stop":
            request.token_ids.pop()  # vLLM returns the end token with the text
            reason = "stop"
        completion = Completion(request.request_id, request.token_ids, reason)
        return Advance(request.request_id, request.token_ids, completion)


def _text_sampling(
    prompt: Sequence[int], params: TextParams, stop_token_ids: Sequence[int]
) -> SamplingParams:
    """Return the settings of a text; the seed depends only on the request's seed and the prompt."""
    return SamplingParams(
        max_tokens=params.max_new_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        seed=int(fingerprint_of([params.seed, *prompt]), 16) >> 1,
        stop_token_ids=[*stop_token_ids],
        logit_bias=dict.fromkeys(sorted(params.banned), _BANNED) or None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _likelihood_sampling(
    inputs: EngineInput, params: LikelihoodParams
) -> tuple[EngineInput, SamplingParams]:
    """Return the prompt with all but the last token of the continuation, and the settings."""
    *before, last = params.continuation
    sampling = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprob_token_ids=[last],
        prompt_logprobs=0 if before else None,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    return {**inputs, "prompt_token_ids": [*inputs["prompt_token_ids"], *before]}, sampling


def _likelihood(request_id: int, params: LikelihoodParams, output: RequestOutput) -> Advance:
    """Return the completion of a given text; vLLM has a dictionary by token for each position."""
    logprobs = [*(output.prompt_logprobs or ()), *(output.outputs[0].logprobs or ())]
    ids = list(params.continuation)
    values = [
        by_token[token].logprob for token, by_token in zip(ids, logprobs[-len(ids) :], strict=True)
    ]
    if any(map(math.isnan, values)):
        return failed(request_id, NOT_A_NUMBER)
    likelihoods = tuple(min(0.0, value) for value in values)
    completion = Completion(request_id, ids, "given", log_likelihoods=likelihoods)
    return Advance(request_id, ids, completion)


def _unsupported(params: TextParams) -> Failure | None:
    """Return why vLLM cannot draw a text with `params`; None if it can."""
    if params.constraint is not None:
        return Failure(
            "unsupported_request",
            "vLLM does not support the mask of the text, because it computes masks in another "
            "process; set engine.kind=builtin",
        )
    if params.temperature > _HIGHEST_TEMPERATURE:
        return Failure(
            "unsupported_request",
            f"temperature {params.temperature}; vLLM allows at most {_HIGHEST_TEMPERATURE}: "
            "lower it, or set engine.kind=builtin",
        )
    return None
