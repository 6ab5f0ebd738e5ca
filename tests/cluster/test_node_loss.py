"""A node of three is killed while a submitted job trains there: the job ends with the right result.

The workspace is a folder on this machine's disk, which all three nodes see; the preflight checks
say so in the log. The loss of a node in a backfill is tested in tests/xrec/bulk/test_chaos.py.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.prepare import run as prepare_dataset
from tests.cluster.program import SAMPLE, write_config, xrec_on
from tests.local_cluster import LocalCluster, NodeProcess, local_cluster
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NUM_EPOCHS = 30


@pytest.fixture
def cluster():
    with local_cluster(num_workers=2, cpus_per_node=2) as cluster:
        yield cluster


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "workspace"
    town = {**SAMPLE, "num_users": 80, "num_items": 30}
    prepare_dataset(parse_config(PrepareConfig, {"workspace": str(folder), "source": town}))
    return folder


def _config(workspace: Path, name: str, job: str, values: dict[str, Any]) -> Path:
    return write_config(workspace / f"{name}.yaml", {"workspace": str(workspace), job: values})


def _submit(cluster: LocalCluster, job: str, config: Path) -> str:
    done = xrec_on(cluster, "submit", job, config, "--no-follow")
    assert done.returncode == 0, done.stderr
    return done.stderr.split("submitted as ")[1].split()[0]


def _followed(cluster: LocalCluster, job_id: str) -> str:
    """The log of a job that succeeds, by Ray's own command."""
    ray = str(Path(sys.executable).with_name("ray"))
    done = subprocess.run(
        [ray, "job", "logs", job_id, "--follow", "--address", cluster.dashboard_url],
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _worker_with(cluster: LocalCluster, title: str) -> NodeProcess:
    """Return a node other than the head on which a process with `title` in its title runs."""
    for node in cluster.nodes[1:]:
        if any(title in " ".join(process.cmdline()) for process in node.processes()):
            return node
    raise AssertionError(f"no worker node has a {title}")


def _epochs(graph: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (graph / "metrics.jsonl").read_text().splitlines()]


def _checkpoints(graph: Path, seen: set[Path]) -> set[Path]:
    """Add the checkpoints that are there now to those `seen` before; there is one an epoch."""
    seen.update((graph / "checkpoints" / "pretrain-graph").glob("checkpoint_*"))
    return seen


def test_a_node_is_killed_and_the_training_ends_right(cluster, workspace):
    assert set(cluster.alive()) == {node.address for node in cluster.nodes}
    training = {"num_epochs": NUM_EPOCHS, "patience": NUM_EPOCHS, "steps_per_epoch": 8}
    small = {"model": {"embedding_dim": 8, "num_layers": 1}, "training": training}
    # Four of the cluster's six CPUs: the workers cannot all be on one node.
    scaling = {"num_workers": 4, "min_workers": 2, "max_failures": 3, "device": "cpu"}
    graph, whole = workspace / "graph", workspace / "whole-graph"
    job = _submit(
        cluster,
        "pretrain-graph",
        _config(workspace, "graph", "pretrain-graph", {**small, "scaling": scaling}),
    )
    _wait_until(lambda: (graph / "checkpoints").exists(), "no training")
    seen: set[Path] = set()
    _wait_until(lambda: len(_checkpoints(graph, seen)) >= 3, "no third epoch")
    first = _worker_with(cluster, "RayTrainWorker")
    first.kill()
    assert not (graph / "metrics.jsonl").exists()  # the training goes on

    log = _followed(cluster, job)
    assert "preflight: 3 nodes have the same versions and reach the same storage" in log
    assert f"graph: {graph}" in log
    _wait_until(lambda: first.address not in cluster.alive(), "Ray did not notice")
    unbroken = _submit(
        cluster,
        "pretrain-graph",
        _config(
            workspace,
            "whole",
            "pretrain-graph",
            {**small, "graph": str(whole), "scaling": {"num_workers": 2, "device": "cpu"}},
        ),
    )
    _followed(cluster, unbroken)
    assert [row["epoch"] for row in _epochs(graph)] == list(range(1, NUM_EPOCHS + 1))
    assert [row["loss"] for row in _epochs(graph)] == pytest.approx(
        [row["loss"] for row in _epochs(whole)], rel=1e-4
    )
