"""The nodes and jobs of a running Ray cluster, as its dashboard reports them over HTTP.

Ray needs up to half a minute to notice that a node is gone. For a cluster on this machine the
processes are looked at too: a node whose `ray start` has ended is "lost" even while Ray still
reports it as alive.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cluster.address import JobServer
from cluster.dashboard import ask
from cluster.jobs import JobEntry, list_jobs
from cluster.record import LocalCluster
from xrec.errors import ClusterError

NodeState = Literal["alive", "dead", "lost"]

_NODES_PATH = "/api/v0/nodes?limit=10000&detail=1"


@dataclass(frozen=True)
class NodeStatus:
    """One node.

    `resources` and `in_use` map a resource name to an amount: CPU and GPU in units, memory in
    bytes. `in_use` is some seconds old.
    """

    node_id: str
    address: str
    is_head: bool
    state: NodeState
    resources: Mapping[str, float]
    in_use: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterStatus:
    """All nodes, including dead ones, the head first; all jobs, the newest first."""

    nodes: tuple[NodeStatus, ...]
    jobs: tuple[JobEntry, ...]


def cluster_status(server: JobServer) -> ClusterStatus:
    """Return the nodes, with what is in use of each, and the jobs.

    Raises ClusterError if the cluster does not answer, refuses, or has lost its head.
    """
    if server.local is not None:
        _check_head(server.local)
    use = _use(server)
    found = [
        replace(node, in_use=use.get(node.node_id, {})) if node.state == "alive" else node
        for node in nodes(server)
    ]
    return ClusterStatus(tuple(found), tuple(list_jobs(server)))


def nodes(server: JobServer) -> list[NodeStatus]:
    """Return the nodes of the cluster, including dead ones, the head first.

    Raises ClusterError if the cluster does not answer or refuses.
    """
    answer = ask(server, _NODES_PATH)
    try:
        rows = answer["data"]["result"]["result"]
    except (KeyError, TypeError) as error:
        raise ClusterError(
            f"{server.url}: its answer has no list of nodes; check that this is a Ray dashboard"
        ) from error
    started_here = server.local.nodes if server.local else ()
    gone = {node.address for node in started_here if not node.is_running}
    return sorted(
        (_node(row, gone) for row in rows), key=lambda node: (not node.is_head, node.address)
    )


def _node(row: Mapping[str, Any], gone: set[str]) -> NodeStatus:
    resources = {
        name: total
        for name, total in row["resources_total"].items()
        if not name.startswith("node:")
    }
    state: NodeState = (
        "dead" if row["state"] != "ALIVE" else "lost" if row["node_ip"] in gone else "alive"
    )
    return NodeStatus(row["node_id"], row["node_ip"], row["is_head_node"], state, resources)


def _use(server: JobServer) -> dict[str, dict[str, float]]:
    """Return what is in use of each node, by node id.

    The result is empty until the autoscaler's monitor has reported for the first time.
    """
    status = ask(server, "/api/cluster_status")["data"]["clusterStatus"] or {}
    by_node = (status.get("loadMetricsReport") or {}).get("usageByNode") or {}
    return {
        node_id: {name: used for name, (used, _) in amounts.items()}
        for node_id, amounts in by_node.items()
    }


def _check_head(cluster: LocalCluster) -> None:
    if not cluster.nodes or not cluster.nodes[0].is_running:
        num_left = sum(node.is_running for node in cluster.nodes)
        num_workers = max(len(cluster.nodes) - 1, 0)
        raise ClusterError(
            f"cluster {cluster.name!r}: its head is gone, and the {num_left} of {num_workers} "
            "workers that still run cannot be used without it; run "
            f"`xrec cluster down --name {cluster.name}`, then `xrec cluster up` again"
        )
