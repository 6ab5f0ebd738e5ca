"""The checks that every request passes, and the log line that it leaves.

A request gets an id. Then its key, the number of requests at work and the size of its body are
checked. This is plain ASGI, so that streams and disconnects reach the application unchanged.
"""

import hashlib
import hmac
import logging
import math
import re
import time
import uuid

from aiolimiter import AsyncLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xrec.config.serve import KeyConfig, is_loopback
from xrec.serve.metrics import Metrics
from xrec.serve.problems import ProblemError

logger = logging.getLogger("xrec")

MAX_BODY_BYTES = 256 * 1024
"""The largest body of a request: 64 pairs, or a few with texts of their own."""
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPEN_PATHS = ("/healthz", "/readyz", "/", "/docs", "/openapi.json")
_OPEN_PREFIX = "/page/"


class Gate:
    """An ASGI application that checks each request and passes it on to `app`."""

    def __init__(
        self, app: ASGIApp, keys: tuple[KeyConfig, ...], max_requests: int, metrics: Metrics
    ):
        self._app, self._keys = app, Keys(keys)
        self._max_requests, self._metrics = max_requests, metrics
        self._num_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, exchange = time.perf_counter(), _Exchange(receive, send)
        self._count(1)
        try:
            exchange.key = await self._admit(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except ProblemError as error:
            if exchange.status is not None:
                raise
            self._metrics.refused.inc(1, {"reason": error.reason})
            await error.response(request_id)(scope, receive, exchange.send)
        finally:
            self._count(-1)
            self._record(scope, exchange, request_id, time.perf_counter() - started)

    def _count(self, change: int) -> None:
        self._num_in_flight += change
        self._metrics.requests_in_flight.set(self._num_in_flight)

    async def _admit(self, scope: Scope) -> str:
        """Return the name of the key, "-" for a path that needs none, as it tells nothing.

        Raises ProblemError for a request that is refused.
        """
        path = scope["path"]
        if path in _OPEN_PATHS or path.startswith(_OPEN_PREFIX):
            return "-"
        name = await self._keys.admit(scope)
        if self._num_in_flight > self._max_requests:
            detail = f"{self._max_requests} requests are being answered; ask again in a second"
            raise ProblemError(429, "concurrency", detail, 1)
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:18]) > MAX_BODY_BYTES:  # int refuses 4,301 digits
            raise _too_large()
        return name

    def _record(self, scope: Scope, exchange: "_Exchange", request_id: str, seconds: float) -> None:
        """Count and log the request, by its route: its path names the user and the item."""
        route = getattr(scope.get("route"), "path", "none")
        status = str(exchange.status or 499)  # 499: the client disconnected before an answer began
        self._metrics.requests.inc(1, {"route": route, "status": status})
        self._metrics.request_seconds.observe(seconds, {"route": route})
        what = (request_id, scope["method"], route, status, exchange.key)
        logger.info("%s %s %s %s key=%s %.1f ms", *what, 1000 * seconds)


class _Exchange:
    """The messages of one request and its answer.

    It keeps the status that was sent, and counts the bytes of the body, which may come without its
    length.
    """

    def __init__(self, receive: Receive, send: Send):
        self._receive, self._send = receive, send
        self._num_bytes = 0
        self.status: int | None = None
        self.key = "-"

    async def receive(self) -> Message:
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > MAX_BODY_BYTES:
            raise _too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class Keys:
    """Keys are known by their SHA-256, compared in constant time, and each has its own rate.

    Without keys only this machine may ask: both the client's address and the host name in the
    request must be loopback. The host name is checked because a web page elsewhere could use a name
    of its own that points to this machine.
    """

    def __init__(self, keys: tuple[KeyConfig, ...]):
        self._keys = [
            (key, AsyncLimiter(key.burst, 60 * key.burst / key.requests_per_minute)) for key in keys
        ]

    async def admit(self, scope: Scope) -> str:
        """Return the name of the request's key, "local" if no keys are configured.

        Raises ProblemError with status 401, 403 or 429 if the request is refused.
        """
        headers = Headers(scope=scope)
        if not self._keys:
            _check_local(scope, headers)
            return "local"
        key, limiter = self._find(_given(headers))
        if not limiter.has_capacity():
            wait = math.ceil(60 / key.requests_per_minute)
            detail = f"more than {key.requests_per_minute} requests a minute with this key"
            raise ProblemError(429, "rate", f"{detail}; wait {wait} s", wait)
        await limiter.acquire()  # it has room, so this does not wait
        return key.name

    def _find(self, given: str | None) -> tuple[KeyConfig, AsyncLimiter]:
        if given is None:
            raise ProblemError(
                401, "key", "this endpoint asks for a key; send Authorization: Bearer KEY"
            )
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()
        # All keys are compared, so that the time does not tell which one matches.
        matches = [each for each in self._keys if hmac.compare_digest(each[0].sha256, digest)]
        if not matches:
            raise ProblemError(401, "key", "this key is not known; check it, or ask for one")
        return matches[0]


def _given(headers: Headers) -> str | None:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer" and credentials.strip()
    return credentials.strip() if is_bearer else headers.get("x-api-key")


def _check_local(scope: Scope, headers: Headers) -> None:
    client, host = scope.get("client"), headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    is_local = client is not None and is_loopback(client[0]) and is_loopback(name)
    if not is_local:
        raise ProblemError(
            403,
            "not_local",
            "without security.keys this endpoint answers its own machine only, "
            "by a loopback address or localhost",
        )


def _too_large() -> ProblemError:
    return ProblemError(
        413,
        "body",
        f"the body has more than {MAX_BODY_BYTES // 1024} KiB; send fewer pairs, or shorter texts",
    )
