"""Reads explanations: the rows of one published version of an output's table, each row once."""

import pyarrow as pa
import pyarrow.dataset as pads

from xrec.bulk import published
from xrec.bulk.runs.row_format import FAILED as FAILED_STATUS
from xrec.bulk.runs.row_format import OK
from xrec.config.shared import StorageConfig
from xrec.schemas import FAILED, GENERATED
from xrec.storage import storage_errors


def read(
    uri: str, version: int | None = None, storage: StorageConfig | None = None
) -> pads.Dataset:
    """The explanations at `uri` as a pyarrow dataset: schema GENERATED, `status` and `bucket`.

    version: of the table; the newest one by default. A version never changes, whatever is published
    later. Raises ArtifactNotFoundError if nothing is published there, ArtifactMismatchError if the
    table has other columns, TableError if it has no such version.
    """
    return published(uri, version=version, storage=storage).dataset(GENERATED, OK)


def read_failed(
    uri: str, version: int | None = None, storage: StorageConfig | None = None
) -> pads.Dataset:
    """The failed rows at `uri` as a dataset (schema FAILED, and so on); otherwise like `read`."""
    return published(uri, version=version, storage=storage).dataset(FAILED, FAILED_STATUS)


def read_explanations(uri: str, storage: StorageConfig | None = None) -> pa.Table:
    """All explanations (schema GENERATED) in memory; raises as `read` does."""
    with storage_errors(uri):
        return read(uri, storage=storage).to_table(columns=GENERATED.names).cast(GENERATED)
