"""Finds out within seconds whether anything listens at an address; Ray's clients take minutes."""

import socket
from urllib.parse import urlsplit

from xrec.errors import ClusterError

CONNECT_TIMEOUT_SECONDS = 5.0


def check_reachable(address: str, advice: str) -> None:
    """Check that something listens at `address`, which is host:port or a URL.

    Raises ClusterError, whose message ends with `advice`, if nothing does within five seconds.
    """
    host, port = _host_and_port(address, advice)
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address!r} within {CONNECT_TIMEOUT_SECONDS:g} s ({error}); "
            f"{advice}"
        ) from error


def _host_and_port(address: str, advice: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    if not parts.hostname or not port:
        raise ClusterError(
            f"Ray address {address!r}: expected host:port, or a URL such as ray://host:port "
            f"or http://host:8265; {advice}"
        )
    return parts.hostname, port
