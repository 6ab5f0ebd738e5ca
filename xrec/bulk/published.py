"""Reads what is published: the rows of one version of a table, each row once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from xrec.bulk.keys import bucket_of
from xrec.bulk.row_format import OK
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import Manifest, open_location
from xrec.storage.delta import DeltaLog, dataset_of, file_errors, manifest_of_log, open_log


@dataclass(frozen=True)
class Published:
    """A version of a table that was published; a later version changes nothing of it."""

    log: DeltaLog
    manifest: Manifest

    @property
    def version(self) -> int:
        """The version of the table."""
        return self.log.version

    @property
    def num_buckets(self) -> int:
        """C: `bucket` is which of C equal ranges has the hash of the first key."""
        return int(self.manifest.metrics["num_buckets"])

    def dataset(self, schema: pa.Schema | None = None, status: str | None = OK) -> pads.Dataset:
        """The rows with a status, or all; `schema` names some of the columns, all if it is None.

        The columns `status` and `bucket` are there besides.
        """
        whole = pa.schema(self.log.delta.schema().to_arrow())
        if schema is not None:
            lacking = set(schema.names) - set(whole.names)
            if lacking:
                raise ArtifactMismatchError(
                    f"{self.log.location}: holds a table without the columns "
                    f"{', '.join(sorted(lacking))}; check the URI"
                )
            own = [whole.field(name) for name in ("status", "bucket") if name not in schema.names]
            whole = pa.schema([*own, *schema])
        return dataset_of(self.log, self.version, whole, status=status)

    def batches(self, columns: Sequence[str], status: str = OK) -> Iterator[pa.Table]:
        """Yield the rows with a status many at a time, at least one table."""
        dataset = self.dataset(status=status)
        schema = pa.schema([dataset.schema.field(name) for name in columns]).remove_metadata()
        yield schema.empty_table()
        with file_errors(self.log.location):
            for batch in dataset.to_batches(columns=list(columns)):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch]).cast(schema)

    def find(self, dataset: pads.Dataset, key: str, first: str) -> pa.Table:
        """The rows of `dataset` whose first key, the column `first`, is `key`.

        Its bucket leads to one file, or two, and few row groups of it. Raises StorageError,
        DataError if a file is broken.
        """
        wanted = (pc.field("bucket") == bucket_of(key, self.num_buckets)) & (pc.field(first) == key)
        with file_errors(self.log.location):
            return dataset.to_table(filter=wanted)


def published(
    uri: str, *, version: int | None = None, storage: StorageConfig | None = None
) -> Published:
    """What is published at `uri`: the newest version of the table, or an earlier one.

    Raises ArtifactNotFoundError if nothing is published there; TableError if there is no such
    version, or if it is not sound.
    """
    log = open_log(open_location(uri, storage or StorageConfig()), version)
    if log is None:
        raise ArtifactNotFoundError(
            f"{uri}: nothing was published there; run its job first, or check the URI"
        )
    return Published(log, manifest_of_log(log))
