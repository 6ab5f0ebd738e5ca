"""A Ray cluster of several real nodes on this machine: one head, some workers, each its own raylet on its own loopback address.

For tests and for trying things out. Token authentication is on, with a token of its own.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.connect import LOCAL_ENVIRONMENT
from cluster.status import nodes
from cluster.token import auth_headers
from xrec.errors import ClusterError

_START_SECONDS = 90.0
_STOP_SECONDS = 15.0
_OBJECT_STORE_BYTES = 200_000_000


@dataclass(frozen=True)
class LocalCluster:
    """A running cluster. `environment` holds the variables by which a client proves that it may use it."""

    address: str
    dashboard_url: str
    environment: Mapping[str, str]
    processes: tuple["subprocess.Popen[bytes]", ...]


@contextmanager
def local_cluster(num_workers: int = 2, cpus_per_node: int = 1) -> Iterator[LocalCluster]:
    """A head and `num_workers` workers; `address` is for ray.address or RAY_ADDRESS, `dashboard_url` for `xrec submit`.

    All are stopped at the end of the `with`. Raises ClusterError if a node does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xrec-ray-", ignore_cleanup_errors=True)))
        client_environment = _token(folder)
        environment = {**os.environ, **LOCAL_ENVIRONMENT, **client_environment, "PATH": _path_with_this_python()}
        environment.pop("RAY_ADDRESS", None)
        port, dashboard_port, client_port = _free_ports(3)
        address, url = f"127.0.0.2:{port}", f"http://127.0.0.1:{dashboard_port}"
        head = [
            "--head",
            "--node-ip-address=127.0.0.2",
            f"--port={port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard_port}",
            f"--ray-client-server-port={client_port}",
        ]
        processes = [stack.enter_context(_node(head, cpus_per_node, environment, folder / "0"))]
        _wait_for_nodes(processes, url, client_environment, folder)
        for number in range(1, num_workers + 1):
            worker = [f"--address={address}", f"--node-ip-address=127.0.0.{number + 2}"]
            processes.append(stack.enter_context(_node(worker, cpus_per_node, environment, folder / str(number))))
        _wait_for_nodes(processes, url, client_environment, folder)
        yield LocalCluster(address, url, client_environment, tuple(processes))


def _token(folder: Path) -> dict[str, str]:
    path = folder / "auth_token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="ascii")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def _path_with_this_python() -> str:
    """A submitted job's `python` is the one of the node's PATH: this one, so that it has the same packages."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


@contextmanager
def _node(options: Sequence[str], num_cpus: int, environment: Mapping[str, str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """One `ray start --block`, in a session of its own: its end is the node's end.

    Each node has its own folder: nodes that start at the same time in one folder take each other's socket names.
    """
    agent_port, runtime_env_port = _free_ports(2)
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        *options,
        f"--num-cpus={num_cpus}",
        f"--temp-dir={folder}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--runtime-env-agent-port={runtime_env_port}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--disable-usage-stats",
    ]
    with _log(folder).open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment), start_new_session=True)
    try:
        yield process
    finally:
        _stop(process)


def _wait_for_nodes(processes: Sequence["subprocess.Popen[bytes]"], url: str, environment: Mapping[str, str], folder: Path) -> None:
    """Return when the cluster counts as many living nodes as there are processes."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        for number, process in enumerate(processes):
            if process.poll() is not None:
                raise ClusterError(f"node {number} ended with code {process.returncode} while starting:\n{_tail(folder, number)}")
        if _num_alive(url, environment) == len(processes):
            return
        time.sleep(0.3)
    raise ClusterError(
        f"{_num_alive(url, environment)} of {len(processes)} nodes started in {_START_SECONDS:g} s:\n{_tail(folder, len(processes) - 1)}"
    )


def _num_alive(url: str, environment: Mapping[str, str]) -> int:
    try:
        return sum(node.is_alive for node in nodes(url, auth_headers(environment)))
    except ClusterError:  # the dashboard does not answer yet
        return 0


def _log(folder: Path) -> Path:
    return folder.with_suffix(".log")


def _tail(folder: Path, number: int) -> str:
    return _log(folder / str(number)).read_text(encoding="utf-8", errors="replace")[-2000:]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """`ray start --block` ends its children when asked to end; the session's signal reaches any that it left."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Free ports of loopback; all are held until all are found, so they differ."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in taken]
