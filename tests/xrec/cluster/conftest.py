"""Two nodes for the tests of cluster/."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.world.cluster import LocalCluster, local_cluster

HERE = Path(__file__).parent

_shared = ExitStack()
_clusters: list[LocalCluster] = []


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch):
    """Hide the cluster of the user who runs the tests."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


@pytest.fixture
def two_nodes(request):
    """A head and a worker with one CPU each, shared by all tests of this folder."""
    if not _clusters:
        _clusters.append(_shared.enter_context(local_cluster(num_workers=1)))
        request.session.addfinalizer(_shared.close)  # also when the tests are interrupted
    return _clusters[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop the nodes after the last test of this folder, so that they do not run beside others."""
    yield
    if nextitem is None or HERE not in nextitem.path.parents:
        _clusters.clear()
        _shared.close()
