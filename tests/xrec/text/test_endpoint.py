"""An endpoint that is slow, busy, broken or silent: no reply is lost, and retries are few."""

import json
import logging
import pickle
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from pydantic import ValidationError

from tests.errors import raises
from tests.world.endpoint import Answer, Asked, StubEndpoint, stub_endpoint
from tests.xrec.text.asked import KEY, Said, endpoint_config, endpoint_model, prompts, right
from xrec.config import EndpointModelConfig, SamplingConfig
from xrec.errors import ConfigError, EndpointAccessError, EndpointError, EndpointUnreachableError
from xrec.text import Reply, ask, endpoint_key
from xrec.text.endpoint import Endpoint, EndpointModel
from xrec.text.messages import strict_schema

SAMPLING = SamplingConfig()
TEXT = '{"word": "a"}'
MESSAGE = {"role": "assistant", "content": TEXT}
CHOICE = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
_WAIT_AN_HOUR = Answer(status=429, headers={"Retry-After": "3600"})
_NO_MONEY = Answer(status=429, error={"message": "no money", "code": "insufficient_quota"})
SILENT = Answer(delay_seconds=600)
SHORT = {"timeout_seconds": 0.2}
NO_REPLY = (EndpointUnreachableError, "no_reply")
NO_QUOTA = (EndpointAccessError, "quota_used_up")
ESTIMATED = (2, 4)  # of word-N and TEXT, at 0.3 tokens per character
COUNTED = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@pytest.fixture(autouse=True)
def few_and_early_retries(monkeypatch):
    """Two retries, the first one after 20 ms unless the endpoint asks for another delay."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    monkeypatch.setattr("xrec.text.endpoint.MAX_RETRIES", 2)


def _asked(
    behave: Callable[[Asked], Answer], number: int, how: SamplingConfig = SAMPLING, **model: Any
) -> tuple[StubEndpoint, list[Reply[Said]]]:
    """Send this many prompts; return the endpoint, and the replies in the order of the prompts."""
    with stub_endpoint(behave) as stub:
        found = ask(endpoint_model(stub, **model), prompts(number), how)
        replies = sorted(found, key=lambda reply: reply.index)
    assert [reply.index for reply in replies] == list(range(number))
    return stub, replies


def _words(replies: list[Reply[Said]]) -> list[str]:
    return [reply.value.word for reply in replies if reply.value is not None]


def test_endpoint_that_fails_now_and_then_loses_no_reply():
    def behave(asked: Asked) -> Answer:
        number = int(asked.words.removeprefix("word-"))
        if asked.num_before < number % 3:
            return [
                Answer(status=500),
                Answer(status=429, headers={"Retry-After": "0.1"}),
                Answer(text="x" * 5000, is_cut=True),
                Answer(status=503),
            ][number % 4]
        return Answer(text=right(asked).text, delay_seconds=number % 5 / 100)

    stub, replies = _asked(behave, 30, concurrency=6)
    assert _words(replies) == [f"word-{place}" for place in range(30)]
    assert len(stub.asked) == 30 + 10 * 1 + 10 * 2
    assert sum(reply.usage.num_requests for reply in replies) == len(stub.asked)
    assert stub.most_at_once <= 6


def test_endpoint_limits_the_rate_of_all_requests_including_retries():
    def behave(asked: Asked) -> Answer:
        return Answer(status=500) if asked.num_before < 1 else right(asked)

    make, limiter = Mock(), AsyncMock()
    make.return_value = limiter
    with stub_endpoint(behave) as stub:
        config = endpoint_config(stub, requests_per_minute=3000, concurrency=50)
        replies = list(
            ask(EndpointModel(config, Endpoint(config, KEY, limiter=make)), prompts(20), SAMPLING)
        )
    assert len(_words(replies)) == 20
    assert make.mock_calls[0] == call(1, 60 / 3000)
    assert limiter.acquire.await_count == len(stub.asked) == 40


@pytest.mark.parametrize(
    ("answer", "settings", "error", "code", "saw", "most_asked"),
    [
        (Answer(status=503), {}, *NO_REPLY, "endpoint_error", 12),
        (_WAIT_AN_HOUR, {}, *NO_REPLY, "rate_limited", 4),
        (SILENT, SHORT, *NO_REPLY, "timeout", 12),
        (_NO_MONEY, {}, *NO_QUOTA, "insufficient_quota", 12),
        (Answer(status=402), {}, *NO_QUOTA, 402, 4),
        (Answer(status=404), {}, EndpointError, "no_such_model", "stub", 4),
    ],
    ids=["busy", "wait", "silent", "quota", "balance", "model"],
)
def test_endpoint_without_any_answer_ends_the_run(answer, settings, error, code, saw, most_asked):
    with stub_endpoint(lambda asked: answer) as stub, raises(error, code, saw=saw):
        list(ask(endpoint_model(stub, concurrency=4, **settings), prompts(50), SAMPLING))
    assert len(stub.asked) <= most_asked


@pytest.mark.parametrize("status", [401, 403])
def test_endpoint_that_refuses_the_key_ends_the_run_at_once_without_showing_the_key(status, caplog):
    caplog.set_level(logging.DEBUG)
    key = KEY.get_secret_value()
    refusal = Answer(status=status, error={"message": f"Incorrect API key provided: {key}"})
    with stub_endpoint(lambda asked: refusal) as stub:
        model = endpoint_model(stub, concurrency=3)
        with raises(EndpointAccessError, "key_refused", "OPENAI_API_KEY", status) as raised:
            list(ask(model, prompts(100), SAMPLING))
    assert len(stub.asked) <= 3
    assert stub.asked[0].headers["authorization"] == f"Bearer {key}"
    error = raised.value
    assert error.__cause__ is error.__context__ is None
    assert key not in "".join([str(error), repr(error), caplog.text, repr(vars(model))])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def _refuses(**error: Any) -> Answer:
    return Answer(status=400, error=error)


def test_endpoint_fails_only_the_prompts_that_it_does_not_answer():
    failing = [
        (_refuses(message=f"no, {KEY.get_secret_value()}"), "bad_request", 1, "no, (key)"),
        (_refuses(why=["odd"]), "bad_request", 1, "'why': ['odd']"),
        (_refuses(message="long", code="context_length_exceeded"), "prompt_too_long", 1, "long"),
        (Answer(status=500), "endpoint_error", 3, "500"),
        (SILENT, "timeout", 3, "no answer within 0.5 s"),
        (Answer(text="x" * 5000, is_cut=True), "unreachable", 3, "the connection failed: "),
    ]

    def behave(asked: Asked) -> Answer:
        number = int(asked.words.removeprefix("word-"))
        return failing[number][0] if number < len(failing) else right(asked)

    _, replies = _asked(behave, 40, concurrency=8, timeout_seconds=0.5)
    assert [reply.failure is None for reply in replies] == [False] * len(failing) + [True] * 34
    for reply, (_, reason, num_requests, said) in zip(replies, failing, strict=False):
        assert (reply.failure.reason, reply.usage.num_requests) == (reason, num_requests)
        assert said in reply.failure.message


def test_endpoint_request_has_schema_sampling_and_extra_fields_except_null_ones():
    sampling = SamplingConfig(max_tokens=33, temperature=0.5)
    body = _asked(right, 1, sampling, extra={"reasoning_effort": "low"})[0].asked[0].body
    schema = strict_schema(Said, with_lengths=False)
    assert body["response_format"]["json_schema"]["schema"] == schema
    sent = {"max_completion_tokens": 33, "temperature": 0.5, "seed": 0, "model": "stub"}
    sent |= {"reasoning_effort": "low"}
    assert {name: body[name] for name in sent} == sent
    assert "top_p" not in body
    extra = {"max_completion_tokens": None, "max_tokens": 44, "seed": None}
    body = _asked(right, 1, SamplingConfig(temperature=None), extra=extra)[0].asked[0].body
    assert body["max_tokens"] == 44
    assert {"max_completion_tokens", "seed", "temperature"}.isdisjoint(body)


def test_endpoint_without_structured_output_gets_the_schema_in_words():
    stub, replies = _asked(lambda asked: Answer(text=TEXT), 1, structured_output="prompt")
    assert _words(replies) == ["a"]
    assert "response_format" not in stub.asked[0].body
    assert '"required": ["word"]' in stub.asked[0].words


def test_endpoint_sends_no_more_prompts_once_the_caller_stops():
    slow = Answer(text=TEXT, delay_seconds=0.05)
    with stub_endpoint(lambda asked: slow) as stub:
        replies = endpoint_model(stub, concurrency=2).write(prompts(100), SAMPLING)
        next(replies)
        replies.close()
        while stub.num_at_once:  # requests in progress end, and no others come
            time.sleep(0.01)
        assert len(stub.asked) <= 6


def test_endpoint_frees_a_slot_only_after_the_caller_has_kept_the_reply():
    num_kept, num_ahead = 0, list[int]()

    def behave(asked: Asked) -> Answer:
        num_ahead.append(len(stub.asked) - num_kept)
        return right(asked)

    with stub_endpoint(behave) as stub:
        for _ in endpoint_model(stub, concurrency=3).write(prompts(20), SAMPLING):
            while len(stub.asked) < min(20, num_kept + 3):  # all slots are in use
                time.sleep(0.001)
            num_kept += 1
    assert len(num_ahead) == 20
    assert max(num_ahead) <= 3 + 1  # a reply counts as kept when the next one is requested


def test_endpoint_calls_in_threads_share_the_slots():
    with (
        stub_endpoint(lambda asked: Answer(text=right(asked).text, delay_seconds=0.02)) as stub,
        ThreadPoolExecutor(4) as pool,
    ):
        model = endpoint_model(stub, concurrency=3)
        calls = [pool.submit(lambda: list(ask(model, prompts(10), SAMPLING))) for _ in range(4)]
        assert [len(_words(call.result())) for call in calls] == [10] * 4
    assert stub.most_at_once <= 3


def test_endpoint_key_comes_from_its_variable_or_raises_an_error_that_names_it():
    config = EndpointModelConfig(kind="endpoint", model="m", api_key_variable="SHOP_KEY")
    with raises(ConfigError, "key_missing", key="SHOP_KEY"):
        endpoint_key(config, {"OPENAI_API_KEY": "other"})
    key = endpoint_key(config, {"SHOP_KEY": " sk-1 "})
    assert key.get_secret_value() == "sk-1"
    assert endpoint_key(config.model_copy(update={"api_key_variable": None}), {}) is None


@pytest.mark.parametrize("url", ["https://user:word@host/v1", "https://host/v1?key=secret", "host"])
def test_endpoint_config_refuses_a_url_that_may_contain_a_secret(url):
    with pytest.raises(ValidationError) as raised:
        EndpointModelConfig(kind="endpoint", model="m", base_url=url)
    assert "secret" not in str(raised.value)
    assert "word@" not in str(raised.value)


# Answers that servers and routers send with status 200.


def _body(choice: object = CHOICE, usage: object = COUNTED) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}


def _saying(content: object) -> dict[str, Any]:
    return _body({**CHOICE, "message": {**MESSAGE, "content": content}})


def _replies(bodies: Sequence[object], *, num_times: int = 100) -> list[Reply[Said]]:
    """Send a prompt per body; its first `num_times` answers are the body."""

    def behave(asked: Asked) -> Answer:
        body = bodies[int(asked.body["messages"][0]["content"].removeprefix("word-"))]
        return Answer(body=json.dumps(body)) if asked.num_before < num_times else right(asked)

    return _asked(behave, len(bodies))[1]


def test_answer_without_a_message_is_requested_again():
    failed = {"error": {"message": "the provider failed", "code": 502}}
    bodies = [failed, _body({**CHOICE, "message": None}), _body(None), _saying({"word": "a"})]
    bodies += [{**_body(), "choices": None}, [], "words", None]
    replies = _replies(bodies, num_times=1)
    assert _words(replies) == [f"word-{number}" for number in range(len(bodies))]
    assert [reply.usage.num_requests for reply in replies] == [2] * len(bodies)


def test_answer_in_parts_is_the_text_of_its_text_parts():
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": '{"word": "no"}'}]},
        {"type": "thinking", "text": '{"word": "no"}'},
        {"type": "text", "text": None},
        {"type": "text", "text": TEXT[:5]},
        "words",
        {"type": "text", "text": TEXT[5:]},
    ]
    (reply,) = _replies([_saying(parts)])
    assert (reply.value, reply.raw) == (Said(word="a"), TEXT)


def test_answer_without_a_text_fails_with_a_reason():
    cases = [
        (_body({**CHOICE, "message": None}), "broken_response", "a message in its first choice"),
        (_saying(None), "empty_reply", ""),
        (_body({**CHOICE, "finish_reason": "content_filter"}), "refused", "its content filter"),
        (_body({**CHOICE, "message": {**MESSAGE, "refusal": "No way."}}), "refused", "No way"),
    ]
    replies = _replies([body for body, *_ in cases])
    assert [reply.failure.reason for reply in replies] == [reason for _, reason, _ in cases]
    for reply, (*_, words) in zip(replies, cases, strict=True):
        assert words in reply.failure.message


def test_answer_usage_is_an_estimate_where_the_endpoint_does_not_count():
    cases = [
        (COUNTED, (11, 7)),
        (None, ESTIMATED),
        ({"prompt_tokens": 11, "total_tokens": 11}, (11, ESTIMATED[1])),
        ({"prompt_tokens": None, "completion_tokens": 7}, (ESTIMATED[0], 7)),
        ({"prompt_tokens": "many", "completion_tokens": -1}, ESTIMATED),
    ]
    found = [reply.usage for reply in _replies([_body(usage=usage) for usage, _ in cases])]
    counts = [(usage.num_prompt_tokens, usage.num_reply_tokens) for usage in found]
    assert counts == [expected for _, expected in cases]
