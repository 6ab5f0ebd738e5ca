"""Reading explanations: only what is committed, by the manifest, or by the commit records while the run is under way."""

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
    """The explanations at `uri` as a pyarrow dataset (schema GENERATED): each committed row once, no other.

    The dataset is of the files that counted when this was called; a retry or a compaction later does not change it. Raises
    ArtifactNotFoundError if there is neither a manifest nor a plan.
    """
    output = open_location(uri, storage)
    return _dataset(
        output, [name for name in _files(output) if not name.startswith(FAILED_FOLDER)], GENERATED
    )


def read_failed(uri: str, storage: StorageConfig | None = None) -> pads.Dataset:
    """The failed rows at `uri` (schema FAILED), else as `read`."""
    output = open_location(uri, storage)
    return _dataset(
        output, [name for name in _files(output) if name.startswith(FAILED_FOLDER)], FAILED
    )


def read_explanations(location: Location) -> pa.Table:
    """All explanations of a finished run (schema GENERATED) in memory; raises ArtifactNotFoundError before its manifest is there."""
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
