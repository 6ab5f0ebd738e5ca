"""Checks of a cluster of three nodes before a job starts; the drivers are separate processes."""

import json
import os
import re
from pathlib import Path
from typing import Any

from tests.world.cluster import LocalCluster
from tests.world.program import python

ASKS = """
import json, sys
from cluster.connect import ensure_ray
from cluster.preflight import check_cluster
from cluster.preflight import Demand
from xrec.config.shared import RayConfig, StorageConfig
from xrec.errors import ClusterError

address, *questions = json.loads(sys.argv[1])
said = []
with ensure_ray(RayConfig(address=address)):
    for output, cpus, storage in questions:
        try:
            demand = Demand(1, 1, cpus, 0, "scaling.num_workers")
            check_cluster(demand, output, StorageConfig(**storage))
            said.append("ready")
        except ClusterError as error:
            said.append(str(error))
print(json.dumps(said))
"""
NODES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
ELSEWHERE = "/proc/self/cwd/workspace/graph"
"""Another folder for each process, as a local disk is for each machine."""


def ask(
    cluster: LocalCluster, cwd: Path, *questions: tuple[str, int, Any], **variables: str
) -> list[str]:
    """What the check says of outputs, CPUs of a process and keys in `storage`, each by itself."""
    environment = {**cluster.environment, **variables}
    argument = json.dumps([cluster.address, *questions])
    done = python("-c", ASKS, argument, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_preflight_names_what_is_wrong_on_which_node(three_nodes, s3, tmp_path):
    """The AWS variables are set for the driver only, not for the nodes."""
    shared, on_s3 = str(tmp_path / "graph"), f"{s3.new_bucket()}/graph"
    keys = {"access_key_id": s3.access_key, "secret_access_key": s3.secret_key}
    keys |= {"endpoint_url": s3.endpoint_url}
    questions = [(shared, 1, {}), (on_s3, 1, keys), (shared, 2, {})]
    questions += [(ELSEWHERE, 1, {}), (on_s3, 1, {})]
    *ready, large, elsewhere, without_keys = ask(
        three_nodes, tmp_path, *questions, **s3.environment
    )
    assert ready == ["ready"] * 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "1 process(es) of 2 CPU each must run together, 0 fit on the nodes (1 CPU, 1 " in large
    for address in NODES:
        seen = f"the node at {address} does not see what the driver wrote in {ELSEWHERE}"
        assert seen in elsewhere
        assert f"the node at {address} cannot write to {on_s3}" in without_keys
    assert "give an s3:// URI" in elsewhere
    assert "AWS_* variables" in without_keys


def test_preflight_a_driver_with_another_torch_is_told_of_every_node(three_nodes, tmp_path):
    metadata = tmp_path / "site" / "torch-9.9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    found_first = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    question = (str(tmp_path / "graph"), 1, {})
    (said,) = ask(three_nodes, tmp_path, question, PYTHONPATH=found_first)
    for address in NODES:
        wrong = rf"the node at {re.escape(address)} has torch 2\.\d+\.\d+, the driver has 9\.9\.9"
        assert re.search(wrong, said), said
    assert "xrec submit --packages" in said
