"""Keys: they are known by their SHA-256, compared in constant time, and each has its own rate.

Without keys only this machine may ask: both the client's address and the host name in the request
must be loopback. The host name is checked because a web page elsewhere could use a name of its own
that points to this machine.
"""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from xrec.config.serve import KeyConfig
from xrec.serve.problems import ProblemError


@dataclass
class _Bucket:
    """The requests that a key may still make at the time `at` of the monotonic clock, s."""

    tokens: float
    at: float


class Keys:
    """Admits requests by `keys`; `clock` returns seconds."""

    def __init__(self, keys: tuple[KeyConfig, ...], clock: Callable[[], float] = time.monotonic):
        self._keys, self._clock = keys, clock
        self._buckets = {key.name: _Bucket(key.burst, clock()) for key in keys}

    def admit(self, scope: Scope) -> str:
        """Return the name of the request's key, "local" if no keys are configured.

        Raises ProblemError with status 401, 403 or 429 if the request is refused.
        """
        if not self._keys:
            _check_local(scope)
            return "local"
        key = self._find(_given(Headers(scope=scope)))
        self._take(key)
        return key.name

    def _find(self, given: str | None) -> KeyConfig:
        if given is None:
            raise ProblemError(
                401, "key", "this endpoint asks for a key; send Authorization: Bearer KEY"
            )
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()
        # All keys are compared, so that the time does not tell which one matches.
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not matches:
            raise ProblemError(401, "key", "this key is not known; check it, or ask for one")
        return matches[0]

    def _take(self, key: KeyConfig) -> None:
        bucket, now, per_second = (
            self._buckets[key.name],
            self._clock(),
            key.requests_per_minute / 60,
        )
        bucket.tokens, bucket.at = (
            min(key.burst, bucket.tokens + (now - bucket.at) * per_second),
            now,
        )
        if bucket.tokens < 1:
            wait = int((1 - bucket.tokens) / per_second) + 1
            raise ProblemError(
                429,
                "rate",
                f"more than {key.requests_per_minute} requests a minute with this key; "
                f"wait {wait} s",
                wait,
            )
        bucket.tokens -= 1


def _given(headers: Headers) -> str | None:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return (
        credentials.strip()
        if scheme.lower() == "bearer" and credentials.strip()
        else headers.get("x-api-key")
    )


def _check_local(scope: Scope) -> None:
    client = scope.get("client")
    host = Headers(scope=scope).get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if (
        client is None
        or not _is_loopback(client[0])
        or not (name == "localhost" or _is_loopback(name))
    ):
        raise ProblemError(
            403,
            "not_local",
            "without security.keys this endpoint answers its own machine only, "
            "by a loopback address or localhost",
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
