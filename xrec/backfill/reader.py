"""Reads explanations: each committed row once, and no other.

Which files count is told by the manifest, or by the commit records before the run is finished for
the first time. A pattern such as `part-*.parquet` cannot replace this: it matches every row twice
after a compaction, it matches the uncommitted rows of a retry under way, and it misses rows that
were carried from an earlier run.
"""

import pyarrow as pa
import pyarrow.dataset as pads

from xrec.backfill.commit import FAILED_FOLDER
from xrec.backfill.plan import PLAN
from xrec.backfill.snapshot import read_records, snapshot_of
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactNotFoundError
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, open_location, read_manifest, read_table


def read(uri: str, storage: StorageConfig | None = None) -> pads.Dataset:
    """Return the explanations at `uri` as a pyarrow dataset (schema GENERATED).

    The dataset consists of the files that count at the time of the call; a later retry or
    compaction does not change it. Raises ArtifactNotFoundError if there is neither a manifest nor
    a plan.
    """
    output = open_location(uri, storage)
    names = [name for name in _files(output) if not name.startswith(FAILED_FOLDER)]
    return _dataset(output, names, GENERATED)


def read_failed(uri: str, storage: StorageConfig | None = None) -> pads.Dataset:
    """Return the failed rows at `uri` as a dataset (schema FAILED); otherwise like `read`."""
    output = open_location(uri, storage)
    names = [name for name in _files(output) if name.startswith(FAILED_FOLDER)]
    return _dataset(output, names, FAILED)


def read_explanations(location: Location) -> pa.Table:
    """Return all explanations of a finished run (schema GENERATED) in memory.

    Raises ArtifactNotFoundError if the run has no manifest yet.
    """
    manifest = read_manifest(location, "explanations")
    tables = [
        read_table(location.at(name), GENERATED)
        for name in sorted(manifest.files)
        if not name.startswith(FAILED_FOLDER)
    ]
    return pa.concat_tables(tables) if tables else GENERATED.empty_table()


def _files(output: Location) -> list[str]:
    try:
        return sorted(read_manifest(output, "explanations").files)
    except ArtifactNotFoundError:
        if not (output / PLAN).is_file():
            raise
        return sorted(snapshot_of(read_records(output)).files)


def _dataset(output: Location, names: list[str], schema: pa.Schema) -> pads.Dataset:
    if not names:
        return pads.dataset(schema.empty_table())
    paths = [output.at(name).path for name in names]
    return pads.dataset(
        paths, schema=schema, filesystem=output.arrow_filesystem(), format="parquet"
    )
