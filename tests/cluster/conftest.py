"""Three nodes for the tests of cluster/, started and stopped by the commands that users have.

`xrec cluster down` must leave none of their processes.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cluster import record
from cluster.address import JobServer, job_server
from cluster.record import LocalCluster
from tests.cluster.program import still_running, xrec

HERE = Path(__file__).parent

_shared = ExitStack()
_clusters: list[LocalCluster] = []


@pytest.fixture(scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the clusters of these tests are recorded."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def state_home(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the clusters of the user who runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(state_folder))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return state_folder


@pytest.fixture
def three_nodes(state_home: Path) -> LocalCluster:
    """A head and two workers with one CPU each, shared by all tests of this folder."""
    if not _clusters:
        _clusters.append(_shared.enter_context(_brought_up("three", state_home)))
    return _clusters[0]


@pytest.fixture
def server(three_nodes: LocalCluster) -> JobServer:
    return job_server(three_nodes.name)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Stop the nodes after the last test of this folder, so that they do not run beside others."""
    if nextitem is None or HERE not in nextitem.path.parents:
        _clusters.clear()
        _shared.close()


@contextmanager
def _brought_up(name: str, state_home: Path) -> Iterator[LocalCluster]:
    state = {"XDG_STATE_HOME": str(state_home)}
    started = xrec("cluster", "up", "--nodes", 3, "--cpus", 1, "--name", name, **state)
    assert started.returncode == 0, started.stdout + started.stderr
    cluster = record.find(name)
    assert cluster is not None
    processes = [process for node in cluster.nodes for process in node.processes()]
    yield cluster
    ended = xrec("cluster", "down", "--name", name, **state)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert still_running(processes) == []
    assert not Path(cluster.folder).exists()


def pytest_sessionfinish() -> None:
    """Stop the nodes also when the tests were interrupted."""
    _shared.close()
