"""Whether anything listens at an address, found out within seconds: Ray's own clients wait for minutes."""

import socket
from urllib.parse import urlsplit

from xrec.errors import ClusterError

CONNECT_TIMEOUT_SECONDS = 5.0


def check_reachable(address: str, advice: str) -> None:
    """Raise ClusterError, with `advice`, if nothing listens at `address`: host:port, or a URL."""
    host, port = _host_and_port(address, advice)
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address!r} within {CONNECT_TIMEOUT_SECONDS:g} s ({error}); {advice}"
        ) from error


def _host_and_port(address: str, advice: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    if not parts.hostname or not port:
        raise ClusterError(
            f"Ray address {address!r}: expected host:port, or a URL such as ray://host:port or http://host:8265; {advice}"
        )
    return parts.hostname, port
