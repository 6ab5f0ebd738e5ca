"""One Ray node on this machine: a `ray start --block` in a process session of its own.

All processes that Ray starts for the node stay in that session. So a later program that knows
the session's id can find and stop all of them, even if `ray start` itself was killed.
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

# One torch thread a worker: with two threads on two cores, training becomes very slow as soon as
# anything else runs. Gloo would use the host's network interface if it were not told to use "lo".
LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
}

_STOP_SECONDS = 15.0
_OBJECT_STORE_BYTES = 200_000_000
_TAIL_CHARACTERS = 2000


class NodeProcess(BaseModel):
    """A node that was started on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int = Field(description="Process id of `ray start`, and the id of its session.")
    address: str = Field(description="Loopback address of the node, as Ray lists it.")
    folder: str = Field(
        description="The node's temporary folder. Its path stands in the command line of this "
        "node's `ray start` and of no other process."
    )

    @property
    def is_running(self) -> bool:
        """Whether `ray start` itself still runs."""
        return self._leader() is not None

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the node that still run, `ray start` first.

        The list is empty if another program has got the node's process id.
        """
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
        """Send SIGTERM to `ray start --block`, which then stops its children.

        Returns a list with that process, or an empty list if it had ended already.
        """
        leader = self._leader()
        if leader is not None:
            with suppress(psutil.NoSuchProcess):
                leader.terminate()
        return [leader] if leader else []

    def kill(self) -> None:
        """Send SIGKILL to all processes of the node, and wait until they have ended."""
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=_STOP_SECONDS)

    def log_tail(self) -> str:
        """Return the end of what `ray start` printed."""
        text = _log(Path(self.folder)).read_text(encoding="utf-8", errors="replace")
        return text[-_TAIL_CHARACTERS:]

    def _leader(self) -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(self.pid)
            # The command line of a zombie is empty.
            if f"--temp-dir={self.folder}" in process.cmdline():
                return process
        return None


def stop_nodes(nodes: Sequence[NodeProcess]) -> int:
    """Stop the nodes, all at the same time, with all processes that they started.

    Returns how many processes there were.
    """
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
    """Run `ray start --block OPTIONS` for a node at `address`.

    `environment` is the whole environment of the node. `folder` must be used by this node only:
    nodes that start at the same time in one folder use the same names for their sockets. Returns
    the node, which may still be starting.
    """
    with _log(folder).open("wb") as output:
        process = subprocess.Popen(
            _ray_start(options, address, num_cpus, folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd=folder.parent,
            start_new_session=True,
        )
    node = NodeProcess(pid=process.pid, address=address, folder=str(folder))
    # For a moment after exec a process has no command line, and would not be found by it.
    while process.poll() is None and not node.is_running:
        time.sleep(0.01)
    return node


def _ray_start(options: Sequence[str], address: str, num_cpus: int, folder: Path) -> list[str]:
    agent_port, runtime_env_port = free_ports(2)
    return [
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


def free_ports(count: int) -> list[int]:
    """Return `count` free ports of 127.0.0.1, all different."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in taken]


def write_token(folder: Path) -> Path:
    """Write a new token to a file that only its owner can read; returns the file's path."""
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
