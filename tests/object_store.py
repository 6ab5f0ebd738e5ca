"""A real S3 object store (SeaweedFS) on loopback, for tests and benchmarks."""

import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import s3fs

from xrec.config.shared import StorageConfig
from xrec.storage import Location

_GRPC_OFFSET = 10_000  # weed listens for gRPC at each HTTP port + 10000
_START_SECONDS = 180


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server. It accepts only its own credentials."""

    endpoint_url: str
    access_key: str
    secret_key: str
    _names: Iterator[int] = field(default_factory=itertools.count, repr=False)

    @property
    def storage(self) -> StorageConfig:
        """The `storage` section of a job that uses this store."""
        return StorageConfig(
            endpoint_url=self.endpoint_url,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            max_attempts=3,
        )

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
        """Make a new, empty bucket and return its s3:// URI."""
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
    """Start a store with a data folder of its own and random credentials.

    At the end the server is killed and the folder deleted.
    """
    folder = Path(tempfile.mkdtemp(prefix="xrec-s3-"))
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    process, port = _start_weed(folder, access_key, secret_key)
    try:
        _wait_until_healthy(process, port, folder / "weed.log")
        yield ObjectStore(f"http://127.0.0.1:{port}", access_key, secret_key)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _start_weed(
    folder: Path, access_key: str, secret_key: str
) -> tuple[subprocess.Popen[bytes], int]:
    identity = {
        "name": "admin",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    (folder / "data").mkdir()
    master, volume, filer, port = _free_ports(4)
    command = _weed_command(folder, master, volume, filer, port)
    with (folder / "weed.log").open("wb") as log:
        # By default a new bucket takes seven volumes at its first write. Tests make many buckets.
        environment = {
            **os.environ,
            "GOMEMLIMIT": "512MiB",
            "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
        }
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment
        )
    return process, port


def _weed_command(folder: Path, master: int, volume: int, filer: int, s3: int) -> list[str]:
    return [
        str(Path(sys.executable).with_name("weed")),
        "-logtostderr=true",
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        "-master.electionTimeout=1s",
        f"-master.port={master}",
        "-volume.max=1000",
        f"-volume.port={volume}",
        "-volume.preStopSeconds=1",
        "-filer",
        f"-filer.port={filer}",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.config={folder / 's3.json'}",
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.allowDeleteBucketNotEmpty=false",
    ]


def _free_ports(count: int) -> list[int]:
    """Return `count` different ports, each of which is free together with its gRPC port."""
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


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).close()
            return
        time.sleep(0.1)
    raise RuntimeError(
        f"weed did not start in {_START_SECONDS} s:\n"
        + log.read_text(encoding="utf-8", errors="replace")[-3000:]
    )


def copy_files(source: Location, target: Location) -> Location:
    """Copy all files of a folder into another one; returns the other one."""
    for file in source.files():
        (target / file).write_bytes((source / file).read_bytes())
    return target


def requests_of(monkeypatch: Any) -> list[str]:
    """A list to which each later request of s3fs adds the name of its S3 operation."""
    requests: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def noted(
        fs: s3fs.S3FileSystem, method: str, *arguments: object, **settings: object
    ) -> object:
        requests.append(method)
        return await call(fs, method, *arguments, **settings)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noted)
    return requests
