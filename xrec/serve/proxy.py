"""What is done in Serve's HTTP proxy, before a frontend has a request, and after one has died.

To pass a request on costs the proxy and a frontend some 3 ms of a core, and so does each piece of a
body that comes slowly. So bodies are awaited here, where one that never ends costs nearly nothing.

Serve loads this if the nodes of the cluster have `PROXY_VARIABLE` = `PROXY_CALLBACK` in their
environment. `xrec serve` sets it for a cluster that it starts.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xrec.serve.metrics import Metrics
from xrec.serve.problems import ProblemError, too_many, unavailable

PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CALLBACK = "xrec.serve.proxy:middlewares"
MAX_BODY_BYTES = 256 * 1024
"""The largest body of a request: 64 pairs, or a few with texts of their own."""
BODY_SECONDS = 10.0
"""How long the body of a request may take to come."""
MAX_BODIES = 1024
"""So many bodies a proxy awaits at a time, half of them from one address; others get 429."""


class Body:
    """The body of a request, which may come without its length, and slowly.

    Raises ProblemError 413 for one that is announced as too large.
    """

    def __init__(self, scope: Scope, receive: Receive):
        self._receive, self._num_bytes = receive, 0
        self._ends: float | None = asyncio.get_running_loop().time() + BODY_SECONDS
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:18]) > MAX_BODY_BYTES:  # int refuses 4,301 digits
            raise _too_large()

    async def receive(self) -> Message:
        """Return the next message; raises ProblemError 408 or 413."""
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError:
            detail = f"the body did not come within {BODY_SECONDS:g} s; send it again"
            raise ProblemError(408, "slow_body", detail) from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            self._ends = None
        return message

    async def whole(self) -> bytes | None:
        """Return the body once it is there, None if the client has gone; raises as `receive`."""
        found, is_there = bytearray(), False
        while not is_there:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                return None
            found += message.get("body", b"")
            is_there = not message.get("more_body")
        return bytes(found)


class Answer:
    """Sends the answer of one request, and keeps its status; None before it begins."""

    def __init__(self, send: Send):
        self._send = send
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class Proxied:
    """Wraps the app of Serve's proxy: a request is passed on with its whole body, and with an id.

    The answer is 503 with Retry-After if the frontend died before it answered, for which Serve
    alone would answer 500.
    """

    def __init__(self, app: ASGIApp):
        self._app, self._metrics = app, Metrics()
        self._awaited: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Serve gives an id too, but only to what is passed on.
        request_id = MutableHeaders(scope=scope).setdefault("x-request-id", uuid.uuid4().hex)
        body, answer = None, Answer(send)

        async def refuse(error: ProblemError) -> None:
            response = error.response(request_id)
            response.headers["X-Request-ID"] = request_id
            await response(scope, receive, send)

        async def received() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": body, "more_body": False}, None
            return message

        try:
            with self._awaits(scope):
                body = await Body(scope, receive).whole()
        except ProblemError as error:
            self._metrics.refused.inc(1, {"reason": error.reason})
            await refuse(error)
            return
        if body is not None:
            await self._app(scope, received, answer.send)
            if answer.status is None:
                await refuse(unavailable())

    @contextmanager
    def _awaits(self, scope: Scope) -> Iterator[None]:
        address = (scope.get("client") or ("",))[0]
        if self._awaited.total() >= MAX_BODIES or self._awaited[address] >= MAX_BODIES // 2:
            raise too_many(MAX_BODIES)
        self._awaited[address] += 1
        try:
            yield
        finally:
            self._awaited[address] -= 1
            self._awaited += Counter()  # which leaves out the addresses that have none


def _too_large() -> ProblemError:
    detail = f"the body has more than {MAX_BODY_BYTES // 1024} KiB"
    return ProblemError(413, "body", f"{detail}; send fewer pairs, or shorter texts")


def middlewares() -> list[Middleware]:
    """Return the middlewares for Serve, which calls this."""
    return [Middleware(Proxied)]
