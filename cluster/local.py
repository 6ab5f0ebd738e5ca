"""A Ray cluster of several real nodes on this machine, for tests and for trying things out.

There is a head and some workers; each is a raylet of its own with a loopback address of its own.
Token authentication is on, and each cluster has its own token.
"""

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster import record
from cluster.address import JobServer
from cluster.node import (
    LOCAL_ENVIRONMENT,
    NodeProcess,
    free_ports,
    start_node,
    stop_nodes,
    write_token,
)
from cluster.record import LocalCluster
from cluster.status import nodes
from cluster.token import auth_headers
from xrec.errors import ClusterError

_START_SECONDS = 90.0
_MOST_NODES = 64


def start_cluster(name: str, num_nodes: int, cpus_per_node: int) -> LocalCluster:
    """Start a head and `num_nodes` - 1 workers, and record them under `name`.

    The nodes outlive this process. Raises ConfigError if the name is not allowed, ValueError if
    the number is not, and ClusterError if the name is taken or a node does not start. After an
    error no node runs.
    """
    record.check_name(name)
    if not 1 <= num_nodes <= _MOST_NODES:
        raise ValueError(f"num_nodes must be from 1 to {_MOST_NODES}, saw {num_nodes}")
    record.claim(name)
    try:
        return _start(name, num_nodes, cpus_per_node, record.save)
    except BaseException:
        record.forget(name)
        raise


def stop_cluster(name: str) -> int:
    """Stop the processes of the cluster that `start_cluster` recorded as `name`, and no others.

    Returns how many processes still ran. Raises ClusterError if there is no such cluster.
    """
    if name not in record.names():
        known = ", ".join(record.names()) or "none"
        raise ClusterError(f"no cluster {name!r} was started on this machine; known names: {known}")
    cluster = record.find(name)
    num_processes = _stop(cluster) if cluster else 0
    record.forget(name)
    return num_processes


@contextmanager
def local_cluster(num_workers: int = 2, cpus_per_node: int = 1) -> Iterator[LocalCluster]:
    """Run a head and `num_workers` workers inside the `with` block.

    The cluster's `address` is for ray.address or RAY_ADDRESS, its `dashboard_url` for
    `xrec submit`. No record is kept, and all nodes are stopped at the end of the block. Raises
    ClusterError if a node does not start.
    """
    cluster = _start(f"test-{uuid.uuid4().hex[:8]}", num_workers + 1, cpus_per_node, lambda _: None)
    try:
        yield cluster
    finally:
        _stop(cluster)


def add_node(cluster: LocalCluster, cpus: int = 1) -> LocalCluster:
    """Start one more worker and return the cluster with it.

    The worker joins within seconds. The caller must stop it with `stop_nodes`.
    """
    return _with_node(cluster, [f"--address={cluster.address}"], cpus)


def _start(
    name: str, num_nodes: int, cpus_per_node: int, on_node: Callable[[LocalCluster], None]
) -> LocalCluster:
    """Start one node after the other.

    `on_node` is called with the cluster as it is so far, before and after each node is started.
    """
    cluster, head = _empty_cluster(name)
    try:
        for number in range(num_nodes):
            on_node(cluster)
            cluster = _with_node(
                cluster, head if number == 0 else [f"--address={cluster.address}"], cpus_per_node
            )
            on_node(cluster)
            if number in (0, num_nodes - 1):
                _wait_for_nodes(cluster)
        return cluster
    except BaseException:
        _stop(cluster)
        raise


def _with_node(cluster: LocalCluster, options: Sequence[str], cpus: int) -> LocalCluster:
    number = len(cluster.nodes)
    node = start_node(
        options,
        f"127.0.0.{number + 2}",
        cpus,
        _environment(cluster),
        Path(cluster.folder) / str(number),
    )
    return cluster.model_copy(update={"nodes": (*cluster.nodes, node)})


def _empty_cluster(name: str) -> tuple[LocalCluster, list[str]]:
    """Return a cluster without nodes, and the options of `ray start` for its head."""
    # The path must be short: the names of Ray's sockets have at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="xrec-ray-"))
    port, dashboard_port, client_port = free_ports(3)
    head = [
        "--head",
        f"--port={port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}",
        f"--ray-client-server-port={client_port}",
    ]
    url = f"http://127.0.0.1:{dashboard_port}"
    return LocalCluster(
        name=name,
        address=f"127.0.0.2:{port}",
        dashboard_url=url,
        folder=str(folder),
        token_path=str(write_token(folder)),
    ), head


def _environment(cluster: LocalCluster) -> dict[str, str]:
    """Return the variables of a node: those of this process, without those that name a cluster.

    A submitted job runs the first `python` on its node's PATH. The PATH begins with the folder of
    this Python, so that a job has the same packages.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS")
    }
    return {**inherited, **LOCAL_ENVIRONMENT, **cluster.environment, "PATH": path}


def _wait_for_nodes(cluster: LocalCluster) -> None:
    """Wait until the cluster reports as many living nodes as were started."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        for node in cluster.nodes:
            if not node.is_running:
                raise ClusterError(
                    f"the node at {node.address} ended while starting:\n{node.log_tail()}"
                )
        if _num_alive(cluster) == len(cluster.nodes):
            return
        time.sleep(0.3)
    last: NodeProcess = cluster.nodes[-1]
    raise ClusterError(
        f"{_num_alive(cluster)} of {len(cluster.nodes)} nodes started in {_START_SECONDS:g} s:\n"
        f"{last.log_tail()}"
    )


def _num_alive(cluster: LocalCluster) -> int:
    try:
        server = JobServer(cluster.dashboard_url, auth_headers(cluster.environment))
        return sum(node.state == "alive" for node in nodes(server))
    except ClusterError:  # the dashboard does not answer yet
        return 0


def _stop(cluster: LocalCluster) -> int:
    """Stop the workers, then the head, and return the number of processes.

    In the other order the workers would look for their head.
    """
    num_processes = stop_nodes(cluster.nodes[1:]) + stop_nodes(cluster.nodes[:1])
    shutil.rmtree(cluster.folder, ignore_errors=True)
    return num_processes
