"""An empty place on each store, and a table there."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.object_store import ObjectStore
from tests.xrec.table.small_table import FORMAT
from xrec.config.shared import StorageConfig
from xrec.storage import Location, open_location
from xrec.table import Table


@dataclass(frozen=True)
class Place:
    """Where a table may be made."""

    uri: str
    storage: StorageConfig

    @property
    def location(self) -> Location:
        return open_location(self.uri, self.storage)

    def table(self) -> Table:
        """Make the table, or open it."""
        return Table.create(self.uri, FORMAT, run="this-run", storage=self.storage)


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
