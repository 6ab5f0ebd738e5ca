"""A head and two workers as separate nodes; jobs go to them as a user sends them, with `xrec submit`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from cluster.local import LocalCluster, local_cluster
from cluster.status import nodes
from cluster.submit import check_shared_paths
from cluster.token import auth_headers
from xrec.config import PrepareConfig, StorageConfig, parse_config
from xrec.errors import ClusterError, ConfigError
from xrec.storage import open_location, read_manifest

SAMPLE = {"kind": "sample", "num_users": 20, "num_items": 12, "interactions_per_user": 6, "explanations_per_user": 3}


class Store(Protocol):
    storage: StorageConfig
    environment: dict[str, str]

    def new_bucket(self) -> str: ...


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[LocalCluster]:
    with local_cluster(num_workers=2, cpus_per_node=1) as cluster:
        yield cluster


def _config(folder: Path, workspace: str) -> Path:
    path = folder / "prepare.yaml"
    source = ", ".join(f"{key}: {value}" for key, value in SAMPLE.items())
    path.write_text(f"workspace: {workspace}\nsource: {{{source}}}\n", encoding="utf-8")
    return path


def _submit(cluster: LocalCluster, *arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "xrec.cli", "submit", *map(str, arguments), "--address", cluster.dashboard_url]
    environment = {**os.environ, **cluster.environment, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_local_cluster_is_a_head_and_two_workers_each_on_its_own_address(three_nodes: LocalCluster) -> None:
    found = nodes(three_nodes.dashboard_url, auth_headers(three_nodes.environment))
    assert [node.address for node in found] == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    assert [node.is_head for node in found] == [True, False, False]
    assert all(node.is_alive and node.resources["CPU"] == 1 for node in found)
    assert len({node.node_id for node in found}) == 3


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer " + "0" * 64}])
def test_nodes_without_the_token_are_refused(three_nodes: LocalCluster, headers: dict[str, str]) -> None:
    with pytest.raises(ClusterError, match=r"40[13].*RAY_AUTH_TOKEN"):
        nodes(three_nodes.dashboard_url, headers)


def test_submit_prepare_to_the_object_store_follows_the_log_and_leaves_the_artifact(three_nodes: LocalCluster, s3: Store, tmp_path: Path) -> None:
    workspace = s3.new_bucket()
    done = _submit(three_nodes, "prepare", _config(tmp_path, workspace), "source.num_users=30", **s3.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"dataset: {workspace}/dataset" in done.stdout
    assert "Traceback" not in done.stderr
    manifest = read_manifest(open_location(f"{workspace}/dataset", s3.storage), "dataset")
    assert manifest.row_counts["users"] == 30


def test_submit_job_that_fails_exits_1_with_the_reason(three_nodes: LocalCluster, tmp_path: Path) -> None:
    missing = tmp_path / "no-such-folder"
    config = _config(tmp_path, str(tmp_path / "workspace"))
    done = _submit(three_nodes, "prepare", config, f"source={{kind: tables, uri: {missing}}}")
    assert done.returncode == 1, done.stdout + done.stderr
    error = done.stderr[done.stderr.index("error: ") :]
    assert "FAILED" in error
    assert "exit code 1" in error
    assert str(missing) in error
    assert "Traceback" not in error


def test_submit_no_follow_returns_the_submission_id(three_nodes: LocalCluster, tmp_path: Path) -> None:
    done = _submit(three_nodes, "prepare", _config(tmp_path, str(tmp_path / "workspace")), "--no-follow")
    assert done.returncode == 0, done.stderr
    assert "prepare submitted as raysubmit_" in done.stderr


def test_submit_without_the_token_exits_1_and_says_so(three_nodes: LocalCluster, tmp_path: Path) -> None:
    done = _submit(three_nodes, "prepare", _config(tmp_path, str(tmp_path / "workspace")), RAY_AUTH_MODE="disabled")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_submit_to_an_address_where_nothing_listens_exits_1_and_names_it(tmp_path: Path) -> None:
    dead = LocalCluster(address="", dashboard_url="http://127.0.0.1:9", environment={}, processes=())
    done = _submit(dead, "prepare", _config(tmp_path, str(tmp_path / "workspace")))
    assert done.returncode == 1
    assert "http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_shared_paths_relative_paths_are_named_others_pass(tmp_path: Path) -> None:
    values = {"workspace": "s3://bucket/x", "source": {"kind": "tables", "uri": "raw/tables"}, "dataset": "out"}
    with pytest.raises(ConfigError, match=r"uri=raw/tables, dataset=out"):
        check_shared_paths(parse_config(PrepareConfig, values))
    values = {"workspace": "s3://bucket/x", "source": {"kind": "tables", "uri": str(tmp_path)}, "dataset": "file:///out"}
    check_shared_paths(parse_config(PrepareConfig, values))
