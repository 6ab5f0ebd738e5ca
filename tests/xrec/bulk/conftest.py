"""Places on each store for runs, and waits that take no time."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.object_store import ObjectStore
from xrec.bulk import backoff
from xrec.config.shared import StorageConfig
from xrec.storage import Location, open_location

if TYPE_CHECKING:
    from tests.xrec.bulk.toy_run import Toy


@dataclass(frozen=True)
class Place:
    """Where a run may be."""

    uri: str
    storage: StorageConfig

    @property
    def location(self) -> Location:
        return open_location(self.uri, self.storage)


@pytest.fixture
def disk(tmp_path: Path) -> Place:
    """A folder whose name has characters that URIs escape."""
    return Place(str(tmp_path / "a table, 100% 'full'"), StorageConfig())


@pytest.fixture(scope="module")
def bucket(s3: ObjectStore) -> str:
    """A bucket that the tests of a file share, because it takes a while to make one."""
    return s3.new_bucket()


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """A place on a disk, then one in an object store: SeaweedFS, a real server with real
    conditional writes. It is not AWS: it never answers 409 to a write that races.
    """
    if request.param == "disk":
        found: Place = request.getfixturevalue("disk")
        return found
    s3: ObjectStore = request.getfixturevalue("s3")
    folder = uuid.uuid4().hex
    return Place(f"{request.getfixturevalue('bucket')}/some folder/{folder}", s3.storage)


@dataclass(frozen=True)
class Toys:
    """Plans toy runs at a place."""

    place: Place
    folder: Path

    def __call__(self, items: str | Sequence[str] = "a b c", **settings: Any) -> "Toy":
        """A toy run; `items` are names with spaces between them, or a list."""
        from tests.xrec.bulk.toy_run import toy_run  # which imports this module

        names = items.split() if isinstance(items, str) else items
        return toy_run(self.place, self.folder, names, **settings)

    def at(self, name: str) -> "Toys":
        """The same at another place, below this one."""
        return Toys(Place(f"{self.place.uri}/{name}", self.place.storage), self.folder)


@pytest.fixture
def toys(request: pytest.FixtureRequest, tmp_path: Path) -> Toys:
    """Toy runs at `place`, if the test asks for it, else on a disk."""
    name = "place" if "place" in request.fixturenames else "disk"
    return Toys(request.getfixturevalue(name), tmp_path)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever is tried again be so at once, as often as ever."""
    monkeypatch.setattr(backoff, "_WAITS_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a table have several row groups and buckets."""
    monkeypatch.setattr("xrec.bulk.parts._ROWS_PER_GROUP", 8)
    monkeypatch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 3)
