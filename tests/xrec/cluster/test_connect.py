"""Clusters: connecting, what fits on the nodes, and checks of the nodes before a job starts."""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
import ray
import requests

from tests.errors import raises
from tests.world.cluster import LocalCluster
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

for address, of_environment in json.loads(sys.argv[1]):
    os.environ["RAY_ADDRESS"] = of_environment
    with ensure_ray(RayConfig(address=address)):
        print(ray.get_runtime_context().gcs_address)
    assert not ray.is_initialized()
"""


def connect(*questions: tuple[str | None, str], **variables: str) -> Any:
    """Connect to each config's address in a process with each RAY_ADDRESS."""
    return python("-c", CONNECTS, json.dumps(questions), **variables)


def test_ensure_ray_local_is_on_loopback_and_so_are_its_workers_of_one_thread(ray_cluster):
    @ray.remote(num_cpus=0)
    def variables() -> list[str | None]:
        import os

        return [os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS")]

    assert ray.get(variables.remote()) == ["lo", "1"]
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == [LOOPBACK_ADDRESS]
    assert ray.get_runtime_context().gcs_address.startswith(LOOPBACK_ADDRESS + ":")


@pytest.mark.slow
def test_ensure_ray_local_demands_a_token(ray_cluster):
    address = ray.get_runtime_context().gcs_address
    done = connect((address, address), RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("xrec.errors.ClusterError: ")
    assert all(part in message for part in (address, "token is missing", "RAY_AUTH_TOKEN"))


def test_ensure_ray_connects_to_the_address_or_that_of_the_environment_and_leaves_it(ray_cluster):
    address = ray.get_runtime_context().gcs_address
    done = connect((address, "127.0.0.1:9"), (None, address))
    assert (done.returncode, done.stdout.split()) == (0, [address] * 2), done.stderr
    assert ray.cluster_resources()["CPU"] == 4  # the cluster still runs


def listening() -> set[tuple[str, int]]:
    """The names and ports of this process's children that listen beyond loopback."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            for each in process.net_connections("tcp"):
                if each.status == "LISTEN" and each.laddr.ip in ("0.0.0.0", "::"):
                    found.add((process.name(), each.laddr.port))
    return found


def test_ensure_ray_local_gives_metrics_to_nobody(ray_cluster):
    """What listens beyond loopback is gRPC, which demands a token; Ray's metrics demand none."""
    wait_until(lambda: any("Agent" in name for name, _ in listening()))  # it is the last to start
    there = listening()
    assert "raylet" in {name for name, _ in there}
    for _, port in there:
        with pytest.raises(requests.RequestException):
            requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)


def test_ensure_ray_local_that_does_not_start_says_why_and_what_to_look_at(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the session's is not touched
    monkeypatch.setattr(ray, "init", Mock(side_effect=Exception("no room in /dev/null/ray")))
    with (
        raises(ClusterError, "ray_not_started") as raised,
        ensure_ray(RayConfig(address="local")),
    ):
        pass
    assert "(no room in /dev/null/ray); check free memory" in str(raised.value)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("127.0.0.1:9", "unreachable"),
        ("ray://127.0.0.1:9", "unreachable"),
        ("my-cluster", "bad_address"),
    ],
)
def test_ensure_ray_address_without_cluster_names_the_address(monkeypatch, address, code):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the session's is not touched
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
def test_check_room_says_how_many_fit_if_they_are_too_few(nodes, demand, fit, monkeypatch):
    monkeypatch.setattr(preflight, "may_grow", lambda: False)
    if fit is None:
        check_room(nodes, demand)
        return
    with raises(ClusterError, "too_few_resources", "workers.num_processes", fit):
        check_room(nodes, demand)


def test_check_room_a_cluster_that_may_grow_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(preflight, "may_grow", lambda: True)
    monkeypatch.setattr(logging.getLogger("xrec"), "propagate", True)
    check_room([{"CPU": 1.0}], _workers(4))
    assert "1 fit on the nodes (1 CPU): waiting for the cluster to grow" in caplog.text


ASKS = """
import json, sys
from xrec.cluster.connect import ensure_ray
from xrec.cluster.preflight import Demand, check_cluster
from xrec.config import RayConfig, StorageConfig
from xrec.errors import ClusterError

address, *questions = json.loads(sys.argv[1])
said = []
with ensure_ray(RayConfig(address=address)):
    for output, cpus, storage in questions:
        try:
            demand = Demand(1, 1, cpus, 0, "workers.num_processes")
            check_cluster(demand, output, StorageConfig(**storage))
            said.append("ready")
        except ClusterError as error:
            said.append([error.code, error.saw, str(error)])
print(json.dumps(said))
"""
NODES = ("127.0.0.2", "127.0.0.3")
ELSEWHERE = "/proc/self/cwd/workspace/graph"
"""Another folder for each process, as a local disk is for each machine."""


def ask(
    cluster: LocalCluster, cwd: Path, *questions: tuple[str, int, Any], **variables: str
) -> list[Any]:
    """What the check says of outputs, CPUs of a process and keys in `storage`, each by itself."""
    environment = {**cluster.environment, **variables}
    argument = json.dumps([cluster.address, *questions])
    done = python("-c", ASKS, argument, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_preflight_names_what_is_wrong_on_which_node(two_nodes, s3, tmp_path):
    """The AWS variables are set for the driver only, not for the nodes."""
    shared, on_s3 = str(tmp_path / "graph"), f"{s3.new_bucket()}/graph"
    keys = {"access_key_id": s3.access_key, "secret_access_key": s3.secret_key}
    keys |= {"endpoint_url": s3.endpoint_url}
    questions = [(shared, 1, {}), (on_s3, 1, keys), (shared, 2, {})]
    questions += [(ELSEWHERE, 1, {}), (on_s3, 1, {})]
    *ready, large, elsewhere, without_keys = ask(two_nodes, tmp_path, *questions, **s3.environment)
    assert ready == ["ready"] * 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert large[:2] == ["too_few_resources", 0]
    for code, seen, text in (elsewhere, without_keys):
        assert (code, {address for address, _ in seen}) == ("nodes_differ", {*NODES}), text
    assert {kind for _, kind in elsewhere[1]} != {kind for _, kind in without_keys[1]}


@pytest.mark.slow
def test_preflight_a_driver_with_another_torch_is_told_of_every_node(two_nodes, tmp_path):
    metadata = tmp_path / "site" / "torch-9.9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    found_first = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    question = (str(tmp_path / "graph"), 1, {})
    ((code, seen, text),) = ask(two_nodes, tmp_path, question, PYTHONPATH=found_first)
    assert (code, {address for address, _ in seen}) == ("nodes_differ", {*NODES})
    assert text.count("the driver has 9.9.9") == len(NODES)
