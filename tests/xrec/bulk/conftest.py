"""Toy runs in memory and in an object store, and retries without waits."""

import uuid
from tempfile import TemporaryDirectory

import pytest

from tests.fuzz import IN_MEMORY
from tests.world.here import Place
from tests.xrec.bulk.toy_run import Toys
from xrec.config import StorageConfig
from xrec.storage import requests


@pytest.fixture
def disk():
    """A folder in memory, where nothing waits for a disk; its name has characters URIs escape."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Place(f"{folder}/a table, 100% 'full'", StorageConfig())


@pytest.fixture
def here(disk, tmp_path, monkeypatch):
    """Toy runs on the local disk."""
    return Toys(disk.uri, disk.storage, tmp_path, monkeypatch)


@pytest.fixture
def there(s3, bucket, tmp_path, monkeypatch):
    """Toy runs in an object store."""
    return Toys(f"{bucket}/a folder/{uuid.uuid4().hex}", s3.storage, tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Retry failed requests at once, as often as usual."""
    monkeypatch.setattr(requests, "WAITS_SECONDS", (0.0, 0.0, 0.0))
