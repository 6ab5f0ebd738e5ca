"""A proxy before an object store that counts requests and changes nothing of them."""

import re
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) \S+ HTTP/1\.1\r\n")
_LONGEST = 8192  # of a request's first line
_PIECE_BYTES = 2**16


@contextmanager
def counting_proxy(endpoint_url: str) -> Iterator[tuple[str, Counter[str]]]:
    """Yield the URL of a proxy before `endpoint_url`, and how many requests came, by method."""
    target = urlsplit(endpoint_url)
    counts: Counter[str] = Counter()

    def noted(data: bytes, rest: bytes) -> bytes:
        """Count the requests in `rest` and `data`; returns what may be the beginning of one."""
        end, seen = 0, rest + data
        for match in _REQUEST.finditer(seen):
            counts[match[1].decode()] += 1
            end = match.end()
        return seen[end:][-_LONGEST:]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((target.hostname, target.port or 80)) as store:
                answers = threading.Thread(target=_pass_on, args=(store, self.request))
                answers.start()
                _pass_on(self.request, store, noted)
                answers.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", counts
        server.shutdown()


def _pass_on(
    source: socket.socket,
    sink: socket.socket,
    noted: Callable[[bytes, bytes], bytes] = lambda data, rest: b"",
) -> None:
    """Send to `sink` what comes from `source`, until one of them is closed."""
    rest = b""
    with suppress(OSError):
        while data := source.recv(_PIECE_BYTES):
            rest = noted(data, rest)
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
