"""`xrec cluster up | status | down`: several nodes, as processes that outlive the command."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster import record
from cluster.local import start_cluster, stop_cluster
from cluster.node import start_node
from cluster.record import LocalCluster
from tests.cluster.program import still_running, xrec
from xrec.errors import ClusterError


def test_up_nodes_outlive_the_command_each_in_its_own_session(three_nodes: LocalCluster) -> None:
    assert [node.address for node in three_nodes.nodes] == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    for node in three_nodes.nodes:
        assert node.is_running
        names = [process.name() for process in node.processes()]
        assert names.count("raylet") == 1
        assert {os.getsid(process.pid) for process in node.processes()} == {node.pid}


def test_up_a_name_that_is_taken_is_refused_and_starts_nothing(three_nodes: LocalCluster) -> None:
    done = xrec("cluster", "up", "--name", three_nodes.name)
    assert done.returncode == 1
    assert f"xrec cluster down --name {three_nodes.name}" in done.stderr
    assert record.find(three_nodes.name) == three_nodes


@pytest.mark.parametrize("name", ["auto", "local", "Two Words", "10.0.0.1:6379", "http://head"])
def test_up_a_name_that_is_an_address_exits_2(name: str) -> None:
    done = xrec("cluster", "up", "--name", name)
    assert done.returncode == 2
    assert name in done.stderr


def test_token_is_readable_by_its_owner_only_and_in_no_command_line(
    three_nodes: LocalCluster,
) -> None:
    path = Path(three_nodes.token_path)
    assert path.stat().st_mode & 0o077 == 0
    token = path.read_text()
    assert len(token) == 64
    lines = [
        " ".join(process.cmdline()) for node in three_nodes.nodes for process in node.processes()
    ]
    assert not any(token in line for line in lines)


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_cluster_without_the_token_refuses_http(
    three_nodes: LocalCluster, token: str | None
) -> None:
    request = urllib.request.Request(
        three_nodes.dashboard_url + "/api/jobs/",
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=30)
    assert raised.value.code in (401, 403)


JOINS = """
import sys
from cluster.connect import ensure_ray
from xrec.config.shared import RayConfig
import ray

with ensure_ray(RayConfig(address=sys.argv[1])):
    print(sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]))
"""


def _join(address: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", JOINS, address],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow  # Ray tries for 20 s
def test_cluster_without_the_token_refuses_a_driver(three_nodes: LocalCluster) -> None:
    done = _join(three_nodes.address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode != 0
    assert "127.0.0.4" not in done.stdout
    assert three_nodes.address in done.stderr.splitlines()[-1]


def test_ray_address_is_the_name_of_a_local_cluster_whatever_token_is_set(
    three_nodes: LocalCluster,
) -> None:
    done = _join(three_nodes.name, RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['127.0.0.2', '127.0.0.3', '127.0.0.4']"


@pytest.fixture
def two_nodes() -> LocalCluster:
    """A cluster of two nodes, which the test itself stops."""
    return start_cluster("two", num_nodes=2, cpus_per_node=1)


@pytest.mark.slow  # a cluster of its own
def test_status_tells_of_a_lost_worker_at_once_then_of_a_lost_head_and_down_ends_what_is_left(
    two_nodes: LocalCluster,
) -> None:
    head, worker = two_nodes.nodes
    left = [process for node in two_nodes.nodes for process in node.processes()]
    worker.kill()
    told = xrec("cluster", "status", "--address", "two")
    assert told.returncode == 0, told.stderr
    assert next(
        line.split()[:3] for line in told.stdout.splitlines() if line.startswith("127.")
    ) == ["127.0.0.2", "head", "alive"]
    assert any(
        state in told.stdout for state in ("127.0.0.3  worker  lost", "127.0.0.3  worker  dead")
    )
    assert "1 alive" in told.stdout

    head.kill()
    told = xrec("cluster", "status", "--address", "two")
    assert told.returncode == 1
    assert "its head is gone" in told.stderr
    assert "xrec cluster down --name two" in told.stderr

    assert stop_cluster("two") == 0
    assert still_running(left) == []
    with pytest.raises(ClusterError, match="no cluster 'two'"):
        stop_cluster("two")


def test_down_leaves_a_process_that_took_over_an_id_alone(state_home: Path) -> None:
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    try:
        node = record.NodeProcess(
            pid=stranger.pid, address="127.0.0.2", folder="/tmp/xrec-ray-gone/0"
        )
        folder = state_home / "gone"
        folder.mkdir()
        record.claim("old")
        record.save(
            LocalCluster(
                name="old",
                address="127.0.0.2:1",
                dashboard_url="http://127.0.0.1:1",
                folder=str(folder),
                token_path="",
                nodes=(node,),
            )
        )
        assert xrec("cluster", "down", "--name", "old").returncode == 0
        assert stranger.poll() is None
        assert "old" not in record.names()
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.slow  # Ray needs many seconds to see that its options are wrong
def test_start_cluster_that_fails_leaves_no_process_and_no_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[record.NodeProcess] = []

    def start_without_resources(*arguments: object) -> record.NodeProcess:
        options, address, _, environment, folder = arguments
        started.append(start_node(options, address, -1, environment, folder))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr("cluster.local.start_node", start_without_resources)
    with pytest.raises(
        ClusterError, match=r"the node at 127\.0\.0\.2 ended while starting:\n(.|\n)*Error"
    ):
        start_cluster("broken", num_nodes=2, cpus_per_node=1)
    assert [node.processes() for node in started] == [[]]
    assert "broken" not in record.names()


def test_status_says_so_when_nothing_runs(tmp_path: Path) -> None:
    done = xrec("cluster", "status", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 0
    assert (
        done.stdout == "no cluster was started on this machine; start one with: xrec cluster up\n"
    )
