"""A real nginx with the config of infra/nginx, in front of a server that echoes requests."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress

import pytest
import requests
import uvicorn

from tests.world.program import NGINX, config_in, nginx_before
from xrec.serve.problems import MEDIA_TYPE, ProblemError

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")
MAX_CONNECTIONS = 32


class Upstream:
    """Echoes the request, or does what the path says; a stream continues once `released` is set."""

    def __init__(self):
        self.released, self.num_bodies = threading.Event(), 0

    async def __call__(self, scope, receive, send) -> None:
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.num_bodies += 1

        async def answer(content: bytes, media_type: str, status: int = 200, more: bool = False):
            headers = [(b"content-type", media_type.encode()), (b"x-request-id", b"of-ray")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": content, "more_body": more})

        _, kind, *rest = scope["path"].split("/")
        if kind == "plain":  # as Ray's proxy answers
            await answer(b"frontend 17 died at 10.0.0.3", "text/plain", int(rest[0]))
        elif kind == "problem":
            problem = ProblemError(int(rest[0]), "of_endpoint", "", 7)
            await answer(problem.response("other").body, MEDIA_TYPE, int(rest[0]))
        elif kind == "slow":
            await asyncio.sleep(60)
        elif rest[-1:] == ["stream"]:
            await answer(b"first", "text/event-stream", more=True)
            await asyncio.to_thread(self.released.wait, 60)
            await send({"type": "http.response.body", "body": b"last"})
        else:
            headers = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
            got = {"headers": headers, "bytes": len(body), "path": scope["raw_path"].decode()}
            await answer(json.dumps(got).encode(), "application/json")


@pytest.fixture(scope="module")
def upstream():
    app = Upstream()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", proxy_headers=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        app.port = listening.getsockname()[1]
        yield app
        server.should_exit = server.force_exit = True
        thread.join(60)


@pytest.fixture(scope="module")
def url(upstream):
    with nginx_before(upstream.port) as made:
        yield made


@pytest.fixture(scope="module")
def impatient_url(upstream):
    """The URL of an nginx that waits only a second for clients and for the upstream."""
    values = {"client_body_timeout": "1s", "proxy_read_timeout": "1s"}
    with nginx_before(upstream.port, **values) as made:
        yield made


def raw(url: str, text: bytes, address: str = "127.0.0.1") -> bytes:
    """Send bytes, and return the answer up to the end of the connection."""
    found = b""
    with connect(url, address) as connection, suppress(ConnectionResetError):
        connection.sendall(text)
        while piece := connection.recv(2**16):
            found += piece
    return found


def connect(url: str, address: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 30, (address, 0))


def check_problem(response: requests.Response, status: int) -> None:
    problem = response.json()
    assert response.headers["Content-Type"] == MEDIA_TYPE
    assert (response.status_code, problem["status"]) == (status, status)
    assert problem["type"].startswith("/problems/")
    assert all(problem[name] for name in ("title", "detail"))
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) == (status in (429, 502, 503, 504))
    assert response.headers["Cache-Control"] == "no-store"


def test_config_is_valid_with_its_certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    pem, key = tmp_path / "endpoint.pem", tmp_path / "endpoint.key"
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout"
    subprocess.run([*made.split(), key, "-out", pem], check=True, capture_output=True)
    text = config_in(tmp_path, ssl_certificate=str(pem), ssl_certificate_key=str(key))
    (tmp_path / "nginx.conf").write_text(text)
    command = [NGINX, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", "stderr"]
    done = subprocess.run(
        [*command, "-g", f"pid {tmp_path}/pid;"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_headers_that_the_endpoint_reads_and_the_unchanged_path_pass(url):
    given = {
        "Authorization": "Bearer sesame",
        "X-API-Key": "sesame",
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "If-None-Match": '"7"',
        "X-Request-ID": "shop-1",
    }
    refused = {
        **dict.fromkeys(("Forwarded", "X-Forwarded-For", "X-Real-IP"), "127.0.0.1"),
        **dict.fromkeys(("Host", "X-Forwarded-Host"), "localhost"),
        **dict.fromkeys(("X-Request-Timeout-Seconds", "X-Session-ID", "x_session_id"), "1"),
        **dict.fromkeys(("serve_multiplexed_model_id", "Serve-Multiplexed-Model-ID"), "1"),
        **dict.fromkeys(("X-Serve-Router-Id", "RAY-X", "traceparent"), "1"),
        "X-Request-Disconnect-Disabled": "?1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
    }
    path = "/v1/users/a%2Fb%20%C3%A9/recommendations"
    got = requests.post(f"{url}{path}?k=1", b"{}", headers={**given, **refused}).json()
    assert got["path"] == path
    assert dict(got["headers"]) == {
        **{name.lower(): value for name, value in given.items()},
        "host": "localhost",
        "content-length": "2",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
    }
    assert len(got["headers"]) == len(dict(got["headers"]))


def test_body_arrives_whole_or_not_at_all(url, impatient_url, upstream):
    before = upstream.num_bodies
    head = b"POST /v1/explanations HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    assert raw(impatient_url, head + b"Content-Length: 99\r\n\r\n{") == b""
    for body in (b" " * (256 * 1024 + 1), iter([b" " * 2**16] * 5)):  # with and without a length
        check_problem(requests.post(f"{url}/v1/explanations", body), 413)
    assert upstream.num_bodies == before
    for body in (b" " * (256 * 1024), iter([b" " * 2**16] * 4)):
        got = requests.post(f"{url}/v1/explanations", body).json()
        assert got["bytes"] == 256 * 1024
        assert ["content-length", str(256 * 1024)] in got["headers"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /-/routes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_requests_that_nginx_refuses_are_problems(url, head, status):
    answer, _, body = raw(url, head).partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert f"Content-Type: {MEDIA_TYPE}".encode() in answer
    assert json.loads(body)["status"] == status


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *((f"plain/{status}", status) for status in (502, 503, 504)),
        *((f"problem/{status}", status) for status in (500, 503, 504)),
        ("plain/500", 503),  # a dead frontend
        ("slow", 504),
    ],
)
def test_faults_behind_nginx_are_problems_with_a_time_to_retry(url, impatient_url, path, expected):
    response = requests.get(f"{impatient_url if path == 'slow' else url}/{path}")
    check_problem(response, expected)
    assert "10.0.0.3" not in response.text


def test_streams_pass_piece_by_piece(url, upstream):
    with requests.get(f"{url}/v1/explanations/stream", stream=True) as response:
        pieces = response.iter_content(None)
        assert next(pieces) == b"first"  # the upstream waits for the next line
        upstream.released.set()
        assert next(pieces) == b"last"


def test_connections_are_limited_by_address(upstream):
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    refused = b""
    with nginx_before(upstream.port) as url:
        # nginx may not have read the other heads yet, and it closes those that stall for long.
        while not refused.startswith(b"HTTP/1.1 429"):
            with ExitStack() as held:
                for _ in range(MAX_CONNECTIONS):
                    stalled = held.enter_context(connect(url, "127.0.0.2"))
                    stalled.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
                refused = raw(url, head, "127.0.0.2")
                assert requests.get(f"{url}/v1/items").status_code == 200
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["type"] == "/problems/address"
    assert b"Retry-After: 1" in refused


def test_log_has_request_ids_and_no_user_or_item_ids(upstream, tmp_path):
    log = tmp_path / "access.log"
    with nginx_before(upstream.port, access_log=f"{log} json") as url:
        asked = requests.get(f"{url}/v1/explanations/resident-17/place-3?k=secret")
        requests.get(f"{url}/-/routes")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [200, 404]
    assert lines[0]["request_id"] == asked.headers["X-Request-ID"]
    assert not re.search("resident|place-3|secret", log.read_text())
