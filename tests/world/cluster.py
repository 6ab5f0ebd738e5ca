"""Ray clusters of several real nodes on this machine: raylets, each with its loopback address.

A node is a `ray start --block` in its own process session, so that all processes that Ray starts
for it can be found and killed. Each cluster requires its own token.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tests.world.store import free_ports
from xrec.cluster import LOCAL_ENVIRONMENT

_START_SECONDS, _KILL_SECONDS, _MOST_STARTS = 90.0, 15.0, 3
_OF_OTHER_CLUSTERS = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS")


@dataclass(frozen=True)
class NodeProcess:
    """A node: the process ID of its `ray start`, which is also the ID of its session."""

    pid: int
    address: str
    folder: str

    def processes(self) -> list[psutil.Process]:
        return [each for each in psutil.process_iter() if _session(each.pid) == self.pid]

    def kill(self) -> None:
        """Kill all processes of the node, and wait until they have ended."""
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=_KILL_SECONDS)


@dataclass(frozen=True)
class LocalCluster:
    """A cluster at `address` (host:port), whose dashboard is the job server; both need `token`."""

    address: str
    dashboard_url: str
    folder: str
    token: str
    nodes: tuple[NodeProcess, ...] = ()

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables with which a client is let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def alive(self) -> dict[str, str]:
        """Return the IDs of the nodes that Ray considers alive, by address."""
        request = urllib.request.Request(
            f"{self.dashboard_url}/api/v0/nodes?limit=100&detail=1",
            headers={"Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            rows = json.load(answer)["data"]["result"]["result"]
        return {row["node_ip"]: row["node_id"] for row in rows if row["state"] == "ALIVE"}


@contextmanager
def local_cluster(num_workers: int = 2, cpus_per_node: int = 1) -> Iterator[LocalCluster]:
    """Run a head and `num_workers` workers inside the `with` block."""
    # The path must be short: the names of Ray's sockets have at most 107 characters.
    folder = tempfile.mkdtemp(prefix="xrec-ray-")
    port, dashboard_port, client_port = free_ports(3)
    head = (
        f"--head --port={port} --dashboard-host=127.0.0.1 --dashboard-port={dashboard_port} "
        f"--ray-client-server-port={client_port} --no-monitor"
    )
    url = f"http://127.0.0.1:{dashboard_port}"
    cluster = LocalCluster(f"127.0.0.2:{port}", url, folder, secrets.token_hex(32))
    try:
        cluster = _with_node(cluster, cpus_per_node, head.split())
        for _ in range(num_workers):
            cluster = _with_node(cluster, cpus_per_node)
        yield cluster
    finally:
        for node in cluster.nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _with_node(cluster: LocalCluster, cpus: int, options: Sequence[str] = ()) -> LocalCluster:
    """Return the cluster with one more node, once it has joined.

    Ray gives up on a node that takes more than 30 s, so on a busy machine it is started again.
    """
    for _ in range(_MOST_STARTS):
        grown = add_node(cluster, cpus, options=options)
        if _has_joined(grown):
            return grown
        grown.nodes[-1].kill()
    last = Path(grown.nodes[-1].folder).with_suffix(".log")
    raise AssertionError(f"a node did not start:\n{last.read_text()[-2000:]}")


def add_node(
    cluster: LocalCluster, cpus: int = 1, *, options: Sequence[str] = (), **variables: str
) -> LocalCluster:
    """Start one more node, which the caller must kill, and return the cluster with it.

    The node joins within seconds.
    """
    number = len(cluster.nodes)
    address, folder = f"127.0.0.{number + 2}", Path(cluster.folder) / str(number)
    command = _ray_start(options or [f"--address={cluster.address}"], address, cpus, folder)
    with folder.with_suffix(".log").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**_environment(), **cluster.environment, **variables},
            cwd=cluster.folder,
            start_new_session=True,
        )
    node = NodeProcess(process.pid, address, str(folder))
    return replace(cluster, nodes=(*cluster.nodes, node))


def running(processes: Iterable[psutil.Process], name: str) -> list[psutil.Process]:
    """Return the processes whose command line contains `name`."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def training_workers(ancestor: psutil.Process) -> list[psutil.Process]:
    """Return Ray Train's workers among the descendants of `ancestor`."""
    return running(ancestor.children(recursive=True), "RayTrainWorker")


def kill_family(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process, and then the processes that it leaves behind.

    The workers are suspended first, because on a busy machine orphans could finish the training.
    """
    family = psutil.Process(process.pid).children(recursive=True)
    for worker in training_workers(psutil.Process(process.pid)):
        worker.suspend()
    os.kill(process.pid, signal.SIGKILL)
    _, orphans = psutil.wait_procs(family, timeout=10)
    for orphan in orphans:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()


def _has_joined(cluster: LocalCluster) -> bool:
    """Wait until all nodes are alive; return False if the last one ended or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):  # the dashboard does not answer yet
            if len(cluster.alive()) == len(cluster.nodes):
                return True
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(cluster.nodes[-1].pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.2)
                continue
        return False
    return False


def _environment() -> dict[str, str]:
    """Return the variables of this process without those that name a cluster.

    A submitted job runs the first `python` on its node's PATH, which must be this one.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    kept = {name: value for name, value in os.environ.items() if name not in _OF_OTHER_CLUSTERS}
    return {**kept, **LOCAL_ENVIRONMENT, "PATH": path}


def _ray_start(options: Sequence[str], address: str, num_cpus: int, folder: Path) -> list[str]:
    agent_port, runtime_env_port = free_ports(2)
    given = (
        f"--node-ip-address={address} --num-cpus={num_cpus} --temp-dir={folder} "
        f"--dashboard-agent-listen-port={agent_port} --runtime-env-agent-port={runtime_env_port} "
        "--object-store-memory=200000000 --min-worker-port=0 --max-worker-port=0 "
        "--disable-usage-stats --include-log-monitor=false"
    )
    program = str(Path(sys.executable).with_name("ray"))
    return [program, "start", "--block", *options, *given.split()]


def _session(pid: int) -> int | None:
    """Return the session of a process; None if it has ended or is a zombie."""
    try:
        ended = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return None if ended else os.getsid(pid)
    except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        return None
