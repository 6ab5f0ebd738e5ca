"""`ensure_ray` uses, connects to or starts a cluster, and shuts down only what it started."""

import os

import pytest
import ray

from cluster.connect import LOOPBACK_ADDRESS, ensure_ray
from tests.world.program import python
from xrec.config.shared import RayConfig
from xrec.errors import ClusterError

CONNECTS = """
import sys, ray
from cluster.connect import ensure_ray
from xrec.config.shared import RayConfig

with ensure_ray(RayConfig(address=sys.argv[1])):
    print(ray.get_runtime_context().gcs_address)
assert not ray.is_initialized()
"""


def test_ensure_ray_already_initialised_uses_it_and_leaves_it(ray_cluster):
    job = ray.get_runtime_context().get_job_id()
    with ensure_ray(RayConfig(num_cpus=1)):
        assert ray.get_runtime_context().get_job_id() == job
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 4


def test_ensure_ray_local_workers_have_one_thread_and_gloo_on_loopback(ray_cluster):
    @ray.remote(num_cpus=0)
    def variables() -> list[str | None]:
        import os

        return [os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS")]

    assert ray.get(variables.remote()) == ["lo", "1"]


def test_ensure_ray_local_workers_have_the_priority_of_their_driver(ray_cluster):
    assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)


def test_ensure_ray_local_has_a_loopback_address_and_demands_a_token(ray_cluster):
    nodes = ray.nodes()
    assert [node["NodeManagerAddress"] for node in nodes] == [LOOPBACK_ADDRESS]
    address = ray.get_runtime_context().gcs_address
    assert address.startswith(LOOPBACK_ADDRESS + ":")
    done = python("-c", CONNECTS, address, RAY_AUTH_MODE="disabled", RAY_ADDRESS=address)
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("xrec.errors.ClusterError: ")
    assert all(
        part in message for part in (address, "Authentication token is missing", "RAY_AUTH_TOKEN")
    )


def test_ensure_ray_address_connects_to_that_cluster_and_leaves_it(ray_cluster):
    address = ray.get_runtime_context().gcs_address
    done = python("-c", CONNECTS, address, RAY_ADDRESS="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == address
    assert ray.cluster_resources()["CPU"] == 4  # the cluster still runs


def test_ensure_ray_takes_the_environments_address_or_starts_a_cluster(ray_cluster, monkeypatch):
    address, calls = ray.get_runtime_context().gcs_address, list[str]()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: calls.append(settings["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shut down"))
    for variable in (address, ""):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        with ensure_ray(RayConfig()):
            assert calls[-1] == (variable or "local")
    assert calls == [address, "shut down", "local", "shut down"]


LISTENS = """
import time, psutil, requests
from cluster.connect import ensure_ray
from xrec.config.shared import RayConfig

def listening():
    return {
        (process.name(), socket.laddr.port)
        for process in psutil.Process().children(recursive=True)
        for socket in process.net_connections("tcp")
        if socket.status == "LISTEN" and socket.laddr.ip in ("0.0.0.0", "::")
    }

with ensure_ray(RayConfig(address="local", num_cpus=1)):
    while not any("Agent" in name for name, _ in listening()):  # it is the last one to start
        time.sleep(0.5)
    for name, port in listening():
        try:
            requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
        except requests.RequestException:
            print(name, "speaks no HTTP")
        else:
            print(name, "ANSWERS")
"""


def test_ensure_ray_local_gives_metrics_to_nobody():
    """What listens beyond loopback is gRPC, which demands a token; Ray's metrics demand none."""
    done = python("-c", LISTENS, RAY_ADDRESS="")
    assert done.returncode == 0, done.stderr
    assert "raylet speaks no HTTP" in done.stdout
    assert "ANSWERS" not in done.stdout


def test_ensure_ray_local_that_does_not_start_says_what_to_look_at():
    done = python("-c", CONNECTS, "local", RAY_ADDRESS="", RAY_TMPDIR="/dev/null/ray")
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("xrec.errors.ClusterError: no Ray cluster started on this machine")
    assert all(part in message for part in ("/dev/null/ray", "space in /tmp or RAY_TMPDIR"))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9", "9.*RAY_ADDRESS"),
        ("ray://127.0.0.1:9", "9.*RAY_ADDRESS"),
        ("my-cluster", "'my-cluster'.*host:port"),
    ],
)
def test_ensure_ray_address_without_cluster_names_the_address(monkeypatch, address, words):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the session's is not touched
    with pytest.raises(ClusterError, match=words), ensure_ray(RayConfig(address=address)):
        pass
