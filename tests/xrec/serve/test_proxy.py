"""What Serve's proxy does: bodies are awaited there, and a request without any answer gets 503."""

import asyncio
import json
from typing import Any

import pytest

from tests.xrec.serve.local_endpoint import NotedMetrics
from xrec.serve import proxy
from xrec.serve.proxy import MAX_BODY_BYTES, Proxied, middlewares

SCOPE = {"type": "http", "headers": [(b"x-request-id", b"abc-1")], "client": ("10.0.0.1", 1)}
START = {"type": "http.response.start", "status": 200, "headers": []}
GONE = {"type": "http.disconnect"}


class Client:
    """Sends `messages` through the proxy, which has a frontend that answers with `answer`."""

    def __init__(self, *answer: dict[str, Any]):
        (middleware,) = middlewares()
        assert middleware.cls is Proxied
        self.answer, self.proxied = answer, Proxied(self._frontend)
        self.proxied._metrics = NotedMetrics()
        self.passed_on: list[dict[str, Any]] = []

    async def _frontend(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.passed_on += [await receive(), await receive()]
        for message in self.answer:
            await send(message)

    async def asks(self, *messages: dict[str, Any], **of_scope: Any) -> list[dict[str, Any]]:
        """Return what is answered. After the messages none comes for a long time."""
        coming, sent = [*messages], []

        async def receive() -> dict[str, Any]:
            if not coming:
                await asyncio.sleep(60)
            return coming.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await self.proxied({**SCOPE, **of_scope}, receive, send)
        return sent


def piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def told(sent: list[dict[str, Any]]) -> tuple[int, str]:
    return sent[0]["status"], json.loads(sent[1]["body"])["type"]


def test_answer_that_never_began_is_503_with_retry_after():
    start, body = asyncio.run(Client().asks(piece(b"", False), GONE))
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert (headers["retry-after"], headers["x-request-id"]) == ("2", "abc-1")
    assert headers["content-type"] == "application/problem+json"
    assert told([start, body]) == (503, "/problems/model_unavailable")


@pytest.mark.parametrize("given", [None, "abc-1"])
def test_what_is_refused_here_has_an_id_and_a_client_who_goes_later_is_not_refused(given):
    client = Client()
    headers = [] if given is None else [(b"x-request-id", given.encode())]
    announced = (b"content-length", str(MAX_BODY_BYTES + 1).encode())
    start, body = asyncio.run(client.asks(piece(b""), headers=[*headers, announced]))
    asyncio.run(client.asks(piece(b"", False), GONE, headers=headers))
    shown = dict(start["headers"])[b"x-request-id"].decode()
    assert shown == json.loads(body["body"])["request_id"]
    assert (given or shown) == shown != ""
    assert client.proxied._metrics.values == {("refused", "body"): 1}


def test_answer_that_began_is_let_through():
    messages = [START, {"type": "http.response.body", "body": b"x", "more_body": True}]
    client = Client(*messages)
    assert asyncio.run(client.asks(piece(b"", False), GONE)) == messages  # this answer breaks off
    assert asyncio.run(Client(START).asks(type="lifespan")) == [START]


def test_request_is_passed_on_once_its_body_is_whole_then_what_else_comes():
    client = Client(START)
    assert asyncio.run(client.asks(piece(b"a"), piece(b"b"), piece(b"c", False), GONE)) == [START]
    assert client.passed_on == [piece(b"abc", False), GONE]


def test_bodies_that_are_late_large_or_given_up_reach_no_frontend(monkeypatch):
    monkeypatch.setattr(proxy, "BODY_SECONDS", 0.2)
    client, long = Client(START), str(MAX_BODY_BYTES + 1).encode()

    async def ask() -> list[Any]:
        announced = client.asks(piece(b"{"), headers=[(b"content-length", long)])
        largest = piece(b"x" * MAX_BODY_BYTES)
        late = [await client.asks(piece(b"{")), await client.asks(largest)]
        large = [await client.asks(largest, piece(b"x")), await announced]
        assert await client.asks(piece(b"{"), GONE) == []
        return [*map(told, late), *map(told, large)]

    late, large = (408, "/problems/slow_body"), (413, "/problems/body")
    assert asyncio.run(ask()) == [late, late, large, large]
    assert client.passed_on == []
    refused = client.proxied._metrics.values
    assert refused == {("refused", "slow_body"): 2, ("refused", "body"): 2}


@pytest.mark.parametrize(("most", "from_one", "from_others"), [(4, 2, 0), (3, 1, 2)])
def test_one_address_awaits_half_of_the_bodies(monkeypatch, most, from_one, from_others):
    monkeypatch.setattr(proxy, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(proxy, "MAX_BODIES", most)
    client = Client(START)

    async def ask() -> tuple[list[Any], list[Any]]:
        slow = [asyncio.create_task(client.asks(piece(b"{"))) for _ in range(from_one)]
        slow += [
            asyncio.create_task(client.asks(piece(b"{"), client=(f"10.0.0.{n + 2}", 1)))
            for n in range(from_others)
        ]
        await asyncio.sleep(0.1)
        same = await client.asks(piece(b"", False), GONE)
        other = await client.asks(piece(b"", False), GONE, client=("10.0.0.9", 1))
        assert [told(each)[0] for each in await asyncio.gather(*slow)] == [408] * len(slow)
        assert await client.asks(piece(b"", False), GONE) == [START]
        assert client.proxied._awaited == {}
        return same, other

    same, other = asyncio.run(ask())
    assert told(same) == (429, "/problems/concurrency")
    assert (other == [START]) == (from_others == 0)
