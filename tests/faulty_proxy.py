"""An HTTP proxy before an object store. It answers some requests with an error.

Half of these requests do not reach the store; the store does the other half, and its answer is
lost. The proxy can also be slow, hang now and then, fail in bursts, and drop connections.
"""

import http.client
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_NOT_FORWARDED = {"connection", "transfer-encoding", "expect"}


@dataclass
class Faults:
    """How often requests fail and wait, and counts of what happened.

    A request fails with probability `share`, and the first `burst` of each hundred requests fail.
    Every request takes `delay_seconds` more, and a share of `stalls` takes `stall_seconds` more.
    Of the requests that fail, a share of `drops` gets no answer but a closed connection, and the
    others one of `statuses`. A request with the header `refused` is answered by 501.
    """

    share: float
    delay_seconds: float = 0.0
    stalls: float = 0.0
    stall_seconds: float = 0.0
    burst: int = 0
    drops: float = 0.0
    statuses: tuple[int, ...] = (503,)
    refused: str | None = None
    num_requests: int = 0
    num_failed: int = 0
    num_stalled: int = 0
    draw: random.Random = field(default_factory=random.Random)


@contextmanager
def faulty_proxy(endpoint_url: str, faults: Faults) -> Iterator[str]:
    """Yield the URL of a proxy before `endpoint_url`.

    The Host header is passed on unchanged, because the store checks signatures with it.
    """
    target = urlsplit(endpoint_url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            faults.num_requests += 1
            time.sleep(faults.delay_seconds)
            if faults.draw.random() < faults.stalls:
                faults.num_stalled += 1
                time.sleep(faults.stall_seconds)
            fails = faults.draw.random() < faults.share or faults.num_requests % 100 < faults.burst
            is_done_first = faults.draw.random() < 0.5
            is_refused = faults.refused is not None and faults.refused in self.headers
            if is_refused or (fails and not is_done_first):
                self._fail(501 if is_refused else None)
                return
            connection = http.client.HTTPConnection(target, timeout=60)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _NOT_FORWARDED
            }
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            with suppress(BrokenPipeError):  # the client has given up
                if fails:
                    self._fail()
                else:
                    self._answer(answer, content)

        def _fail(self, status: int | None = None) -> None:
            faults.num_failed += 1
            if status is None and faults.draw.random() < faults.drops:
                self.close_connection = True
                return
            self.send_response(status or faults.draw.choice(faults.statuses))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {*_NOT_FORWARDED, "content-length", "date", "server"}:
                    self.send_header(name, value)
            length = (
                answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            )
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Print nothing; the base class prints each request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
