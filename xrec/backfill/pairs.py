"""Reads the pairs of a backfill, in batches.

They come from a split of the dataset, from Parquet tables, from a recommendations artifact, or are
each user's best unseen items by the graph. Their order and duplicates are those of the source. They
are read only when a run is planned: a later start compares `pairs_listing` with that of the plan.
"""

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads
import torch

from xrec.backfill.identity import pairs_location
from xrec.bulk import clean_keys, listing_of
from xrec.config.backfill import BackfillConfig, RecommendedPairs, SplitPairs, TablePairs, TopKPairs
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ConfigError, DataError
from xrec.graph.ranking import SeenItems, top_k_items
from xrec.recommend import read_catalogue, recommendation_batches
from xrec.schemas import PAIRS
from xrec.storage import Location, location_of, read_manifest, storage_errors

logger = logging.getLogger("xrec")

Batch = tuple[pa.Table, pa.Table]
"""Good pairs (schema PAIRS) and rejected rows (REJECTED)."""

_BATCH_ROWS = 65_536


def pairs_listing(config: BackfillConfig) -> dict[str, list[str]]:
    """What tells that the pairs are those of an earlier start; it takes one small request or two.

    For a table these are its files with sizes and ETags or times. For recommendations it is their
    fingerprint. Pairs of a split and `top_k` come from the dataset and the graph, which are in the
    run's identity.

    Raises StorageError if the table cannot be listed, ArtifactNotFoundError if the recommendations
    are not finished.
    """
    source = config.pairs
    if isinstance(source, TablePairs):
        return listing_of(pairs_location(config, source))
    if isinstance(source, RecommendedPairs):
        location = pairs_location(config, source)
        return {location.shared_uri: [read_manifest(location, "recommendations").fingerprint]}
    return {}


def pair_batches(config: BackfillConfig) -> Iterator[Batch]:
    """Yield the pairs of `config.pairs`, and the rows whose ids are none, a batch at a time.

    Raises DataError if a table cannot be read, or if more than `max_failed_share` of all rows are
    rejected; UnknownIdError or ConfigError if users or k do not fit the dataset or the
    recommendations; ArtifactNotFoundError if dataset, graph or recommendations are not finished.
    """
    return _count_rejected(_batches(config), config.max_failed_share)


def _batches(config: BackfillConfig) -> Iterator[Batch]:
    source = config.pairs
    if isinstance(source, TablePairs):
        return table_batches(pairs_location(config, source))
    if isinstance(source, RecommendedPairs):
        location = pairs_location(config, source)
        batches = recommendation_batches(location.uri, source.k, storage=config.storage)
        return _clean(batches, location.uri)
    if isinstance(source, TopKPairs):
        return _clean(_from_graph(config, source), config.artifact("graph"))
    dataset = read_dataset(location_of(config, "dataset"))
    return _clean([_from_split(dataset, source)], config.artifact("dataset"))


def _count_rejected(batches: Iterable[Batch], max_share: float) -> Iterator[Batch]:
    num_rows, rejected = 0, []
    for good, bad in batches:
        num_rows += good.num_rows + bad.num_rows
        if bad.num_rows:
            rejected.append(bad)
        yield good, bad
    if not rejected:
        return
    all_rejected = pa.concat_tables(rejected)
    first = all_rejected.slice(0, 1).to_pylist()[0]
    message = (
        f"{all_rejected.num_rows} of {num_rows} rows of pairs have ids that are neither strings "
        f"nor integers, the first at {first['file']}, line {first['line']}: {first['reason']} "
        f"({first['text']})"
    )
    if all_rejected.num_rows > max_share * num_rows:
        raise DataError(
            f"{message}; this is more than max_failed_share = {max_share}. Correct them, or raise "
            "max_failed_share"
        )
    logger.warning("%s; they are left out", message)


def _clean(tables: Iterable[pa.Table], file: str) -> Iterator[Batch]:
    first_line = 1
    for table in tables:
        yield clean_keys(table, PAIRS.names, file=file, first_line=first_line)
        first_line += table.num_rows


def table_batches(location: Location) -> Iterator[Batch]:
    """Yield the pairs of a Parquet file or folder, as `pair_batches` does.

    Raises DataError if it cannot be read, or lacks user_id or item_id.
    """
    with storage_errors(location.uri):
        try:
            files = pads.dataset(
                location.path, filesystem=location.arrow_filesystem(), format="parquet"
            ).get_fragments()
            for file in files:
                uri = f"{location.shared_uri}{file.path.removeprefix(location.path)}"
                yield from _clean(_tables(file, uri), uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{location}: expected Parquet files with columns user_id and item_id, "
                f"strings or integers: {error}"
            ) from error


def _tables(file: pads.ParquetFileFragment, uri: str) -> Iterator[pa.Table]:
    """The ids of a file with the types that they have there, which may differ between files."""
    schema = file.physical_schema
    missing = [name for name in PAIRS.names if name not in schema.names]
    if missing:
        raise DataError(
            f"{uri}: expected columns user_id and item_id, saw {', '.join(schema.names)}; rename "
            "or add them"
        )
    for batch in file.to_batches(
        schema=schema, columns=PAIRS.names, batch_size=_BATCH_ROWS, batch_readahead=2
    ):
        yield pa.Table.from_batches([batch])


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
