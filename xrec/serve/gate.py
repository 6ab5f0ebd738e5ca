"""The checks that every request passes, and the log line that it leaves.

A request gets an id. Then its key, the number of requests at work and the size of its body are
checked. This is plain ASGI, so that streams and disconnects reach the application unchanged.
"""

import logging
import re
import time
import uuid
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xrec.serve import metrics
from xrec.serve.keys import Keys
from xrec.serve.metrics import Recorder
from xrec.serve.problems import ProblemError, problem_response

logger = logging.getLogger("xrec")

_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN_PATHS = ("/healthz", "/readyz", "/", "/docs", "/openapi.json")
"""These need no key, because they tell nothing about users, items or traffic."""
_OPEN_PREFIX = "/page/"


@dataclass(frozen=True)
class Limits:
    """The limits of one frontend."""

    max_body_bytes: int
    max_concurrent_requests: int
    log_paths: bool


class Gate:
    """An ASGI application that checks each request and passes it on to `app`."""

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits, recorder: Recorder):
        self._app, self._keys, self._limits, self._recorder = app, keys, limits, recorder
        self._num_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        response = _Response(send)
        started, who = time.perf_counter(), "-"
        self._num_in_flight += 1
        self._recorder.set(metrics.REQUESTS_IN_FLIGHT, self._num_in_flight)
        try:
            who = self._admit(scope)
            await self._app(
                scope, _LimitedBody(receive, self._limits.max_body_bytes).receive, response.send
            )
        except ProblemError as error:
            if response.status is not None:
                raise
            self._recorder.increase(
                metrics.REFUSED, {"reason": error.problem.type.rpartition("/")[2]}
            )
            await problem_response(error.problem, request_id, error.headers)(
                scope, receive, response.send
            )
        finally:
            self._num_in_flight -= 1
            self._recorder.set(metrics.REQUESTS_IN_FLIGHT, self._num_in_flight)
            self._record(scope, response, request_id, who, time.perf_counter() - started)

    def _admit(self, scope: Scope) -> str:
        """Return the name of the key, "-" for an open path; raise ProblemError if refused."""
        path = scope["path"]
        if path in OPEN_PATHS or path.startswith(_OPEN_PREFIX):
            return "-"
        name = self._keys.admit(scope)
        if self._num_in_flight > self._limits.max_concurrent_requests:
            raise ProblemError(
                429,
                "concurrency",
                f"{self._limits.max_concurrent_requests} requests are being answered; "
                "ask again in a second",
                1,
            )
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:18]) > self._limits.max_body_bytes:
            raise _too_large(self._limits.max_body_bytes)
        return name

    def _record(
        self, scope: Scope, response: "_Response", request_id: str, who: str, seconds: float
    ) -> None:
        """Count and log the request, by its route: its path names the user and the item."""
        route = getattr(scope.get("route"), "path", "none")
        status = str(response.status or 499)  # 499: the client disconnected before an answer began
        self._recorder.increase(metrics.REQUESTS, {"route": route, "status": status})
        self._recorder.observe(metrics.REQUEST_SECONDS, seconds, {"route": route})
        path = (
            scope["path"].encode("ascii", "backslashreplace").decode()
            if self._limits.log_paths
            else route
        )
        logger.info(
            "%s %s %s %s key=%s %.1f ms",
            request_id,
            scope["method"],
            path,
            status,
            who,
            1000 * seconds,
        )


class _Response:
    """Passes messages on to the client and keeps the status that was sent."""

    def __init__(self, send: Send):
        self._send = send
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class _LimitedBody:
    """Counts the bytes of a body, because a body may come without its length."""

    def __init__(self, receive: Receive, max_bytes: int):
        self._receive, self._max_bytes, self._num_bytes = receive, max_bytes, 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        return message


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError(
        413,
        "body",
        f"the body has more than {max_bytes // 1024} KiB (http.max_body_kib); "
        "send fewer pairs, or shorter texts",
    )
