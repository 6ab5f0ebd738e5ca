"""Toy runs in memory and in an object store, and retries without waits."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.fuzz import IN_MEMORY
from tests.world.here import Place
from xrec.config import StorageConfig
from xrec.storage import requests


@dataclass(frozen=True)
class Toys(Place):
    """A place to plan toy runs; `patch` changes xrec until the test ends."""

    folder: Path
    patch: pytest.MonkeyPatch

    def __call__(self, items: str | Sequence[str] = "a b c", **settings: Any) -> Any:
        """Plan a toy run; `items` are names separated by spaces, or a list."""
        from tests.xrec.bulk.toy_run import toy_run  # which imports this module

        names = items.split() if isinstance(items, str) else items
        return toy_run(self, self.folder, names, **settings)

    def in_parts(self, part_bytes: int) -> None:
        """Make tables of several files, written by this process even if Ray was started."""
        self.patch.setattr("xrec.bulk.publisher.PART_BYTES", part_bytes)
        self.patch.setattr("xrec.processes.num_cpus", lambda: 0)

    def at(self, name: str) -> "Toys":
        """Return the same at another place, below this one."""
        return replace(self, uri=f"{self.uri}/{name}")


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


@pytest.fixture
def small_windows(monkeypatch):
    """Make tables of several row groups and buckets."""
    monkeypatch.setattr("xrec.bulk.table.ROWS_PER_GROUP", 8)
    monkeypatch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 3)
