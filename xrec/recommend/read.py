"""Reads published recommendations."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from xrec.bulk import published
from xrec.config.shared import StorageConfig
from xrec.errors import ConfigError
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import storage_errors


def read_recommendations(
    uri: str, k: int | None = None, *, storage: StorageConfig | None = None
) -> pa.Table:
    """The tables of `recommendation_batches` as one, sorted by user_id and rank."""
    batches = recommendation_batches(uri, k, storage=storage)
    rows = pa.concat_tables([RECOMMENDATIONS.empty_table(), *batches])
    return rows.sort_by([("user_id", "ascending"), ("rank", "ascending")])


def recommendation_batches(
    uri: str, k: int | None = None, *, storage: StorageConfig | None = None
) -> Iterator[pa.Table]:
    """Yield the first k items of each user, or all if k is null, many rows at a time.

    The tables have the schema RECOMMENDATIONS. A user's rows follow each other, by rank; users come
    in no particular order.

    Raises ArtifactNotFoundError if nothing is published, ArtifactMismatchError if the table is
    another one, ConfigError if k is more than was recommended.
    """
    table = published(uri, storage=storage)
    dataset = table.dataset(RECOMMENDATIONS)
    there = table.manifest.config["k"]
    if k is not None and k > there:
        raise ConfigError(
            f"k = {k}, but {uri} holds {there} items a user; lower k, or recommend again with a "
            "larger one"
        )
    is_wanted = None if k is None else pc.field("rank") <= k
    with storage_errors(uri):
        for batch in dataset.to_batches(columns=RECOMMENDATIONS.names, filter=is_wanted):
            if batch.num_rows:
                yield pa.Table.from_batches([batch]).cast(RECOMMENDATIONS)
