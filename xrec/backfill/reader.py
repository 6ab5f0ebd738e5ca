"""Reads explanations: the rows of one version of an output's table, each row once.

A version never changes, whatever a retry, a compaction or another driver does meanwhile. Which
files it has is told by the table's log alone; a pattern such as `*.parquet` would also match files
that do not count any more, or not yet.
"""

import pyarrow as pa
import pyarrow.dataset as pads

from xrec.bulk.row_format import FAILED as FAILED_STATUS
from xrec.bulk.row_format import OK
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, Manifest, open_location, read_manifest
from xrec.table import Snapshot, Table
from xrec.table.log import FOLDER

_OLDER_FILES = ("plan.json", "commits", "generations", "lease")
"""What outputs of xrec before the table hold; none of these names is in an output of today."""


def read(
    uri: str, version: int | None = None, storage: StorageConfig | None = None
) -> pads.Dataset:
    """Return the explanations at `uri` as a pyarrow dataset (schema GENERATED).

    version: of the table; by default the one that the manifest names, which is of a finished run.
        Before the run is finished for the first time it is the newest one.

    Raises ArtifactNotFoundError if no run was begun there, ArtifactMismatchError if an older xrec
    wrote the output or if it holds no explanations, TableError if the table has no such version.
    """
    return _dataset(snapshot_of(uri, version, storage), OK, GENERATED)


def read_failed(
    uri: str, version: int | None = None, storage: StorageConfig | None = None
) -> pads.Dataset:
    """Return the failed rows at `uri` as a dataset (schema FAILED); otherwise like `read`."""
    return _dataset(snapshot_of(uri, version, storage), FAILED_STATUS, FAILED)


def read_explanations(uri: str, storage: StorageConfig | None = None) -> pa.Table:
    """Return all explanations of a finished run (schema GENERATED) in memory.

    Raises ArtifactNotFoundError if the run is not finished; otherwise like `read`.
    """
    version = finished_manifest(open_location(uri, storage)).version
    return read(uri, version, storage).to_table()


def snapshot_of(
    uri: str, version: int | None = None, storage: StorageConfig | None = None
) -> Snapshot:
    """The table at `uri` at a version, which is chosen as `read` does; raises as `read` does."""
    output = open_location(uri, storage)
    finished = None
    try:
        finished = finished_manifest(output).version
    except ArtifactNotFoundError:
        if not (output / FOLDER).exists():
            raise
    snapshot = Table.open(uri, storage=storage).snapshot(finished if version is None else version)
    lacking = set(GENERATED.names) - set(snapshot.format.schema.names)
    if lacking:
        raise ArtifactMismatchError(
            f"{uri}: holds a table without the columns {', '.join(sorted(lacking))}, so no "
            "explanations; check the URI"
        )
    return snapshot


def finished_manifest(output: Location) -> Manifest:
    """The manifest of the explanations at `output`; it names a version of the table.

    Raises ArtifactNotFoundError if no run is finished there, ArtifactMismatchError if an older
    xrec wrote the output.
    """
    try:
        manifest = read_manifest(output, "explanations")
    except ArtifactNotFoundError:
        older = [name for name in _OLDER_FILES if (output / name).exists()]
        if older and not (output / FOLDER).exists():
            raise _older(output, f"it has {older[0]}") from None
        raise
    if manifest.version is None:
        raise _older(output, f"version {manifest.code_version} wrote its manifest")
    return manifest


def _older(output: Location, sign: str) -> ArtifactMismatchError:
    return ArtifactMismatchError(
        f"{output}: the output of an older xrec ({sign}), whose rows lie in files and not in a "
        "table; give another output URI, or use the xrec that made it"
    )


def _dataset(snapshot: Snapshot, status: str, schema: pa.Schema) -> pads.Dataset:
    """The rows with one status; their files hold no others."""
    paths = snapshot.files([("status", "=", status)])["path"].to_pylist()
    return snapshot.dataset(paths=paths, schema=schema)
