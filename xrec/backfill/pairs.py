"""Reads the pairs of a backfill, in batches.

They come from a split of the dataset, from Parquet tables, from a recommendations artifact, or are
each user's best unseen items by the graph. Their order and duplicates are those of the source.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch

from xrec.config.backfill import BackfillConfig, RecommendedPairs, SplitPairs, TablePairs, TopKPairs
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ConfigError, DataError
from xrec.graph.ranking import SeenItems, top_k_items
from xrec.recommend import read_catalogue, recommendation_batches
from xrec.schemas import PAIRS
from xrec.storage import Location, location_of, open_location, storage_errors

_BATCH_ROWS = 65_536


def pair_batches(config: BackfillConfig) -> Iterator[pa.Table]:
    """Yield the pairs of `config.pairs` (schema PAIRS), a batch at a time.

    Raises DataError if a table cannot be read; UnknownIdError or ConfigError if users or k do not
    fit the dataset or the recommendations; ArtifactNotFoundError if dataset, graph or
    recommendations are not finished.
    """
    source = config.pairs
    if isinstance(source, TablePairs):
        return _from_table(open_location(source.uri, config.storage))
    if isinstance(source, RecommendedPairs):
        uri = source.uri or config.artifact("recommendations")
        batches = recommendation_batches(uri, source.k, storage=config.storage)
        return (batch.select(PAIRS.names) for batch in batches)
    if isinstance(source, TopKPairs):
        return _from_graph(config, source)
    dataset = read_dataset(location_of(config, "dataset"))
    return iter([_from_split(dataset, source)])


def _from_table(location: Location) -> Iterator[pa.Table]:
    with storage_errors(location.uri):
        try:
            table = pads.dataset(
                location.path, filesystem=location.arrow_filesystem(), format="parquet"
            )
            missing = [name for name in PAIRS.names if name not in table.schema.names]
            if missing:
                raise DataError(
                    f"{location}: expected columns user_id and item_id, "
                    f"saw {', '.join(table.schema.names)}; rename or add them"
                )
            batches = table.to_batches(
                columns=PAIRS.names, batch_size=_BATCH_ROWS, batch_readahead=2, fragment_readahead=2
            )
            for batch in batches:
                yield _as_pairs(pa.Table.from_batches([batch]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{location}: expected Parquet files with columns user_id and item_id, "
                f"strings or integers: {error}"
            ) from error


def _as_pairs(table: pa.Table) -> pa.Table:
    """Return the ids as strings, "" for null, which becomes a failed row with an unknown id."""
    return pa.table(
        {name: pc.fill_null(table[name].cast(pa.string()), "") for name in PAIRS.names}
    ).cast(PAIRS)


def _from_split(dataset: Dataset, source: SplitPairs) -> pa.Table:
    pairs = dataset.explained_pairs(source.split)
    return _with_ids(dataset, pairs["user_index"].to_numpy(), pairs["item_index"].to_numpy()).slice(
        0, source.max_pairs
    )


def _from_graph(config: BackfillConfig, source: TopKPairs) -> Iterator[pa.Table]:
    dataset, graph = read_catalogue(config)
    if source.k > dataset.num_items:
        raise ConfigError(
            f"pairs.k = {source.k}, but the dataset has only {dataset.num_items} items; "
            "give at most this number"
        )
    indices = (
        range(dataset.num_users)
        if source.user_ids is None
        else map(dataset.user_index, source.user_ids)
    )
    seen = SeenItems(torch.from_numpy(dataset.interaction_edges("train")), dataset.num_users)
    for users, items, _ in top_k_items(
        graph.users, graph.items, seen, torch.tensor(list(indices)), source.k
    ):
        is_item = items >= 0  # (B, k); -1 stands where a user has no more unseen items
        yield _with_ids(
            dataset, users[:, None].expand_as(items)[is_item].numpy(), items[is_item].numpy()
        )


def _with_ids(
    dataset: Dataset, user_indices: npt.NDArray[np.int64], item_indices: npt.NDArray[np.int64]
) -> pa.Table:
    columns = {
        "user_id": dataset.users["user_id"].take(pa.array(user_indices)),
        "item_id": dataset.items["item_id"].take(pa.array(item_indices)),
    }
    return pa.table(columns).cast(PAIRS)
