"""Three nodes, brought up as a user does it, shared by the tests of cluster/; at the end `xrec cluster down` must leave none of their processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import record
from cluster.address import JobServer, job_server
from cluster.record import LocalCluster
from tests.cluster.program import xrec

NAME = "three"


@pytest.fixture(scope="package", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Clusters of the user who runs the tests are none of their business."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        yield folder


@pytest.fixture(scope="package")
def three_nodes(state_home: Path) -> Iterator[LocalCluster]:
    """A head and two workers with one CPU each."""
    started = xrec("cluster", "up", "--nodes", 3, "--cpus", 1, "--name", NAME)
    assert started.returncode == 0, started.stdout + started.stderr
    cluster = record.find(NAME)
    assert cluster is not None
    processes = [process for node in cluster.nodes for process in node.processes()]
    yield cluster
    ended = xrec("cluster", "down", "--name", NAME)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [process for process in processes if process.is_running()] == []
    assert not Path(cluster.folder).exists()


@pytest.fixture
def server(three_nodes: LocalCluster) -> JobServer:
    return job_server(three_nodes.name)
