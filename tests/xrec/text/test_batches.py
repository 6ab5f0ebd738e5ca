"""Batch files: each request is answered or has a typed failure, and none is in two batches."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises
from tests.world.endpoint import Answer, Asked, StubEndpoint, stub_endpoint
from tests.world.program import wait_until
from tests.xrec.text.asked import KEY, Said, endpoint_config, prompts, right
from xrec.config import SamplingConfig
from xrec.errors import EndpointError
from xrec.storage import open_location
from xrec.text import Reply, ask
from xrec.text.endpoint import Endpoint, EndpointModel


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("xrec.text.batches.QUIET_SECONDS", 0.2)
    monkeypatch.setattr("xrec.text.batches.POLL_SECONDS", 0.02)


def _model(stub: StubEndpoint, folder: Path, **values: Any) -> EndpointModel:
    config = endpoint_config(stub, **{"batch": True, "concurrency": 100, **values})
    return EndpointModel(config, Endpoint(config, KEY, open_location(str(folder))))


def _asked(
    behave: Callable[[Asked], Answer], number: int, folder: Path, **values: Any
) -> tuple[StubEndpoint, list[Reply[Said]]]:
    with stub_endpoint(behave) as stub:
        replies = list(ask(_model(stub, folder, **values), prompts(number), SamplingConfig()))
    return stub, sorted(replies, key=lambda reply: reply.index)


def test_requests_are_sent_in_batches_of_the_given_size(tmp_path):
    stub, replies = _asked(right, 25, tmp_path, concurrency=10)
    assert [reply.value.word for reply in replies] == [f"word-{n}" for n in range(25)]
    assert len(stub.asked) == 25
    assert len(stub.batches) == 3
    assert (stub.batches[0]["endpoint"], len(stub.batches[0]["metadata"]["xrec"])) == (
        "/v1/chat/completions",
        32,
    )
    assert stub.asked[0].body["response_format"]["type"] == "json_schema"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_lines_that_fail_expire_or_are_broken_have_typed_failures(tmp_path):
    def behave(asked: Asked) -> Answer:
        number = int(asked.words.removeprefix("word-"))
        bad = [Answer(status=0), Answer(body="{not json"), Answer(status=400), Answer(status=500)]
        return bad[number] if number < 4 else right(asked)

    with stub_endpoint(behave) as stub:
        stub.ended_as = "expired"
        found = ask(_model(stub, tmp_path), prompts(8), SamplingConfig())
        replies = sorted(found, key=lambda reply: reply.index)
    reasons = [reply.failure and reply.failure.reason for reply in replies]
    assert reasons == ["expired", "expired", "bad_request", "endpoint_error", *[None] * 4]


def test_batch_that_is_refused_ends_the_run(tmp_path):
    with stub_endpoint(right) as stub, raises(EndpointError, "batch_refused", "model"):
        stub.ended_as = "failed"
        list(ask(_model(stub, tmp_path), prompts(3), SamplingConfig()))


def test_line_whose_model_does_not_exist_ends_the_run(tmp_path):
    with raises(EndpointError, "no_such_model"):
        _asked(lambda _: Answer(status=404), 3, tmp_path)


def test_process_that_starts_after_a_death_waits_for_the_batch_in_progress(tmp_path):
    with stub_endpoint(right) as stub:
        stub.holds_batches = True

        dead = _model(stub, tmp_path)
        work = ask(dead, prompts(5), SamplingConfig())
        threading.Thread(target=lambda: next(work), daemon=True).start()
        wait_until(lambda: len(stub.batches) == 1)
        loop = dead._endpoint._loop
        loop.call_soon_threadsafe(loop.stop)
        wait_until(lambda: not loop.is_running())
        model = _model(stub, tmp_path)
        stub.holds_batches = False
        replies = list(ask(model, prompts(6), SamplingConfig()))
    assert sorted(reply.value.word for reply in replies) == [f"word-{n}" for n in range(6)]
    assert sorted(asked.words for asked in stub.asked) == [f"word-{n}" for n in range(6)]
    assert len(stub.batches) == 2
