"""Toy runs on each store, and waits that take no time."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.world.here import Place
from xrec.storage import requests


@dataclass(frozen=True)
class Toys(Place):
    """A place to plan toy runs in; `patch` changes xrec until the test ends."""

    folder: Path
    patch: pytest.MonkeyPatch

    def __call__(self, items: str | Sequence[str] = "a b c", **settings: Any) -> Any:
        """A toy run; `items` are names with spaces between them, or a list."""
        from tests.xrec.bulk.toy_run import toy_run  # which imports this module

        names = items.split() if isinstance(items, str) else items
        return toy_run(self, self.folder, names, **settings)

    def in_parts(self, part_bytes: int) -> None:
        """Let tables have several files; this process writes them, also if Ray has been started."""
        self.patch.setattr("xrec.bulk.publisher.PART_BYTES", part_bytes)
        self.patch.setattr("xrec.processes.num_cpus", lambda: 0)

    def at(self, name: str) -> "Toys":
        """The same at another place, below this one."""
        return replace(self, uri=f"{self.uri}/{name}")


@pytest.fixture
def here(disk, tmp_path, monkeypatch):
    """Toy runs on a disk."""
    return Toys(disk.uri, disk.storage, tmp_path, monkeypatch)


@pytest.fixture
def there(s3, bucket, tmp_path, monkeypatch):
    """Toy runs in an object store."""
    return Toys(f"{bucket}/a folder/{uuid.uuid4().hex}", s3.storage, tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Let whatever is tried again be so at once, as often as ever."""
    monkeypatch.setattr(requests, "WAITS_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def small_windows(monkeypatch):
    """Let a table have several row groups and buckets."""
    monkeypatch.setattr("xrec.bulk.table.ROWS_PER_GROUP", 8)
    monkeypatch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 3)
