"""Connecting to a cluster or starting one, and how many processes fit on its nodes."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
import ray
import requests

from tests.errors import raises
from tests.world.program import python, wait_until
from xrec.cluster import preflight
from xrec.cluster.connect import LOOPBACK_ADDRESS, ensure_ray
from xrec.cluster.preflight import Demand, check_room
from xrec.config import RayConfig
from xrec.errors import ClusterError

CONNECTS = """
import json, os, sys, ray
from xrec.cluster.connect import ensure_ray
from xrec.config import RayConfig

for address, variable in json.loads(sys.argv[1]):
    os.environ["RAY_ADDRESS"] = variable
    with ensure_ray(RayConfig(address=address)):
        print(ray.get_runtime_context().gcs_address)
    assert not ray.is_initialized()
"""


def connect(*addresses: tuple[str | None, str], **variables: str) -> Any:
    """Connect in a new process, given each config's address and RAY_ADDRESS."""
    return python("-c", CONNECTS, json.dumps(addresses), **variables)


def test_ensure_ray_local_and_its_workers_are_on_loopback_with_one_thread_each(ray_cluster):
    @ray.remote(num_cpus=0)
    def variables() -> list[str | None]:
        import os

        return [os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS")]

    assert ray.get(variables.remote()) == ["lo", "1"]
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == [LOOPBACK_ADDRESS]
    assert ray.get_runtime_context().gcs_address.startswith(LOOPBACK_ADDRESS + ":")


@pytest.mark.slow
def test_ensure_ray_local_requires_a_token(ray_cluster):
    address = ray.get_runtime_context().gcs_address
    done = connect((address, address), RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("xrec.errors.ClusterError: ")
    assert all(part in message for part in (address, "token is missing", "RAY_AUTH_TOKEN"))


def test_ensure_ray_connects_to_the_given_address_and_leaves_the_cluster_running(ray_cluster):
    address = ray.get_runtime_context().gcs_address
    done = connect((address, "127.0.0.1:9"), (None, address))
    assert (done.returncode, done.stdout.split()) == (0, [address] * 2), done.stderr
    assert ray.cluster_resources()["CPU"] == 4


def listening() -> set[tuple[str, int]]:
    """Return the names and ports of this process's children that listen beyond loopback."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            for connection in process.net_connections("tcp"):
                if connection.status == "LISTEN" and connection.laddr.ip in ("0.0.0.0", "::"):
                    found.add((process.name(), connection.laddr.port))
    return found


def test_ensure_ray_local_serves_metrics_to_nobody(ray_cluster):
    """What listens beyond loopback is gRPC, which requires a token; Ray's metrics require none."""
    wait_until(lambda: any("Agent" in name for name, _ in listening()))  # the last to start
    ports = listening()
    assert "raylet" in {name for name, _ in ports}

    def ask(port: int) -> None:
        with pytest.raises(requests.RequestException):
            requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)

    with ThreadPoolExecutor(len(ports)) as threads:
        list(threads.map(ask, (port for _, port in ports)))


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("127.0.0.1:9", "unreachable"),
        ("ray://127.0.0.1:9", "unreachable"),
        ("my-cluster", "bad_address"),
    ],
)
def test_ensure_ray_names_an_address_where_no_cluster_is(monkeypatch, address, code):
    unconnected = Mock(wraps=ray, is_initialized=lambda: False)  # the session's is not touched
    monkeypatch.setattr("xrec.cluster.connect.ray", unconnected)
    with raises(ClusterError, code, saw=address), ensure_ray(RayConfig(address=address)):
        pass


def _workers(num_workers: int, cpus: int = 1, gpus: int = 0) -> Demand:
    return Demand(num_workers, num_workers, cpus, gpus, "workers.num_processes")


ONE, TWO, GPU = {"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "demand", "fit"),
    [
        ([ONE, ONE], _workers(2), None),
        ([{"CPU": 4.0}], _workers(2, cpus=2), None),
        ([GPU, GPU, {}], _workers(2, cpus=4, gpus=1), None),
        ([ONE, ONE], _workers(3), 2),
        ([TWO, TWO], _workers(1, cpus=4), 0),  # four CPUs in all, but on two nodes
        ([GPU, {"CPU": 8.0}], _workers(2, gpus=1), 1),
        ([{}], _workers(1), 0),
    ],
)
def test_check_room_reports_how_many_processes_fit_if_too_few_do(nodes, demand, fit, monkeypatch):
    monkeypatch.setattr(preflight, "may_grow", lambda: False)
    if fit is None:
        check_room(nodes, demand)
        return
    with raises(ClusterError, "too_few_resources", "workers.num_processes", fit):
        check_room(nodes, demand)
    monkeypatch.setattr(preflight, "may_grow", lambda: True)
    check_room(nodes, demand)
