"""Parts that tests share: a local Ray cluster and an object store (SeaweedFS), each started once.

Where a test is about what a backfill does with rows and not about actors, `actors_here` runs the
actor's code in the test's own process. It saves starting processes that import torch.
"""

import gc
import logging
import os
import uuid
from dataclasses import replace

import pytest

from tests.world.store import object_store
from xrec.config import RayConfig, StorageConfig
from xrec.storage import node_folder

# These are set before torch, Ray and their children start. Two torch threads on two cores become
# very slow when anything else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Without it, a test that uses Ray without `ray_cluster` starts a cluster that later tests meet.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"


pytest_plugins = ["tests.durations", "tests.seeds", "tests.skips"]


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Import the tests without garbage collections, and leave what they import out of later ones.

    It is a million objects, which each full collection would look at. Later ones are rare, because
    the models that tests load are many objects, too.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep what tests map apart from the user's own cache; language models are those of it."""
    models, folder = node_folder() / "models", tmp_path_factory.mktemp("cache") / "xrec"
    models.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    (folder / "models").symlink_to(models)
    os.environ["XDG_CACHE_HOME"] = str(folder.parent)


@pytest.fixture(autouse=True)
def xrec_logger():
    """Restore the logger `xrec` after each test.

    The command line and replicas configure it for a process of their own. Their handler writes to
    the test's standard error, which is closed once the test has ended.
    """
    logger = logging.getLogger("xrec")
    before = (logger.level, logger.handlers, logger.propagate)
    yield
    logger.level, logger.handlers, logger.propagate = before


@pytest.fixture(scope="session")
def ray_cluster():
    """Keep Ray initialised in this process: one node with 4 logical CPUs, shared by all tests."""
    from xrec.cluster.connect import ensure_ray  # `xrec.cluster` may be patched to start nothing

    with ensure_ray(RayConfig(address="local", num_cpus=4)):
        yield


@pytest.fixture(scope="session")
def s3():
    """Start SeaweedFS on loopback with a data folder of its own and random credentials.

    At the end it is killed and its folder deleted.
    """
    with object_store() as store:
        yield store


@pytest.fixture(scope="session")
def bucket(s3):
    """A bucket that tests share, because it takes a while to make one."""
    return s3.new_bucket()


@pytest.fixture
def disk(tmp_path):
    """A folder whose name has characters that URIs escape."""
    from tests.world.here import Place

    return Place(str(tmp_path / "a table, 100% 'full'"), StorageConfig())


@pytest.fixture(params=["disk", "s3"])
def place(request, disk):
    """A place on a disk, then one in an object store.

    SeaweedFS is a real server with real conditional writes. It is not AWS: it never answers 409 to
    a write that races.
    """
    if request.param == "disk":
        return disk
    uri = f"{request.getfixturevalue('bucket')}/some folder/{uuid.uuid4().hex}"
    return replace(disk, uri=uri, storage=request.getfixturevalue("s3").storage)


@pytest.fixture
def output(place):
    """An empty output, once on a disk and once in the object store."""
    return place.location


@pytest.fixture
def actors_here(monkeypatch):
    """Run a backfill's actor in this process instead of Ray's; Ray need not be started."""
    from tests.world.here import pool_here

    monkeypatch.setattr("xrec.backfill.driver.RayPool", pool_here)
    monkeypatch.setattr("xrec.backfill.driver.gpus_each", lambda *arguments: 0)
