"""Answers of the forms that servers and routers send with 200: read, or a broken_response."""

import json
from typing import Any

import pytest

from tests.xrec.text.asked import Said, endpoint_model, prompts, right
from tests.xrec.text.stub_endpoint import Answer, Asked, stub_endpoint
from xrec.config.text import SamplingConfig
from xrec.text import Reply, ask

TEXT = '{"word": "a"}'
MESSAGE = {"role": "assistant", "content": TEXT}
CHOICE = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
COUNTED = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def _body(choice: object = CHOICE, usage: object = COUNTED) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}


def _saying(content: object) -> dict[str, Any]:
    return _body({**CHOICE, "message": {**MESSAGE, "content": content}})


def _reply(body: object, *, num_times: int = 100) -> Reply[Said]:
    """What becomes of a prompt whose first answers, `num_times` of them, are `body`.

    Another prompt is answered before it, so the endpoint is known to be there.
    """

    def behave(asked: Asked) -> Answer:
        is_other = asked.body["messages"][0]["content"] == "word-0"
        if is_other or asked.num_before >= num_times:
            return right(asked)
        return Answer(body=json.dumps(body))

    with stub_endpoint(behave) as stub, endpoint_model(stub, concurrency=1) as model:
        replies = {reply.index: reply for reply in ask(model, prompts(2), SamplingConfig())}
    assert replies[0].failure is None
    return replies[1]


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "the provider failed", "code": 502}},
        _body({"finish_reason": "error", "error": {"code": 502}}),
        _body({**CHOICE, "message": None}),
        _body({**CHOICE, "message": TEXT}),
        _body(TEXT),
        _body(None),
        _saying({"word": "a"}),
        _saying(7),
        {**_body(), "choices": {"0": CHOICE}},
        {**_body(), "choices": None},
        [],
        "words",
        None,
    ],
)
def test_answer_without_a_message_is_asked_for_again(body: object) -> None:
    reply = _reply(body, num_times=1)
    assert reply.value == Said(word="word-1")
    assert reply.usage.num_requests == 2


def test_answer_without_a_message_both_times_is_a_broken_response() -> None:
    failure = _reply(_body({**CHOICE, "message": None})).failure
    assert failure is not None
    assert failure.reason == "broken_response"


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "text", "text": TEXT}],
        [{"type": "text", "text": TEXT[:5]}, {"type": "text", "text": TEXT[5:]}],
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": '{"word": "no"}'}]},
            {"type": "thinking", "text": '{"word": "no"}'},
            {"type": "text", "text": None},
            {"type": "text", "text": TEXT},
            "words",
        ],
    ],
    ids=["one", "two", "thoughts"],
)
def test_answer_in_parts_is_the_text_of_those_that_are_text(parts: list[object]) -> None:
    reply = _reply(_saying(parts))
    assert reply.value == Said(word="a")
    assert reply.raw == TEXT


@pytest.mark.parametrize("content", [None, "", []])
def test_answer_without_text_is_an_empty_reply(content: object) -> None:
    failure = _reply(_saying(content)).failure
    assert failure is not None
    assert failure.reason == "empty_reply"


@pytest.mark.parametrize(
    ("usage", "num_prompt_tokens", "num_reply_tokens"),
    [
        (COUNTED, 11, 7),
        (None, 6 // 4, 13 // 4),
        ({}, 6 // 4, 13 // 4),
        ({"prompt_tokens": 11, "total_tokens": 11}, 11, 13 // 4),
        ({"prompt_tokens": None, "completion_tokens": 7}, 6 // 4, 7),
        ({"prompt_tokens": "many", "completion_tokens": -1}, 6 // 4, 13 // 4),
    ],
)
def test_answer_usage_is_an_estimate_where_the_endpoint_does_not_count(
    usage: object, num_prompt_tokens: int, num_reply_tokens: int
) -> None:
    found = _reply(_body(usage=usage)).usage
    assert (found.num_prompt_tokens, found.num_reply_tokens) == (
        num_prompt_tokens,
        num_reply_tokens,
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({**CHOICE, "finish_reason": "content_filter"}, "by its content filter"),
        ({**CHOICE, "message": {**MESSAGE, "refusal": "I would rather not."}}, "rather not"),
    ],
)
def test_answer_of_a_model_that_does_not_want_to_is_refused(
    choice: dict[str, Any], message: str
) -> None:
    failure = _reply(_body(choice)).failure
    assert failure is not None
    assert failure.reason == "refused"
    assert message in failure.message
