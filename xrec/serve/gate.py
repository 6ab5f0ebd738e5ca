"""The checks that every request passes, and the log line that it leaves.

A request gets an id. Then its key, the number of requests at work, the size of its body and how
long it takes to come are checked. This is plain ASGI, so that streams and disconnects reach the
application unchanged.
"""

import hashlib
import hmac
import json
import logging
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sized
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import get_args

from aiolimiter import AsyncLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from xrec.config.serve import KeyConfig, is_loopback
from xrec.config.serve import Scope as KeyScope
from xrec.serve.metrics import Metrics
from xrec.serve.problems import ProblemError, too_many
from xrec.serve.proxy import Answer, Body

request_log = logging.getLogger("xrec.requests")
"""A line of JSON for each request."""

MAX_REQUESTS = 256
"""So many requests a frontend answers at a time; further ones get 429."""
BURST = 64
"""So many pairs may come at once with a key before its rate counts, at all frontends together."""
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPEN_PATHS = ("/healthz", "/readyz", "/", "/openapi.json")
_OPEN_PREFIX = "/page/"


def share_of_key(places: int, keys: Sized) -> int:
    """Return how many of the places one key may take: a quarter of them if there are others."""
    return places if len(keys) <= 1 else max(1, places // 4)


class Gate:
    """An ASGI application that checks each request and passes it on to `app`."""

    def __init__(
        self,
        app: ASGIApp,
        keys: tuple[KeyConfig, ...],
        metrics: Metrics,
        rates: "Rates | None" = None,
    ):
        self._app, self._keys, self._metrics = app, Keys(keys, rates), metrics
        self._num_in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started, answer, key = time.perf_counter(), Answer(send), "-"
        self._count(1)
        try:
            async with self._admitted(scope) as caller:
                scope["state"]["caller"], key = caller, caller.name
                await self._app(scope, Body(scope, receive).receive, answer.send)
        except ProblemError as error:
            if answer.status is not None:
                raise
            self._metrics.refused.inc(1, {"reason": error.reason})
            await error.response(request_id)(scope, receive, answer.send)
        finally:
            self._count(-1)
            self._record(scope, answer.status, key, time.perf_counter() - started)

    def _count(self, change: int) -> None:
        self._num_in_flight += change
        self._metrics.requests_in_flight.set(self._num_in_flight)

    @asynccontextmanager
    async def _admitted(self, scope: Scope) -> AsyncIterator["Caller"]:
        """Give who asks; a path that tells nothing is open to everybody.

        Raises ProblemError for a request that is refused.
        """
        path = scope["path"]
        if path in _OPEN_PATHS or path.startswith(_OPEN_PREFIX):
            yield Caller("-", ())
            return
        caller = self._keys.caller(scope)
        if self._num_in_flight > MAX_REQUESTS:
            raise too_many(MAX_REQUESTS)
        with caller.at_work():
            await caller.charge(1)
            yield caller

    def _record(self, scope: Scope, answered: int | None, key: str, seconds: float) -> None:
        """Count and log the request, by its route: its path names the user and the item."""
        route = getattr(scope.get("route"), "path", "none")
        status = str(answered or 499)  # 499: the client disconnected before an answer began
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


class Rates:
    """How many pairs each key may still ask for: a bucket of `BURST`, filled at the key's rate.

    share: of rates and buckets that is kept here.
    """

    def __init__(self, keys: Iterable[KeyConfig], share: float = 1.0):
        size = max(1.0, share * BURST)
        times = {key.name: 60 * size / (share * key.pairs_per_minute) for key in keys}
        self._buckets = {name: AsyncLimiter(size, seconds) for name, seconds in times.items()}

    async def take(self, name: str, num_pairs: int, ahead: int = 0) -> int:
        """Count the pairs, a bucket at most, and if there is room so many that will be asked for.

        Returns how many may be asked for; 0, and none is counted, if `num_pairs` is too many.
        """
        bucket = self._buckets[name]
        for number in (num_pairs + ahead, num_pairs):
            amount = min(number, bucket.max_rate)
            if bucket.has_capacity(amount):
                await bucket.acquire(amount)  # this does not wait
                return number
        return 0


class Caller:
    """Who asks: a key's name and scopes, its rate, and how many of its requests are at work."""

    def __init__(
        self,
        name: str,
        scopes: Collection[KeyScope],
        key: KeyConfig | None = None,
        max_requests: int | None = None,
        rates: Rates | None = None,
    ):
        self.name, self._scopes, self._key, self._rates = name, scopes, key, rates
        self._num_at_work, self._max_requests = 0, max_requests

    def check(self, scope: KeyScope) -> None:
        """Raise ProblemError if it may not ask for this."""
        if scope not in self._scopes:
            detail = f"the key {self.name!r} lacks the scope {scope!r}; ask for one that has it"
            raise ProblemError(403, "scope", detail)

    async def charge(self, num_pairs: int, *, num_counted: int = 0) -> None:
        """Count a request's pairs; raises ProblemError if they are beyond the rate.

        More pairs than fit a burst count as a burst. num_counted: those that were counted before.
        """
        if self._key is None or self._rates is None:
            return
        amount = min(num_pairs, BURST) - num_counted
        if amount and not await self._rates.take(self.name, amount):
            wait = math.ceil(60 * amount / self._key.pairs_per_minute)
            detail = f"more than {self._key.pairs_per_minute} pairs a minute with this key"
            raise ProblemError(429, "rate", f"{detail}; wait {wait} s", wait)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count a request until exit; raises ProblemError if too many are at work."""
        if self._max_requests is not None and self._num_at_work >= self._max_requests:
            raise too_many(self._max_requests, " of this key")
        self._num_at_work += 1
        try:
            yield
        finally:
            self._num_at_work -= 1


class Keys:
    """Keys are known by their SHA-256, compared in constant time, and each has its own rate.

    Without keys only this machine may ask: both the client's address and the host name in the
    request must be loopback. The host name is checked because a web page elsewhere could use a name
    of its own that points to this machine.
    """

    def __init__(self, keys: tuple[KeyConfig, ...], rates: Rates | None = None):
        of = share_of_key(MAX_REQUESTS, keys), rates or Rates(keys)
        self._callers = [(key.sha256, Caller(key.name, key.scopes, key, *of)) for key in keys]

    def caller(self, scope: Scope) -> Caller:
        """Return who asks; it is "local", and may ask for all, if no keys are configured.

        Raises ProblemError with status 401 or 403 if the request is refused.
        """
        headers = Headers(scope=scope)
        if not self._callers:
            client, host = scope.get("client"), headers.get("host", "")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if client is None or not (is_loopback(client[0]) and is_loopback(name)):
                raise ProblemError(
                    403,
                    "not_local",
                    "without security.keys this endpoint answers its own machine only, "
                    "by a loopback address or localhost",
                )
            return Caller("local", get_args(KeyScope))
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer" and credentials.strip()
        given = credentials.strip() if is_bearer else headers.get("x-api-key")
        if given is None:
            raise ProblemError(
                401, "key", "this endpoint asks for a key; send Authorization: Bearer KEY"
            )
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()
        # All keys are compared, so that the time does not tell which one matches.
        matches = [each for own, each in self._callers if hmac.compare_digest(own, digest)]
        if not matches:
            raise ProblemError(401, "key", "this key is not known; check it, or ask for one")
        return matches[0]
