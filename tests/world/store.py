"""A real S3 object store (SeaweedFS) on loopback, and a proxy before it that fails."""

import http.client
import itertools
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import s3fs

from xrec.config import StorageConfig
from xrec.storage import Location

_GRPC_OFFSET = 10_000  # weed listens for gRPC at each HTTP port + 10000
_START_SECONDS, _NUM_STARTS = 180, 3
_NOT_FORWARDED = {"connection", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server. It accepts only its own credentials."""

    endpoint_url: str
    access_key: str
    secret_key: str
    _names: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def keys(self) -> dict[str, str]:
        """The keys of `storage` in the config of a job that uses this store."""
        return {
            "endpoint_url": self.endpoint_url,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }

    @property
    def storage(self) -> StorageConfig:
        return StorageConfig.model_validate(self.keys)

    @property
    def environment(self) -> dict[str, str]:
        """The AWS environment variables that lead to this store."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        """Make an empty bucket and return its s3:// URI."""
        name = f"test-{next(self._names)}"
        fs = s3fs.S3FileSystem(
            endpoint_url=self.endpoint_url,
            key=self.access_key,
            secret=self.secret_key,
            skip_instance_cache=True,
        )
        fs.mkdir(name)
        return f"s3://{name}"


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Start a store with an empty data folder and random credentials; kill it at the end."""
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="xrec-s3-", ignore_cleanup_errors=True) as folder:
        process, port = _start_weed(Path(folder), access_key, secret_key)
        try:
            yield ObjectStore(f"http://127.0.0.1:{port}", access_key, secret_key)
        finally:
            process.kill()
            process.wait()


def _start_weed(
    folder: Path, access_key: str, secret_key: str
) -> tuple["subprocess.Popen[bytes]", int]:
    identity = {
        "name": "admin",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    # By default a new bucket takes seven volumes. Tests make many buckets.
    few = {"GOMEMLIMIT": "512MiB", "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    for _ in range(_NUM_STARTS):  # another program may take one of the ports first
        master, volume, filer, port = free_ports(4)
        (folder / str(port)).mkdir()
        with (folder / "weed.log").open("wb") as log:
            process = subprocess.Popen(
                _weed_command(folder, master, volume, filer, port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **few},
            )
        if _is_healthy(process, port):
            return process, port
        process.kill()
        process.wait()
    said = (folder / "weed.log").read_text(encoding="utf-8", errors="replace")
    raise RuntimeError(f"weed did not start:\n{said[-3000:]}")


def _is_healthy(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Wait until the server answers, and return whether it does."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).close()
            return process.poll() is None
        time.sleep(0.1)
    return False


def _weed_command(folder: Path, master: int, volume: int, filer: int, s3: int) -> list[str]:
    options = (
        "-ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false -master.volumeSizeLimitMB=256 "
        f"-master.electionTimeout=1s -master.port={master} -volume.max=1000 -volume.port={volume} "
        f"-volume.preStopSeconds=1 -filer -filer.port={filer} -s3 -s3.port={s3} -s3.iam=false "
        "-s3.port.iceberg=0 -s3.port.lance=0 -s3.allowDeleteBucketNotEmpty=false"
    )
    program = str(Path(sys.executable).with_name("weed"))
    folders = [f"-dir={folder / str(s3)}", f"-s3.config={folder / 's3.json'}"]
    return [program, "-logtostderr=true", "server", *folders, *options.split()]


def free_ports(count: int) -> list[int]:
    """Return `count` ports that are free, each together with the port of weed's gRPC."""
    ports: list[int] = []
    with ExitStack() as held:  # until all are found, so that none is found twice
        while len(ports) < count:
            # Both this port and its gRPC port are mostly below the range of ephemeral ports.
            port = 20_000 + secrets.randbelow(12_000)
            with suppress(OSError):
                for each in (port, port + _GRPC_OFFSET):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", each))
                ports.append(port)
    return ports


def copy_files(source: Location, target: Location) -> Location:
    """Copy all files of a folder into another one, and return that one."""
    for file in source.files():
        (target / file).write_bytes((source / file).read_bytes())
    return target


def requests_of(monkeypatch: Any) -> list[str]:
    """Return a list to which each later request of s3fs adds its S3 operation."""
    requests: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def noted(
        fs: s3fs.S3FileSystem, method: str, *arguments: object, **settings: object
    ) -> object:
        requests.append(method)
        return await call(fs, method, *arguments, **settings)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noted)
    return requests


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
        disable_nagle_algorithm = True  # else each answer waits 40 ms

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
            given = self.headers.items()
            headers = {name: each for name, each in given if name.lower() not in _NOT_FORWARDED}
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
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
            self.send_header("Content-Length", str(length or 0))
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
