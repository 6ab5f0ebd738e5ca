"""The checks that every request passes before its route runs, and its log line.

Each request gets an ID. Its headers, its key, and the size and speed of its body are checked. This
is plain ASGI, so that streams and disconnects reach the application unchanged.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import get_args

from aiolimiter import AsyncLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xrec.config import KeyConfig, is_loopback, share_of_key
from xrec.config import Scope as KeyScope
from xrec.serve.metrics import Metrics
from xrec.serve.problems import ProblemError, unavailable

request_log = logging.getLogger("xrec.requests")
"""A line of JSON for each request."""

MAX_REQUESTS = 256
"""Maximum concurrent requests per frontend. Ray Serve queues as many again and refuses the rest."""
MAX_BODY_BYTES = 256 * 1024
"""The largest body: 64 pairs, or a few that replace stored texts."""
MAX_TARGET_BYTES = 8 * 1024
"""The longest path, and the longest query string."""
BODY_SECONDS = 10.0
"""How long the body of a request may take to arrive."""
BURST = 64
"""Pairs that a key may request at once before its rate applies, over all frontends."""
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORWARDED = re.compile(r"forwarded|x-forwarded-.*|via|x-real-ip")
_DRAIN_SECONDS = 0.1  # between checks for requests in flight
_PUBLIC_PATHS = ("/healthz", "/readyz", "/", "/openapi.json", "/page")


def is_public(path: str) -> bool:
    """Return whether a path needs no key; its content is the same for everyone."""
    return path in _PUBLIC_PATHS or path.startswith("/page/")


class RequestGate:
    """An ASGI application that checks each request and passes it on to `app`.

    share: this frontend's share of each key's rate.
    """

    def __init__(
        self, app: ASGIApp, keys: tuple[KeyConfig, ...], metrics: Metrics, share: float = 1.0
    ):
        self._app, self._keys, self._metrics = app, Keys(keys, share), metrics
        self._num_in_flight, self._is_draining = 0, False

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, and wait up to `seconds` for those in flight."""
        self._is_draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._num_in_flight:
                    await asyncio.sleep(_DRAIN_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own_id = Headers(scope=scope).get("x-request-id", "")
        request_id = own_id if _GOOD_ID.fullmatch(own_id) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        response = _Response(send, scope["path"], request_id if request_id != own_id else None)
        started, key = time.perf_counter(), "-"
        self._count(1)
        try:
            if self._is_draining and scope["path"] != "/healthz":
                raise unavailable("the endpoint is shutting down")
            _check_head(scope)
            caller = _PUBLIC if is_public(scope["path"]) else self._keys.caller(scope)
            with caller.at_work():
                scope["state"]["caller"], key = caller, caller.name
                await caller.charge(1)
                await self._app(scope, _Body(scope, receive).receive, response.send)
        except ProblemError as error:
            if response.status is not None:
                raise
            self._metrics.refused.inc(1, {"reason": error.reason})
            await error.response(request_id)(scope, receive, response.send)
        finally:
            self._count(-1)
            self._record(scope, response.status, key, time.perf_counter() - started)

    def _count(self, change: int) -> None:
        self._num_in_flight += change
        self._metrics.requests_in_flight.set(self._num_in_flight)

    def _record(self, scope: Scope, sent: int | None, key: str, seconds: float) -> None:
        """Count and log the request by its route, because its path contains user and item IDs."""
        route = getattr(scope.get("route"), "path", "none")
        status = str(sent or 499)  # 499: the client disconnected before a response started
        self._metrics.requests.inc(1, {"route": route, "status": status})
        self._metrics.request_seconds.observe(seconds, {"route": route})
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": scope["state"]["request_id"],
            "method": scope["method"],
            "route": route,
            "status": int(status),
            "key": key,
            "milliseconds": round(1000 * seconds, 1),
        }
        request_log.info(json.dumps(line))


def _check_head(scope: Scope) -> None:
    """Raise ProblemError for a path or query that is too long, or headers that are not UTF-8."""
    if max(len(scope["path"]), len(scope.get("query_string", b""))) > MAX_TARGET_BYTES:
        detail = f"the path or the query is longer than {MAX_TARGET_BYTES // 1024} KiB"
        raise ProblemError(414, "target", f"{detail}; shorten it, or send the pair in a body")
    try:
        for _, value in scope["headers"]:
            value.decode()
    except UnicodeDecodeError:
        detail = "the value of a header is not UTF-8; encode it as UTF-8, or remove the header"
        raise ProblemError(400, "header", detail) from None


class _Response:
    """The response to one request; `status` is None until it starts.

    request_id: sent in a header. Responses that need a key are also marked as not to be cached.
    """

    def __init__(self, send: Send, path: str, request_id: str | None):
        self._send = send
        self._headers = {} if is_public(path) else {"Cache-Control": "no-store"}
        if request_id is not None:
            self._headers["X-Request-ID"] = request_id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message).update(self._headers)
        await self._send(message)


class _Body:
    """The body of a request, whose length may be unknown, and which may arrive slowly.

    Raises ProblemError 413 if its Content-Length is too large.
    """

    def __init__(self, scope: Scope, receive: Receive):
        self._receive, self._num_bytes = receive, 0
        self._deadline: float | None = asyncio.get_running_loop().time() + BODY_SECONDS
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:18]) > MAX_BODY_BYTES:  # int refuses 4,301 digits
            raise _too_large()

    async def receive(self) -> Message:
        """Return the next message; raise ProblemError 408 or 413."""
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            detail = f"the body did not arrive within {BODY_SECONDS:g} s; send it again"
            raise ProblemError(408, "slow_body", detail) from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            self._deadline = None
        return message


def _too_large() -> ProblemError:
    detail = f"the body is larger than {MAX_BODY_BYTES // 1024} KiB"
    return ProblemError(413, "body", f"{detail}; send fewer pairs, or shorter texts")


class Caller:
    """A client: its name, its scopes and, for a key, its users, rate and concurrent requests.

    share: this frontend's share of the rate and the burst.
    """

    def __init__(
        self,
        name: str,
        scopes: Collection[KeyScope],
        key: KeyConfig | None = None,
        max_requests: int | None = None,
        share: float = 1.0,
    ):
        self.name, self.scopes = name, frozenset(scopes)
        self._users = None if key is None or key.users is None else frozenset(key.users)
        self._num_at_work, self._max_requests = 0, max_requests
        self._bucket: AsyncLimiter | None = None
        if key is not None:
            self._rate, burst = share * key.pairs_per_minute, max(1.0, share * BURST)
            self._bucket = AsyncLimiter(burst, 60 * burst / self._rate)

    def check(self, scope: KeyScope) -> None:
        """Raise ProblemError unless the caller has the scope."""
        if scope not in self.scopes:
            detail = f"the key {self.name!r} lacks the scope {scope!r}; use a key that has it"
            raise ProblemError(403, "scope", detail)

    def check_user(self, user_id: str) -> None:
        """Raise ProblemError if the key may not ask about this user."""
        if self._users is not None and user_id not in self._users:
            detail = f"the key {self.name!r} is for other users (serve.keys, users)"
            raise ProblemError(403, "scope", detail)

    @property
    def may_see_history(self) -> bool:
        """Whether texts may tell the caller what the users it may ask about chose."""
        return "evidence" in self.scopes or self._users is not None

    async def charge(self, num_pairs: int, *, num_counted: int = 0) -> None:
        """Count a request's pairs; raise ProblemError if they exceed the rate.

        At most a burst is counted. num_counted: how many of the pairs were counted before.
        """
        if self._bucket is None:
            return
        amount = max(0.0, min(num_pairs, self._bucket.max_rate) - num_counted)
        if not self._bucket.has_capacity(amount):
            wait = math.ceil(60 * amount / self._rate)
            detail = f"this key requested more than {self._rate:g} pairs a minute at this frontend"
            raise ProblemError(429, "rate", f"{detail}; wait {wait} s", wait)
        await self._bucket.acquire(amount)  # does not wait

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count a request until exit; raise ProblemError if the key has too many at once."""
        if self._max_requests is not None and self._num_at_work >= self._max_requests:
            detail = f"this key already has {self._max_requests} requests in flight"
            raise ProblemError(429, "concurrency", f"{detail}; retry in a second", 1)
        self._num_at_work += 1
        try:
            yield
        finally:
            self._num_at_work -= 1


_PUBLIC = Caller("-", ())


class Keys:
    """The API keys: SHA-256 digests that are compared in constant time; each has its own rate.

    Without keys, only this machine is served: both the client's address and the host name in the
    request must be loopback, and no proxy may have forwarded it. The host name is checked because
    a web page could use a host name that resolves to this machine (DNS rebinding).
    """

    def __init__(self, keys: tuple[KeyConfig, ...], share: float = 1.0):
        # One of several keys cannot occupy a whole frontend; a single key can.
        most = share_of_key(MAX_REQUESTS, keys) if len(keys) > 1 else None
        self._callers = [
            (key.sha256, Caller(key.name, key.scopes, key, most, share)) for key in keys
        ]

    def caller(self, scope: Scope) -> Caller:
        """Return the caller; without keys, it is "local" and has all scopes.

        Raises ProblemError with status 401 or 403 if the request is refused.
        """
        headers = Headers(scope=scope)
        if not self._callers:
            _check_local(scope, headers)
            return Caller("local", get_args(KeyScope))
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        is_bearer = kind.lower() == "bearer" and credentials.strip()
        key = credentials.strip() if is_bearer else headers.get("x-api-key")
        if key is None:
            raise ProblemError(
                401, "key", "this endpoint needs a key; send Authorization: Bearer KEY"
            )
        digest = hashlib.sha256(key.encode("latin-1")).hexdigest()  # the bytes that were sent
        # All keys are compared, so that the time does not reveal which one matches.
        matches = [caller for own, caller in self._callers if hmac.compare_digest(own, digest)]
        if not matches:
            raise ProblemError(401, "key", "unknown key; check it, or request one")
        return matches[0]


def _check_local(scope: Scope, headers: Headers) -> None:
    """Raise ProblemError unless a program on this machine sent the request itself."""
    client, host = scope.get("client"), headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if client is None or not (is_loopback(client[0]) and is_loopback(name)):
        why = "through a loopback address or localhost"
    # By default, nginx forwards requests as HTTP/1.0 and adds no header.
    elif scope.get("http_version") == "1.0" or any(map(_FORWARDED.fullmatch, headers)):
        why = "and a proxy forwarded this request; configure serve.keys"
    else:
        return
    detail = f"without serve.keys this endpoint only serves its own machine, {why}"
    raise ProblemError(403, "not_local", detail)
