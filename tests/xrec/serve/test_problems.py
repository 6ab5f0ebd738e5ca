"""The middleware of Serve's proxy: only a request without any answer gets one, 503."""

import asyncio
import json
from typing import Any

from xrec.serve.problems import middlewares

SCOPE = {"type": "http", "headers": [(b"x-request-id", b"abc-1")]}


def sent_by(scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages that reach the client if the proxy sends `messages`."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def send(message: Any) -> None:
        sent.append(message)

    (middleware,) = middlewares()
    asyncio.run(middleware.cls(app)(scope, None, send))
    return sent


def test_answer_that_never_began_is_503_with_retry_after():
    start, body = sent_by(SCOPE)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert start["status"] == 503
    assert (headers["retry-after"], headers["x-request-id"]) == ("2", "abc-1")
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body["body"])["type"] == "/problems/model_unavailable"


def test_answer_that_began_is_let_through():
    messages = [
        {"type": "http.response.start", "status": 500, "headers": []},
        {"type": "http.response.body", "body": b"x", "more_body": True},
    ]
    assert sent_by(SCOPE, *messages) == messages  # this answer breaks off
    assert sent_by({"type": "lifespan"}) == []
