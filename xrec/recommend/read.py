"""Reads the rows of a finished recommendations artifact."""

from collections.abc import Iterator

import pyarrow as pa

from xrec.bulk.row_format import OK
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.recommend.identity import KIND
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import open_location, read_manifest, storage_errors
from xrec.table import Filter, Snapshot, Table


def read_recommendations(
    uri: str,
    k: int | None = None,
    *,
    version: int | None = None,
    storage: StorageConfig | None = None,
) -> pa.Table:
    """The tables of `recommendation_batches` as one, sorted by user_id and rank."""
    batches = recommendation_batches(uri, k, version=version, storage=storage)
    rows = pa.concat_tables([RECOMMENDATIONS.empty_table(), *batches])
    return rows.sort_by([("user_id", "ascending"), ("rank", "ascending")])


def recommendation_batches(
    uri: str,
    k: int | None = None,
    *,
    version: int | None = None,
    storage: StorageConfig | None = None,
) -> Iterator[pa.Table]:
    """Yield the first k items of each user, or all if k is null, many rows at a time.

    The tables have the schema RECOMMENDATIONS. A user's rows follow each other, by rank; users come
    in no particular order. The version is the one that the run finished with, unless another is
    given.

    Raises ArtifactNotFoundError if the run is not finished, ArtifactMismatchError if an older xrec
    wrote the artifact, ConfigError if k is more than the run recommended, TableError if the version
    is not there any more.
    """
    storage = storage or StorageConfig()
    manifest = read_manifest(open_location(uri, storage), KIND)
    if manifest.version is None:
        raise ArtifactMismatchError(
            f"{uri}: these recommendations are no table: an older xrec wrote them; delete them, or "
            "give another output URI, and run xrec recommend again"
        )
    there = manifest.config["k"]
    if k is not None and k > there:
        raise ConfigError(
            f"k = {k}, but {uri} holds {there} items a user; lower k, or recommend again with a "
            "larger one"
        )
    version = manifest.version if version is None else version
    return _batches(uri, Table.open(uri, storage=storage).snapshot(version), k)


def _batches(uri: str, snapshot: Snapshot, k: int | None) -> Iterator[pa.Table]:
    first: list[Filter] = [] if k is None else [("rank", "<=", k)]
    dataset = snapshot.dataset([("status", "=", OK), *first])
    with storage_errors(uri):
        for batch in dataset.to_batches(columns=RECOMMENDATIONS.names):
            if batch.num_rows:
                yield pa.Table.from_batches([batch]).cast(RECOMMENDATIONS)
