"""Checks of a cluster of three nodes before a job starts; the drivers are separate processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local_cluster import LocalCluster

ASKS = """
import json, sys
from cluster.connect import ensure_ray
from cluster.preflight import check_cluster
from cluster.room import Demand
from xrec.config.shared import RayConfig, StorageConfig
from xrec.errors import ClusterError

address, output, demand, storage = json.loads(sys.argv[1])
with ensure_ray(RayConfig(address=address)):
    try:
        check_cluster(Demand(*demand, "scaling.num_workers"), output, StorageConfig(**storage))
    except ClusterError as error:
        print(error)
        sys.exit(1)
print("ready")
"""


def _ask(
    cluster: LocalCluster,
    output: str,
    *,
    cwd: Path,
    cpus: int = 1,
    storage: Any = None,
    **variables: str,
) -> str:
    argument = json.dumps([cluster.address, output, [1, 1, cpus, 0], storage or {}])
    environment = {**os.environ, **cluster.environment, **variables}
    done = subprocess.run(
        [sys.executable, "-c", ASKS, argument],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_preflight_a_path_that_all_nodes_share_passes_and_leaves_nothing(three_nodes, tmp_path):
    assert _ask(three_nodes, str(tmp_path / "graph"), cwd=tmp_path) == "ready\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_preflight_a_path_that_is_another_folder_on_each_node_is_refused(three_nodes, tmp_path):
    """/proc/self/cwd is another folder for each process, as a local disk is for each machine."""
    graph = "/proc/self/cwd/workspace/graph"
    said = _ask(three_nodes, graph, cwd=tmp_path)
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        assert f"the node at {address} does not see what the driver wrote in {graph}" in said
    assert "give an s3:// URI" in said


def test_preflight_too_few_cpus_on_each_node_is_refused(three_nodes, tmp_path):
    said = _ask(three_nodes, str(tmp_path / "graph"), cwd=tmp_path, cpus=2)
    assert "1 process(es) of 2 CPU each must run together, 0 fit on the nodes (1 CPU, 1 " in said


def test_preflight_an_object_store_needs_credentials_on_every_node(three_nodes, s3, tmp_path):
    graph = f"{s3.new_bucket()}/graph"
    # The variables are set for the driver only, not for the nodes.
    said = _ask(three_nodes, graph, cwd=tmp_path, **s3.environment)
    assert f"the node at 127.0.0.4 cannot write to {graph}" in said
    assert "AWS_* variables" in said
    keys = {"access_key_id": s3.access_key, "secret_access_key": s3.secret_key}
    keys |= {"endpoint_url": s3.endpoint_url}
    assert _ask(three_nodes, graph, cwd=tmp_path, storage=keys) == "ready\n"


@pytest.fixture
def path_with_another_torch(tmp_path):
    """A PYTHONPATH on which the metadata of another torch is found first."""
    metadata = tmp_path / "site" / "torch-9.9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    return os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])


def test_preflight_a_driver_with_another_torch_is_refused_and_told_of_every_node(
    three_nodes, path_with_another_torch, tmp_path
):
    said = _ask(
        three_nodes, str(tmp_path / "graph"), cwd=tmp_path, PYTHONPATH=path_with_another_torch
    )
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        assert re.search(
            rf"the node at {re.escape(address)} has torch 2\.\d+\.\d+, the driver has 9\.9\.9", said
        ), said
    assert "requirements/lock.txt" in said
