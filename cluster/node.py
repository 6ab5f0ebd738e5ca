"""One Ray node on this machine: a `ray start --block` in a session of its own, which whoever knows its id can find and end later.

All that Ray starts for the node stays in that session, so its end is theirs, also when the node itself was killed.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

# One torch thread a worker: two on two cores collapse when anything else runs. Gloo would take the host's interface.
LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
}

_STOP_SECONDS = 15.0
_OBJECT_STORE_BYTES = 200_000_000
_TAIL_CHARACTERS = 2000


class NodeProcess(BaseModel):
    """A node that was started here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int = Field(description="Process id of `ray start`, and the id of its session.")
    address: str = Field(description="Loopback address of the node, as Ray lists it.")
    folder: str = Field(
        description="The node's own temporary folder, named in its command line; no other process has it there."
    )

    @property
    def is_running(self) -> bool:
        """Whether `ray start` itself still runs."""
        return self._leader() is not None

    def processes(self) -> list[psutil.Process]:
        """What still runs of the node, `ray start` first; empty if its id has become another program's."""
        leader = self._leader()
        if leader is None and _lives(self.pid):
            return []
        members = [
            process
            for process in psutil.process_iter()
            if process.pid != self.pid and _session(process.pid) == self.pid
        ]
        return [
            *([leader] if leader else []),
            *(process for process in members if _lives(process.pid)),
        ]

    def ask_to_end(self) -> list[psutil.Process]:
        """Tell `ray start --block` to end, which ends its children; returns it, or nothing if it has ended."""
        leader = self._leader()
        if leader is not None:
            with suppress(psutil.NoSuchProcess):
                leader.terminate()
        return [leader] if leader else []

    def kill(self) -> None:
        """What a power cut would do: kill -9 to all processes of the node."""
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=_STOP_SECONDS)

    def log_tail(self) -> str:
        """The end of what `ray start` printed."""
        return _log(Path(self.folder)).read_text(encoding="utf-8", errors="replace")[
            -_TAIL_CHARACTERS:
        ]

    def _leader(self) -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(self.pid)
            if f"--temp-dir={self.folder}" in process.cmdline():  # empty for a zombie
                return process
        return None


def stop_nodes(nodes: Sequence[NodeProcess]) -> int:
    """End the nodes and all that they started, at the same time; returns how many processes there were."""
    num_processes = sum(len(node.processes()) for node in nodes)
    psutil.wait_procs(
        [leader for node in nodes for leader in node.ask_to_end()], timeout=_STOP_SECONDS
    )
    for node in nodes:
        node.kill()
    return num_processes


def start_node(
    options: Sequence[str],
    address: str,
    num_cpus: int,
    environment: Mapping[str, str],
    folder: Path,
) -> NodeProcess:
    """Run `ray start --block OPTIONS` for a node at `address`, with the variables of `environment` only.

    Each node has its own folder: nodes that start at the same time in one folder take each other's socket names.
    """
    agent_port, runtime_env_port = free_ports(2)
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        *options,
        f"--node-ip-address={address}",
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
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd=folder.parent,
            start_new_session=True,
        )
    node = NodeProcess(pid=process.pid, address=address, folder=str(folder))
    while (
        process.poll() is None and not node.is_running
    ):  # for an instant after exec a process has no command line
        time.sleep(0.01)
    return node


def free_ports(count: int) -> list[int]:
    """Free ports of loopback; all are held until all are found, so they differ."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in taken]


def write_token(folder: Path) -> Path:
    """A file with a new token, readable by its owner only."""
    path = folder / "auth_token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="ascii")
    return path


def _log(folder: Path) -> Path:
    return folder.with_suffix(".log")


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
