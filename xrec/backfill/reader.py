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

_KIND = "explanations"
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
    manifest = finished_manifest(open_location(uri, storage))
    return read(uri, manifest.version, storage).to_table()


def snapshot_of(
    uri: str, version: int | None = None, storage: StorageConfig | None = None
) -> Snapshot:
    """The table at `uri` at a version, which is chosen as `read` does; raises as `read` does."""
    output = open_location(uri, storage)
    if version is None:
        try:
            version = finished_manifest(output).version
        except ArtifactNotFoundError:
            if not (output / "_delta_log").exists():
                raise
    snapshot = Table.open(uri, storage=storage).snapshot(version)
    lacking = set(GENERATED.names) - set(snapshot.format.schema.names)
    if lacking:
        raise ArtifactMismatchError(
            f"{uri}: holds a table without the columns {', '.join(sorted(lacking))}, so it holds no "
            "explanations; check the URI"
        )
    return snapshot


def finished_manifest(output: Location) -> Manifest:
    """The manifest of the explanations at `output`; it names a version of the table.

    Raises ArtifactNotFoundError if no run is finished there, ArtifactMismatchError if an older
    xrec wrote the output.
    """
    try:
        manifest = read_manifest(output, _KIND)
    except ArtifactNotFoundError:
        older = [name for name in _OLDER_FILES if (output / name).exists()]
        if older and not (output / "_delta_log").exists():
            raise _older_layout(output, f"it has {older[0]}, and no table") from None
        raise
    if manifest.version is None:
        wrote = f"xrec {manifest.code_version} wrote it, and its manifest names no version"
        raise _older_layout(output, wrote)
    return manifest


def _older_layout(output: Location, why: str) -> ArtifactMismatchError:
    return ArtifactMismatchError(
        f"{output}: explanations in the layout of an older xrec: {why}. This xrec reads "
        "explanations that are a Delta table; run the backfill into another output URI, or read "
        "these with the xrec that wrote them"
    )


def _dataset(snapshot: Snapshot, status: str, schema: pa.Schema) -> pads.Dataset:
    """The rows with one status; their files hold no others."""
    paths = snapshot.files([("status", "=", status)])["path"].to_pylist()
    return snapshot.dataset(paths=paths).replace_schema(schema)
