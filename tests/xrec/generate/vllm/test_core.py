"""vLLM's core by a stand-in for vLLM: time limits, numbers that are none, and errors."""

import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.xrec.generate.cores import finish
from xrec.generate.engine import Completion, LikelihoodParams, TextParams
from xrec.generate.shared_engine import SharedEngine
from xrec.llm.collaborative import Vocabulary

STOP = 2
PARAMS = TextParams(max_new_tokens=4)


class RefusedError(ValueError):
    """vLLM's VLLMValidationError."""


@dataclass
class StandIn:
    """An LLMEngine that writes the number 7 until a text is full, and reports as vLLM does.

    refuses: whether a request cannot be added, by its settings.
    interval: of the tokens after the first one that are reported.
    corrupt: a token; what begins with it has logits that are not numbers.
    deadly: a token; a step with a prompt that begins with it raises an error, and so does all else
        from then on.
    """

    refuses: Callable[[Any], bool] = lambda _: False
    interval: int = 2**31
    corrupt: int = -1
    deadly: int = -1
    is_dead: bool = False
    requests: dict[str, tuple[list[int], Any, list[int]]] = field(default_factory=dict)
    model_config: Any = field(default_factory=lambda: SimpleNamespace(max_model_len=10**6))

    def add_request(self, request_id: str, given: dict[str, Any], sampling: Any) -> None:
        if self.refuses(sampling):
            raise RefusedError("not like this")
        self.requests[request_id] = (given["prompt_token_ids"], sampling, [])

    def abort_request(self, request_ids: Sequence[str]) -> None:
        if self.is_dead:
            raise RuntimeError("engine is dead")
        for request_id in request_ids:
            self.requests.pop(request_id, None)

    def step(self) -> list[Any]:
        self.is_dead |= any(prompt[0] == self.deadly for prompt, *_ in self.requests.values())
        if self.is_dead:
            raise RuntimeError("engine is dead")
        return [
            output
            for request_id in list(self.requests)
            if (output := self._output(request_id)) is not None
        ]

    def _output(self, request_id: str) -> Any:
        prompt, sampling, text = self.requests[request_id]
        text.append(7)
        is_full = len(text) == sampling.max_tokens
        is_corrupt = prompt[0] == self.corrupt
        if is_full:
            del self.requests[request_id]
        is_delta = sampling.output_kind == "delta"
        num_new = 1 if len(text) == 1 else (len(text) - 1) % self.interval or self.interval
        if not is_full and not (is_delta and (len(text) == 1 or num_new == self.interval)):
            return None
        logprob = SimpleNamespace(logprob=math.nan if is_corrupt else -0.5)
        places = [dict.fromkeys(range(100), logprob)]
        return SimpleNamespace(
            request_id=request_id,
            finished=is_full,
            prompt_token_ids=prompt,
            num_cached_tokens=0,
            prompt_logprobs=places * len(prompt),
            metrics=SimpleNamespace(is_corrupted=is_corrupt),
            outputs=[
                SimpleNamespace(
                    token_ids=text[-num_new:] if is_delta else text,
                    finish_reason="length" if is_full else None,
                    logprobs=places,
                )
            ],
        )


@pytest.fixture
def make_core(mocked_vllm):
    mocked_vllm.SamplingParams = lambda **values: SimpleNamespace(**values)
    mocked_vllm.RequestOutputKind = SimpleNamespace(DELTA="delta", FINAL_ONLY="final")
    mocked_vllm.VLLMValidationError = RefusedError
    module = importlib.import_module("xrec.generate.vllm.core")

    def make(**settings: Any) -> Any:
        return module.VllmCore(
            StandIn(**settings),
            Vocabulary(100, 0, 0),
            [STOP],
            lambda prompt: {"prompt_token_ids": list(prompt)},
            context=10**6,
            max_rows=8,
        )

    return make


@pytest.mark.parametrize("interval", [1, 2**31])
def test_text_that_takes_too_long_is_cancelled_and_the_others_go_on(make_core, interval):
    """A step takes a second. A text of 7 tokens ends in the one in which it would be cancelled."""
    core, seconds = make_core(interval=interval), itertools.count()
    engine = SharedEngine(core, row_seconds=5, clock=lambda: float(next(seconds)))
    asked = [([5], replace(PARAMS, max_new_tokens=count)) for count in (1, 7, 8, 900)]
    found = sorted(engine.complete(asked), key=lambda one: one.index)
    reasons = [one.failure and one.failure.reason for one in found]
    assert reasons == [None, None, "timeout", "timeout"]
    assert [one.token_ids for one in found[:2]] == [[7], [7] * 7]
    assert core.is_idle


def test_output_that_is_no_number_fails_its_request_alone(make_core):
    core = make_core(corrupt=9)
    weighed = LikelihoodParams((5, 6))
    requests = [core.add([first, 4], params) for first in (9, 3) for params in (PARAMS, weighed)]
    ended = finish(core)
    text, given, whole_text, whole_given = (ended[request] for request in requests)
    assert [one.failure.reason for one in (text, given)] == ["invalid_logits"] * 2
    assert whole_text.token_ids == [7] * 4
    assert whole_given.log_likelihoods == (-0.5, -0.5)


def test_further_text_that_vllm_refuses_fails_its_row_alone(make_core):
    core = make_core(refuses=lambda sampling: sampling.temperature == 1.5)
    engine = SharedEngine(core)

    def again(completion: Completion) -> TextParams | None:
        if completion.failure is not None or len(completion.token_ids) == 3:
            return None
        temperature = 1.5 if completion.index == 1 else 0.5
        return TextParams(max_new_tokens=3, temperature=temperature)

    found = sorted(engine.complete([([5], PARAMS)] * 4, again), key=lambda one: one.index)
    reasons = [one.failure and one.failure.reason for one in found]
    assert reasons == [None, "unsupported_request", None, None]
    assert [len(one.token_ids) for one in found] == [3, 0, 3, 3]
    assert engine.failure is None


def test_core_of_a_vllm_that_ended_holds_no_request(make_core):
    core = make_core(deadly=9)
    for first in (3, 9):
        core.add([first], PARAMS)
    with pytest.raises(RuntimeError, match="engine is dead"):
        core.step()
    assert core.is_idle
