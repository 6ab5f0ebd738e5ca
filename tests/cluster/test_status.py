"""Nodes and jobs as the dashboard reports them, corrected by the processes of this machine."""

import dataclasses

import pytest

from cluster.address import JobServer
from cluster.record import LocalCluster
from cluster.status import cluster_status, nodes
from tests.cluster.program import xrec
from xrec.errors import ClusterError


def test_nodes_are_a_head_and_two_workers_each_on_its_own_address(server: JobServer) -> None:
    found = [node for node in nodes(server) if node.state != "dead"]
    assert [node.address for node in found] == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    assert [node.is_head for node in found] == [True, False, False]
    assert all(node.state == "alive" and node.resources["CPU"] == 1 for node in found)
    assert len({node.node_id for node in found}) == 3


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer " + "0" * 64}])
def test_nodes_without_the_token_are_refused(server: JobServer, headers: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match=r"40[13].*RAY_AUTH_TOKEN"):
        nodes(dataclasses.replace(server, headers=headers))


def test_nodes_whose_process_is_gone_are_lost_whatever_ray_believes(server: JobServer) -> None:
    assert server.local is not None
    head, worker, last = server.local.nodes
    # No process has this folder in its command line.
    gone = worker.model_copy(update={"folder": "/tmp/xrec-ray-another/1"})
    local = server.local.model_copy(update={"nodes": (head, gone, last)})
    states = {node.address: node.state for node in nodes(dataclasses.replace(server, local=local))}
    assert [states[node.address] for node in local.nodes] == ["alive", "lost", "alive"]


def test_cluster_status_of_an_idle_cluster_has_nothing_in_use(server: JobServer) -> None:
    status = cluster_status(server)
    assert [node.in_use.get("CPU", 0.0) for node in status.nodes if node.state == "alive"] == [
        0.0,
        0.0,
        0.0,
    ]


def test_status_command_shows_nodes_by_name_and_by_url(three_nodes: LocalCluster) -> None:
    by_name = xrec("cluster", "status")
    assert by_name.returncode == 0, by_name.stderr
    assert f"cluster three at {three_nodes.dashboard_url}: 3 alive" in by_name.stdout
    assert "127.0.0.4  worker  alive  0 of 1" in by_name.stdout
    by_url = xrec(
        "cluster", "status", "--address", three_nodes.dashboard_url, **three_nodes.environment
    )
    assert by_url.returncode == 0, by_url.stderr
    assert by_url.stdout.splitlines()[1:5] == by_name.stdout.splitlines()[1:5]


def test_status_command_without_the_token_exits_1_and_names_the_variable(
    three_nodes: LocalCluster,
) -> None:
    done = xrec(
        "cluster", "status", "--address", three_nodes.dashboard_url, RAY_AUTH_MODE="disabled"
    )
    assert done.returncode == 1
    assert "RAY_AUTH_TOKEN" in done.stderr
