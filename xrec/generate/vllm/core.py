"""vLLM as an `EngineCore`: requests enter and leave at any time, and vLLM batches what is at work.

A text is one request of vLLM. A likelihood is asked of each token of the continuation with all that
precedes it as the prompt: the prefix cache holds most of that. (vLLM's own `prompt_logprobs` looks
every token of a prompt up in the logits, where users and items have none, and it does not read the
prefix cache.)
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vllm import LLMEngine, RequestOutput, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind

from xrec.generate.engine import (
    Advance,
    Completion,
    EngineReport,
    Failure,
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


@dataclass(eq=False)
class _Part:
    """One request of vLLM: the text of a request, or token `number` of a continuation."""

    request: "_Request"
    number: int
    token_ids: list[int] = field(default_factory=list)
    is_second: bool = False


@dataclass(eq=False)
class _Request:
    request_id: int
    prompt: list[int]
    params: RequestParams
    at_work: dict[str, _Part] = field(default_factory=dict)
    log_likelihoods: dict[int, float] = field(default_factory=dict)


class VllmCore:
    """An `EngineCore` over `engine`; to be used by one thread at a time.

    A text gets an `Advance` for each of its tokens if `is_streaming`, else only when it has ended,
    which costs this process less. `stop_token_ids` end a text. Prompts share their beginning in the
    prefix cache only if `cache_salt` gives the same for both.
    """

    def __init__(
        self,
        engine: LLMEngine,
        vocabulary: Vocabulary,
        stop_token_ids: Sequence[int],
        cache_salt: Callable[[Sequence[int]], str | None],
        *,
        context: int,
        max_rows: int,
        is_streaming: bool = False,
    ):
        self._engine, self._vocabulary, self._cache_salt = engine, vocabulary, cache_salt
        self._stop_token_ids, self._context = list(stop_token_ids), context
        self._is_streaming, self.max_rows = is_streaming, max_rows
        self._max_num_tokens = engine.model_config.max_model_len
        self._parts: dict[str, _Part] = {}
        self._refused: deque[tuple[int, Failure]] = deque()
        self._requests: dict[int, _Request] = {}
        self._next_id = 0
        self.report = EngineReport()

    @property
    def is_idle(self) -> bool:
        """See `EngineCore`."""
        return not self._parts and not self._refused

    @property
    def num_rows(self) -> int:
        """The number of vLLM's requests that it may compute together now."""
        return min(len(self._parts), self.max_rows)

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        """See `EngineCore`."""
        vocabulary, context = self._vocabulary, self._context
        num_ids, num_text_tokens = vocabulary.num_ids, vocabulary.num_text_tokens
        failure = request_failure(prompt, params, num_ids, num_text_tokens, context)
        if failure is not None:
            return failure
        num_new = (
            len(params.continuation)
            if isinstance(params, LikelihoodParams)
            else params.max_new_tokens
        )
        if min(len(prompt) + num_new, context) > self._max_num_tokens:
            return Failure(
                "over_memory_budget",
                f"prompt of {len(prompt)} tokens and {num_new} new ones, the KV cache holds "
                f"{self._max_num_tokens} (kv_cache_gib, gpu_memory_share); raise it, or lower "
                "decoding.max_new_tokens",
            )
        return None if isinstance(params, LikelihoodParams) else _unsupported(params)

    def add(self, prompt: Sequence[int], params: RequestParams) -> int:
        """See `EngineCore`."""
        request_id = self._next_id
        self._next_id += 1
        failure = self.refusal(prompt, params)
        if failure is None:
            failure = self._enter(request_id, list(prompt), params)
        if failure is not None:
            self._refused.append((request_id, failure))
        return request_id

    def step(self) -> list[Advance]:
        """Let vLLM compute a step; returns what ended, and if streaming what got a token."""
        advances = [failed(request_id, failure) for request_id, failure in self._refused]
        self._refused.clear()
        if not self._parts:
            return advances
        started = time.perf_counter()
        for output in self._engine.step():
            # A request that was cancelled may still come once more from vLLM's process.
            part = self._parts.get(output.request_id)
            if part is not None:
                advances += self._advances(part, output)
        self.report.total_seconds += time.perf_counter() - started
        return advances

    def cancel(self, request_id: int) -> None:
        """See `EngineCore`."""
        self._refused = deque(one for one in self._refused if one[0] != request_id)
        request = self._requests.get(request_id)
        if request is not None:
            self._drop(request)

    def _enter(self, request_id: int, prompt: list[int], params: RequestParams) -> Failure | None:
        """Give the parts of a request to vLLM; returns why vLLM refuses one, if it does."""
        request = _Request(request_id, prompt, params)
        self._requests[request_id] = request
        try:
            self._add_parts(request, params)
        except (VLLMValidationError, ValueError) as error:
            self._drop(request)
            return Failure("unsupported_request", f"vLLM refuses the request: {error}")
        return None

    def _add_parts(
        self, request: _Request, params: RequestParams, *, is_second: bool = False
    ) -> None:
        """Give the parts of a request to vLLM, or its second text; raises what vLLM raises."""
        tries = "-second" if is_second else ""
        salt = self._cache_salt(request.prompt)
        for number, (given, sampling) in enumerate(self._sampled(request.prompt, params)):
            name = f"{request.request_id}-{number}{tries}"
            part = _Part(request, number, is_second=is_second)
            self._engine.add_request(name, tokens_input(given, cache_salt=salt), sampling)
            self._parts[name] = request.at_work[name] = part

    def _sampled(
        self, prompt: list[int], params: RequestParams
    ) -> Iterator[tuple[list[int], SamplingParams]]:
        """The prompt and the settings of each part of a request."""
        if isinstance(params, LikelihoodParams):
            for number, token in enumerate(params.continuation):
                yield [*prompt, *params.continuation[:number]], _of_token(token)
        else:
            yield prompt, _of_text(prompt, params, self._stop_token_ids, self._is_streaming)

    def _advances(self, part: _Part, output: RequestOutput) -> list[Advance]:
        request = part.request
        (sequence,) = output.outputs
        if output.finished:
            self._count(output)
        if sequence.finish_reason in ("error", "abort"):
            return [self._failure(request, sequence.finish_reason)]
        if isinstance(request.params, LikelihoodParams):
            return self._likelihoods(request, request.params, part, output)
        part.token_ids += sequence.token_ids
        self.report.num_decoded_tokens += len(sequence.token_ids)
        if sequence.finish_reason is None:
            return [Advance(request.request_id, list(part.token_ids))]
        reason: FinishReason = "length"
        if sequence.finish_reason == "stop":
            part.token_ids.pop()  # vLLM returns the end token with the text
            reason = "stop"
        completion = Completion(request.request_id, part.token_ids, reason)
        retry = None if part.is_second else request.params.retry
        if retry is not None and retry.is_refused(completion):
            self._add_parts(request, request.params.second, is_second=True)
            self._end_part(part, output)
            return [Advance(request.request_id, [])]
        self._end_part(part, output)
        return [Advance(request.request_id, part.token_ids, completion)]

    def _end_part(self, part: _Part, output: RequestOutput) -> None:
        name = output.request_id
        del self._parts[name]
        del part.request.at_work[name]
        if not part.request.at_work:
            self._requests.pop(part.request.request_id, None)

    def _likelihoods(
        self, request: _Request, params: LikelihoodParams, part: _Part, output: RequestOutput
    ) -> list[Advance]:
        token = params.continuation[part.number]
        logprobs = output.outputs[0].logprobs
        assert logprobs is not None
        request.log_likelihoods[part.number] = min(0.0, logprobs[0][token].logprob)
        self._end_part(part, output)
        if request.at_work:
            return []
        ids = list(params.continuation)
        values = tuple(request.log_likelihoods[number] for number in range(len(ids)))
        completion = Completion(request.request_id, ids, "given", log_likelihoods=values)
        return [Advance(request.request_id, ids, completion)]

    def _failure(self, request: _Request, finish_reason: str) -> Advance:
        """End a request with the failure that vLLM reports."""
        self._drop(request)
        message = f"vLLM ended the text ({finish_reason}); see vLLM's log"
        return failed(request.request_id, Failure("unsupported_request", message))

    def _drop(self, request: _Request) -> None:
        """Take a request and what is left of it at vLLM away."""
        del self._requests[request.request_id]
        names = list(request.at_work)
        for name in names:
            del self._parts[name]
        request.at_work.clear()
        if names:
            self._engine.abort_request(names)

    def _count(self, output: RequestOutput) -> None:
        num_tokens = len(output.prompt_token_ids or ())
        self.report.num_prompt_tokens += num_tokens
        self.report.num_computed_prompt_tokens += num_tokens - (output.num_cached_tokens or 0)


def _of_text(
    prompt: Sequence[int], params: TextParams, stop_token_ids: Sequence[int], is_streaming: bool
) -> SamplingParams:
    """The settings of a text, whose seed follows from the request's seed and the prompt only.

    vLLM returns each token at once if `is_streaming`.
    """
    return SamplingParams(
        max_tokens=params.max_new_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        seed=int(fingerprint_of([params.seed, *prompt]), 16) >> 1,
        stop_token_ids=[*stop_token_ids],
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if is_streaming else RequestOutputKind.FINAL_ONLY,
    )


def _of_token(token: int) -> SamplingParams:
    """The settings that give the log-likelihood of `token` as the next one."""
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprob_token_ids=[token],
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _unsupported(params: TextParams) -> Failure | None:
    """Why vLLM cannot draw a text with `params`; None if it can."""
    if params.constraint is not None:
        return Failure(
            "unsupported_request",
            "a mask over the next token; vLLM computes masks in another process: "
            "set engine.kind=builtin",
        )
    if params.temperature > _HIGHEST_TEMPERATURE:
        return Failure(
            "unsupported_request",
            f"temperature {params.temperature}; vLLM samples with at most {_HIGHEST_TEMPERATURE}: "
            "lower it, or set engine.kind=builtin",
        )
    return None
