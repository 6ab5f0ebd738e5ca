"""Replies of an endpoint that is slow, busy, broken or silent: nothing is lost, nothing storms."""

import logging
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

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
from xrec.text import EndpointModel, Reply, ReplyFailure, ask, endpoint_key
from xrec.text.faults import retry_after

SAMPLING = SamplingConfig()


def _words(replies: list[Reply]) -> list[str]:
    """The words of valid replies, in the order of the prompts; each prompt has one reply."""
    assert sorted(reply.index for reply in replies) == list(range(len(replies)))
    assert all(reply.failure is None for reply in replies)
    return [reply.value.word for reply in sorted(replies, key=lambda reply: reply.index)]


def test_endpoint_with_all_kinds_of_trouble_loses_nothing() -> None:
    def behave(asked: Asked) -> Answer:
        number = int(asked.words.removeprefix("word-"))
        if asked.num_before < number % 3:
            return [
                Answer(status=500),
                Answer(status=429, headers={"Retry-After": "0.2"}),
                Answer(body='{"choices": [{"mess'),
                Answer(text="x" * 5000, is_cut=True),
                Answer(body="<html>busy</html>"),
                Answer(status=503),
                Answer(delay_seconds=7.0),
            ][number % 7]
        return Answer(text=right(asked).text, delay_seconds=number % 5 / 100)

    with stub_endpoint(behave) as stub:
        with endpoint_model(stub, timeout_seconds=3.0, concurrency=6) as model:
            replies = list(ask(model, prompts(84), SAMPLING))
        assert _words(replies) == [f"word-{place}" for place in range(84)]
        assert len(stub.asked) == 84 + 28 * 1 + 28 * 2
        assert sum(reply.usage.num_requests for reply in replies) == len(stub.asked)
        assert stub.most_at_once <= 6


def test_endpoint_rate_keeps_requests_at_a_distance_repeated_ones_too() -> None:
    def behave(asked: Asked) -> Answer:
        return Answer(status=500) if asked.num_before < 1 else right(asked)

    with stub_endpoint(behave) as stub:
        with endpoint_model(stub, requests_per_minute=3000, concurrency=50) as model:
            replies = list(ask(model, prompts(40), SAMPLING))
        assert len(_words(replies)) == 40
        times = stub.times()
        assert len(times) == 80
        # Distances are those of sending; arrivals are up to the machine. test_limiter has the rest.
        assert times[-1] - times[0] >= 78 * 60 / 3000


def test_endpoint_retry_after_holds_back_all_requests() -> None:
    def behave(asked: Asked) -> Answer:
        if asked.words == "word-3" and not asked.num_before:
            return Answer(status=429, headers={"Retry-After": "1"})
        return Answer(text=right(asked).text, delay_seconds=0.05)

    with stub_endpoint(behave) as stub:
        with endpoint_model(stub, concurrency=2) as model:
            replies = list(ask(model, prompts(30), SAMPLING))
        assert len(_words(replies)) == 30
        longest = max(after - before for before, after in pairwise(stub.times()))
        assert longest >= 0.9


def test_endpoint_that_is_always_busy_is_not_stormed_and_ends_the_run() -> None:
    with stub_endpoint(lambda asked: Answer(status=503), lists_models=503) as stub:
        with (
            endpoint_model(stub, concurrency=4, deadline_seconds=2.0) as model,
            pytest.raises(EndpointUnreachableError, match=r"no reply for 2 s.* 503 no"),
        ):
            list(ask(model, prompts(200), SAMPLING))
        # Waits of at least 25, 50, 100 ms, ... leave at most 8 requests in 2 s to each of 4 places.
        assert len(stub.asked) <= 4 * 8


def test_endpoint_that_is_not_there_ends_the_run() -> None:
    with stub_endpoint(right) as stub:
        config = endpoint_config(stub, deadline_seconds=0.5)
    with (
        EndpointModel(config, KEY) as model,
        pytest.raises(EndpointUnreachableError, match="the connection failed"),
    ):
        list(ask(model, prompts(3), SAMPLING))


def test_endpoint_that_was_never_reached_is_not_tried_for_as_long_as_one_in_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xrec.text.patient_client._UNREACHED_SECONDS", 0.4)
    with stub_endpoint(right) as stub:
        config = endpoint_config(stub, deadline_seconds=3600)
    with (
        EndpointModel(config, KEY) as model,
        pytest.raises(EndpointUnreachableError, match=r"no reply for 0\.4 s"),
    ):
        list(ask(model, prompts(3), SAMPLING))


def test_endpoint_rate_of_tokens_keeps_requests_apart() -> None:
    with stub_endpoint(right) as stub:
        with endpoint_model(stub, tokens_per_minute=18 * 20 * 60, concurrency=8) as model:
            replies = list(ask(model, prompts(30), SamplingConfig(max_tokens=16)))
        assert len(_words(replies)) == 30
        times = stub.times()
        assert times[-1] - times[0] >= 0.8 * 29 / 20  # estimates of the first ones are too low


def test_endpoint_that_asks_to_wait_for_an_hour_ends_the_run() -> None:
    busy = Answer(status=429, headers={"Retry-After": "3600"})
    with (
        stub_endpoint(lambda asked: busy) as stub,
        endpoint_model(stub) as model,
        pytest.raises(EndpointUnreachableError, match=r"alone for 3600 s"),
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


def test_endpoint_that_repeats_the_key_in_another_error_does_not_get_it_into_the_failure() -> None:
    key = KEY.get_secret_value()

    def behave(asked: Asked) -> Answer:
        if asked.words == "word-1":
            return Answer(status=400, error={"message": f"no such field, {key}"})
        return right(asked)

    with stub_endpoint(behave) as stub, endpoint_model(stub) as model:
        failures = [
            reply.failure for reply in ask(model, prompts(3), SAMPLING) if reply.failure is not None
        ]
    assert [failure.reason for failure in failures] == ["bad_request"]
    assert failures[0].message == "400 no such field, (key)"


def test_endpoint_whose_quota_is_used_up_ends_the_run() -> None:
    answer = Answer(status=429, error={"message": "no money", "code": "insufficient_quota"})
    with (
        stub_endpoint(lambda asked: answer) as stub,
        endpoint_model(stub) as model,
        pytest.raises(EndpointAccessError, match="quota"),
    ):
        list(ask(model, prompts(3), SAMPLING))


def test_endpoint_whose_balance_runs_out_ends_the_run_at_once_and_fails_no_prompt() -> None:
    def behave(asked: Asked) -> Answer:
        if int(asked.words.removeprefix("word-")) < 3:
            return right(asked)
        key = KEY.get_secret_value()
        return Answer(status=402, error={"message": f"no balance of {key}", "code": key})

    with stub_endpoint(behave) as stub:
        replies: list[Reply] = []
        with (
            endpoint_model(stub, concurrency=1) as model,
            pytest.raises(EndpointAccessError, match=r"OPENAI_API_KEY is used up \(402\)"),
        ):
            replies.extend(ask(model, prompts(30), SAMPLING))
        assert len(stub.asked) == 4
    assert all(reply.failure is None for reply in replies)


def test_endpoint_without_the_model_ends_the_run_at_once() -> None:
    answer = Answer(status=404, error={"message": "The model does not exist"})
    with stub_endpoint(lambda asked: answer) as stub:
        with (
            endpoint_model(stub, concurrency=2) as model,
            pytest.raises(EndpointModelError, match="no model 'stub' there"),
        ):
            list(ask(model, prompts(50), SAMPLING))
        assert len(stub.asked) <= 2


def test_endpoint_that_refuses_whatever_comes_ends_the_run() -> None:
    answer = Answer(status=400, error={"message": "unknown field response_format"})
    with stub_endpoint(lambda asked: answer) as stub:
        with (
            endpoint_model(stub, concurrency=2) as model,
            pytest.raises(EndpointError, match="unknown field response_format"),
        ):
            list(ask(model, prompts(50), SAMPLING))
        assert len(stub.asked) <= 8 + 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"message": "too odd"}, "400 too odd"),
        ({"detail": "too odd"}, "400 too odd"),
        ({"why": ["odd"]}, '400 {"why": ["odd"]}'),
    ],
)
def test_endpoint_refusal_of_a_prompt_has_the_endpoints_words(
    error: dict[str, str], said: str
) -> None:
    answer = Answer(status=400, error=error)
    with stub_endpoint(lambda asked: answer) as stub, endpoint_model(stub) as model:
        replies = list(ask(model, prompts(1), SAMPLING))
    assert replies[0].failure == ReplyFailure("bad_request", said)


def test_endpoint_prompt_that_always_fails_fails_alone() -> None:
    def behave(asked: Asked) -> Answer:
        return Answer(status=500) if asked.words == "word-5" else right(asked)

    with (
        stub_endpoint(behave) as stub,
        endpoint_model(stub, concurrency=1, deadline_seconds=0.5) as model,
    ):
        replies = list(ask(model, prompts(6), SAMPLING))
    failures = {reply.index: reply.failure for reply in replies if reply.failure is not None}
    assert list(failures) == [5]
    assert failures[5].reason == "endpoint_error"
    assert len(replies) == 6


def test_endpoint_prompt_whose_last_request_is_cut_short_fails_for_what_was_said_before() -> None:
    answers = iter([Answer(status=500)])

    def behave(asked: Asked) -> Answer:
        if asked.words != "word-1":
            return right(asked)
        return next(answers, Answer(delay_seconds=1.0))

    with (
        stub_endpoint(behave) as stub,
        endpoint_model(stub, concurrency=1, deadline_seconds=0.5) as model,
    ):
        replies = list(ask(model, prompts(2), SAMPLING))
    failures = [reply.failure.reason for reply in replies if reply.failure is not None]
    assert failures == ["endpoint_error"]


def test_endpoint_prompt_that_is_too_long_fails_with_its_own_reason() -> None:
    error = {"message": "too many tokens", "code": "context_length_exceeded"}

    def behave(asked: Asked) -> Answer:
        return Answer(status=400, error=error) if asked.words == "word-0" else right(asked)

    with stub_endpoint(behave) as stub, endpoint_model(stub) as model:
        replies = list(ask(model, prompts(4), SAMPLING))
    reasons = [reply.failure.reason for reply in replies if reply.failure is not None]
    assert reasons == ["prompt_too_long"]


def test_endpoint_request_has_schema_sampling_and_extra_fields() -> None:
    with (
        stub_endpoint(right) as stub,
        endpoint_model(
            stub, length_parameter="max_tokens", extra={"reasoning_effort": "low"}
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
    assert {name: body[name] for name in ("max_tokens", "temperature", "seed", "model")} == {
        "max_tokens": 33,
        "temperature": 0.5,
        "seed": 9,
        "model": "stub",
    }
    assert body["reasoning_effort"] == "low"
    assert "top_p" not in body


def test_endpoint_without_structured_output_gets_the_schema_in_words() -> None:
    def behave(asked: Asked) -> Answer:
        return Answer(text='{"word": "w"}')

    with (
        stub_endpoint(behave) as stub,
        endpoint_model(stub, structured_output="prompt") as model,
    ):
        assert _words(list(ask(model, prompts(1), SAMPLING))) == ["w"]
    assert "response_format" not in stub.asked[0].body
    assert '"required": ["word"]' in stub.asked[0].words


def test_endpoint_usage_is_what_it_counts_or_an_estimate() -> None:
    def behave(asked: Asked) -> Answer:
        return Answer(text=right(asked).text, has_usage=asked.words == "word-0")

    with stub_endpoint(behave) as stub, endpoint_model(stub) as model:
        usages = {reply.index: reply.usage for reply in ask(model, prompts(2), SAMPLING)}
    assert (usages[0].num_prompt_tokens, usages[0].num_reply_tokens) == (11, 7)
    assert (usages[1].num_prompt_tokens, usages[1].num_reply_tokens) == (6 // 4, 18 // 4)


def test_endpoint_replies_that_are_no_longer_wanted_are_not_asked_for() -> None:
    slow = Answer(text='{"word": "w"}', delay_seconds=0.05)
    with stub_endpoint(lambda asked: slow) as stub, endpoint_model(stub, concurrency=2) as model:
        replies = model.write(prompts(100), SAMPLING)
        next(replies)
        replies.close()
        time.sleep(0.3)
        assert len(stub.asked) <= 6


def test_endpoint_asks_only_as_many_as_there_are_places_before_the_caller_has_kept_replies() -> (
    None
):
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


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Thu, 26 Nov 2026 15:00:30 GMT", 30.0),
        ("Thu, 26 Nov 2026 14:00:00 GMT", 0.0),
        ("soon", None),
        ("inf", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    now = 1_795_705_200.0  # 2026-11-26 15:00:00 UTC
    assert retry_after({"retry-after": value}, now) == seconds
