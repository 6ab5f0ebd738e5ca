"""As much of an S3 store as is needed to find out that it has no conditional writes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from xrec.config.shared import StorageConfig

_NOT_FOUND = b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
_NOT_IMPLEMENTED = b"<Error><Code>NotImplemented</Code><Message>If-None-Match</Message></Error>"
_EMPTY_LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


@contextmanager
def unconditional_store(refuses: bool) -> Iterator[StorageConfig]:
    """Serve an empty bucket whose files can be written over, whatever the request's conditions.

    If `refuses`, a write with a condition is answered by 501, as some stores do. No credentials are
    checked.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if refuses and "If-None-Match" in self.headers:
                self._answer(501, _NOT_IMPLEMENTED)
            else:
                self._answer(200, b"")

        def do_GET(self) -> None:
            is_listing = "list-type=2" in self.path
            self._answer(200 if is_listing else 404, _EMPTY_LISTING if is_listing else _NOT_FOUND)

        def do_HEAD(self) -> None:
            self._answer(404, _NOT_FOUND)

        def do_DELETE(self) -> None:
            self._answer(204, b"")

        def log_message(self, *arguments: object) -> None:
            """Print nothing; the base class prints each request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield StorageConfig(
            endpoint_url=f"http://127.0.0.1:{server.server_address[1]}",
            access_key_id="any",
            secret_access_key="any",
            max_attempts=1,
        )
    finally:
        server.shutdown()
