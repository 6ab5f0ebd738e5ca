"""Real parts for all tests, started once a session: a local Ray cluster, an S3 object store (SeaweedFS)."""

import logging
import os
from collections.abc import Iterator

import pytest

from tests.object_store import ObjectStore, object_store
from xrec.config.shared import RayConfig

# Before torch, Ray and their children start: two torch threads on two cores collapse when anything else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# As `xrec serve` has it; Serve's proxy reads it when the cluster starts.
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "xrec.serve.proxy:middlewares")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray, initialised in this process: one node with 4 logical CPUs, shared by all tests."""
    from cluster.connect import ensure_ray

    with ensure_ray(RayConfig(address="local", num_cpus=4)):
        yield


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectStore]:
    """SeaweedFS on loopback, with its own data folder and random credentials; killed and deleted at the end."""
    with object_store() as store:
        yield store


@pytest.fixture
def s3_environment(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The store, with the AWS variables of this process pointing at it."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture
def xrec_logger() -> Iterator[None]:
    """The CLI and replicas set the logger up for a process of their own; here it must not outlive the test."""
    logger = logging.getLogger("xrec")
    before = (logger.level, logger.handlers, logger.propagate)
    yield
    logger.level, logger.handlers, logger.propagate = before
