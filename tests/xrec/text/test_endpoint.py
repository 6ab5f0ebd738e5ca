"""Replies of an endpoint that is slow, busy, broken or silent: nothing is lost, nothing storms."""

import logging
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError

from tests.xrec.text.asked import KEY, endpoint_config, endpoint_model, prompts, right
from tests.xrec.text.stub_endpoint import Answer, Asked, stub_endpoint
from xrec.config.text import EndpointModelConfig, SamplingConfig
from xrec.errors import (
    ConfigError,
    EndpointAccessError,
    EndpointError,
    EndpointModelError,
    EndpointUnreachableError,
)
from xrec.text import Reply, ask, endpoint_key
from xrec.text.endpoint import EndpointModel

SAMPLING = SamplingConfig()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The openai client waits for 20 ms at first, where it has no Retry-After."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)


def _words(replies: list[Reply]) -> list[str]:
    """The words of valid replies, in the order of the prompts; each prompt has one reply."""
    assert sorted(reply.index for reply in replies) == list(range(len(replies)))
    assert all(reply.failure is None for reply in replies)
    return [reply.value.word for reply in sorted(replies, key=lambda reply: reply.index)]


def _failures(replies: list[Reply]) -> list[tuple[int, str]]:
    return [(each.index, each.failure.reason) for each in replies if each.failure is not None]


def test_endpoint_with_all_kinds_of_trouble_loses_nothing() -> None:
    def behave(asked: Asked) -> Answer:
        number = int(asked.words.removeprefix("word-"))
        if asked.num_before < number % 3:
            return [
                Answer(status=500),
                Answer(status=429, headers={"Retry-After": "0.2"}),
                Answer(text="x" * 5000, is_cut=True),
                Answer(status=503),
                Answer(delay_seconds=3.0),
            ][number % 5]
        return Answer(text=right(asked).text, delay_seconds=number % 5 / 100)

    with stub_endpoint(behave) as stub:
        with endpoint_model(stub, timeout_seconds=1.0, concurrency=6) as model:
            replies = list(ask(model, prompts(60), SAMPLING))
        assert _words(replies) == [f"word-{place}" for place in range(60)]
        assert len(stub.asked) == 60 + 20 * 1 + 20 * 2
        assert sum(reply.usage.num_requests for reply in replies) == len(stub.asked)
        assert stub.most_at_once <= 6


def test_endpoint_rate_keeps_requests_apart_repeated_ones_too() -> None:
    def behave(asked: Asked) -> Answer:
        return Answer(status=500) if asked.num_before < 1 else right(asked)

    with stub_endpoint(behave) as stub:
        with endpoint_model(stub, requests_per_minute=3000, concurrency=50) as model:
            assert len(_words(list(ask(model, prompts(40), SAMPLING)))) == 40
        times = stub.times()
        assert len(times) == 80
        assert times[-1] - times[0] >= 78 * 60 / 3000


def test_endpoint_rate_of_tokens_waits_for_those_of_replies() -> None:
    with stub_endpoint(right) as stub:
        with endpoint_model(stub, tokens_per_minute=9 * 10 * 60, concurrency=4) as model:
            started_at = time.monotonic()
            assert len(_words(list(ask(model, prompts(30), SAMPLING)))) == 30
        assert time.monotonic() - started_at >= 0.9 * 20 / 10  # ten are within the first second


@pytest.mark.parametrize(
    ("answer", "settings", "error", "words", "most_asked"),
    [
        (Answer(status=503), {"max_retries": 2}, EndpointUnreachableError, "no reply.*503 no", 12),
        (
            Answer(status=429, headers={"Retry-After": "3600"}),
            {},
            EndpointUnreachableError,
            "no reply.*429",
            4,
        ),
        (
            Answer(delay_seconds=5),
            {"max_retries": 1, "timeout_seconds": 0.2},
            EndpointUnreachableError,
            r"no answer within 0\.2 s",
            8,
        ),
        (
            Answer(status=429, error={"message": "no money", "code": "insufficient_quota"}),
            {"max_retries": 0},
            EndpointAccessError,
            "quota",
            4,
        ),
        (Answer(status=402), {}, EndpointAccessError, r"OPENAI_API_KEY is used up \(402\)", 4),
        (
            Answer(status=404, error={"message": "The model does not exist"}),
            {},
            EndpointModelError,
            "no model 'stub' there",
            4,
        ),
        (
            Answer(status=400, error={"message": "unknown field response_format"}),
            {},
            EndpointError,
            "refused the first 8 prompts .400 unknown field response_format",
            12,
        ),
    ],
    ids=["busy", "wait", "silent", "quota", "balance", "model", "refuses"],
)
def test_endpoint_that_answers_nobody_ends_the_run_and_is_not_stormed(
    answer: Answer,
    settings: dict[str, Any],
    error: type[EndpointError],
    words: str,
    most_asked: int,
) -> None:
    with stub_endpoint(lambda asked: answer) as stub:
        with (
            endpoint_model(stub, concurrency=4, **settings) as model,
            pytest.raises(error, match=words),
        ):
            list(ask(model, prompts(50), SAMPLING))
        assert len(stub.asked) <= most_asked


def test_endpoint_that_is_not_there_ends_the_run() -> None:
    with stub_endpoint(right) as stub:
        config = endpoint_config(stub, max_retries=1)
    with (
        EndpointModel(config, KEY) as model,
        pytest.raises(EndpointUnreachableError, match="the connection failed"),
    ):
        list(ask(model, prompts(3), SAMPLING))


@pytest.mark.parametrize("status", [401, 403])
def test_endpoint_that_refuses_the_key_ends_the_run_at_once_and_nobody_sees_the_key(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = KEY.get_secret_value()
    refusal = Answer(status=status, error={"message": f"Incorrect API key provided: {key}"})
    with stub_endpoint(lambda asked: refusal) as stub:
        with (
            endpoint_model(stub, concurrency=3) as model,
            pytest.raises(EndpointAccessError, match="OPENAI_API_KEY") as raised,
        ):
            list(ask(model, prompts(100), SAMPLING))
        assert len(stub.asked) <= 3
        assert stub.asked[0].headers["authorization"] == f"Bearer {key}"
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    seen = [str(raised.value), repr(raised.value), caplog.text, repr(vars(model))]
    assert not [text for text in seen if key in text]
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize(
    ("error", "reason", "said"),
    [
        ({"message": f"no field, {KEY.get_secret_value()}"}, "bad_request", "400 no field, (key)"),
        ({"detail": "too odd"}, "bad_request", "400 too odd"),
        ({"why": ["odd"]}, "bad_request", '400 {"why": ["odd"]}'),
        ({"message": "long", "code": "context_length_exceeded"}, "prompt_too_long", "400 long"),
    ],
)
def test_endpoint_prompt_that_is_refused_fails_alone_with_the_endpoints_words(
    error: dict[str, Any], reason: str, said: str
) -> None:
    def behave(asked: Asked) -> Answer:
        return Answer(status=400, error=error) if asked.words == "word-1" else right(asked)

    with stub_endpoint(behave) as stub, endpoint_model(stub) as model:
        replies = list(ask(model, prompts(4), SAMPLING))
    assert _failures(replies) == [(1, reason)]
    assert [each.failure.message for each in replies if each.failure] == [said]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=500), "endpoint_error"),
        (Answer(status=429), "rate_limited"),
        (Answer(delay_seconds=1), "timeout"),
        (Answer(text="x" * 5000, is_cut=True), "unreachable"),
    ],
)
def test_endpoint_prompt_that_always_fails_fails_alone_while_others_have_replies(
    answer: Answer, reason: str
) -> None:
    def behave(asked: Asked) -> Answer:
        return answer if asked.words == "word-0" else right(asked)

    with (
        stub_endpoint(behave) as stub,
        endpoint_model(stub, concurrency=2, max_retries=2, timeout_seconds=0.3) as model,
    ):
        replies = list(ask(model, prompts(12), SAMPLING))
    assert _failures(replies) == [(0, reason)]
    assert len(replies) == 12
    assert sum(each.usage.num_requests for each in replies) == 11 + 3


def test_endpoint_request_has_schema_sampling_and_extra_fields() -> None:
    with (
        stub_endpoint(right) as stub,
        endpoint_model(
            stub,
            extra={"reasoning_effort": "low", "max_completion_tokens": None, "max_tokens": 44},
        ) as model,
    ):
        list(ask(model, prompts(1), SamplingConfig(max_tokens=33, temperature=0.5, seed=9)))
    body = stub.asked[0].body
    assert body["response_format"]["json_schema"]["schema"] == {
        "description": "The object that a reply is to hold.",
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
        "additionalProperties": False,
    }
    sent = {"max_tokens": 44, "temperature": 0.5, "seed": 9, "model": "stub"}
    assert {name: body[name] for name in sent} == sent
    assert body["reasoning_effort"] == "low"
    assert {"top_p", "max_completion_tokens"}.isdisjoint(body)


def test_endpoint_without_structured_output_gets_the_schema_in_words() -> None:
    with (
        stub_endpoint(lambda asked: Answer(text='{"word": "w"}')) as stub,
        endpoint_model(stub, structured_output="prompt") as model,
    ):
        assert _words(list(ask(model, prompts(1), SAMPLING))) == ["w"]
    assert "response_format" not in stub.asked[0].body
    assert '"required": ["word"]' in stub.asked[0].words


def test_endpoint_replies_that_are_no_longer_wanted_are_not_asked_for() -> None:
    slow = Answer(text='{"word": "w"}', delay_seconds=0.05)
    with stub_endpoint(lambda asked: slow) as stub, endpoint_model(stub, concurrency=2) as model:
        replies = model.write(prompts(100), SAMPLING)
        next(replies)
        replies.close()
        time.sleep(0.3)
        assert len(stub.asked) <= 6


def test_endpoint_asks_only_as_many_as_there_are_places_until_the_caller_has_kept_replies() -> None:
    with stub_endpoint(right) as stub, endpoint_model(stub, concurrency=3) as model:
        for number, _ in enumerate(model.write(prompts(20), SAMPLING), start=1):
            time.sleep(0.02)
            assert len(stub.asked) <= number - 1 + 3
    assert len(stub.asked) == 20


def test_endpoint_calls_in_threads_share_the_places() -> None:
    with (
        stub_endpoint(lambda asked: Answer(text=right(asked).text, delay_seconds=0.02)) as stub,
        endpoint_model(stub, concurrency=3) as model,
        ThreadPoolExecutor(4) as pool,
    ):
        calls = [pool.submit(lambda: list(ask(model, prompts(10), SAMPLING))) for _ in range(4)]
        assert [len(_words(call.result())) for call in calls] == [10] * 4
    assert stub.most_at_once <= 3


def test_endpoint_key_that_is_not_set_is_an_error_that_names_the_variable() -> None:
    config = EndpointModelConfig(kind="endpoint", model="m", api_key_variable="SHOP_KEY")
    with pytest.raises(ConfigError, match="SHOP_KEY"):
        endpoint_key(config, {"OPENAI_API_KEY": "other"})
    key = endpoint_key(config, {"SHOP_KEY": " sk-1 "})
    assert key is not None
    assert key.get_secret_value() == "sk-1"
    assert endpoint_key(config.model_copy(update={"api_key_variable": None}), {}) is None


@pytest.mark.parametrize(
    "url", ["https://user:word@host/v1", "https://host/v1?key=secret", "host/v1", "ftp://host"]
)
def test_endpoint_config_with_a_url_that_may_hold_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValidationError) as raised:
        EndpointModelConfig(kind="endpoint", model="m", base_url=url)
    assert "secret" not in str(raised.value)
    assert "word@" not in str(raised.value)
