"""Where a backfill's pairs come from: a split of the dataset, a table, a recommendations artifact, or the graph's best unseen items."""

import logging

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch

from xrec.config import BackfillConfig, RecommendedPairs, SplitPairs, TablePairs, TopKPairs
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ConfigError, DataError
from xrec.graph.ranking import recommend
from xrec.recommend import read_catalogue, read_recommendations
from xrec.schemas import PAIRS
from xrec.storage import Location, open_location, storage_errors

logger = logging.getLogger("xrec")


def read_pairs(config: BackfillConfig) -> pa.Table:
    """The pairs of `config.pairs` (schema PAIRS), each once, sorted by user and item.

    Raises DataError if there are none or their table cannot be read, UnknownIdError or ConfigError if users or k do not fit the dataset
    or the recommendations, ArtifactNotFoundError if those are not finished.
    """
    table = _read(config)
    unique = table.group_by(["user_id", "item_id"]).aggregate([]).sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    if unique.num_rows < table.num_rows:
        logger.info("%d pairs were given more than once; each is explained once", table.num_rows - unique.num_rows)
    if unique.num_rows == 0:
        raise DataError(f"no pairs to explain; check pairs ({config.pairs.kind})")
    return unique.select(PAIRS.names).cast(PAIRS)


def _read(config: BackfillConfig) -> pa.Table:
    source = config.pairs
    if isinstance(source, TablePairs):
        return _from_table(open_location(source.uri, config.storage))
    if isinstance(source, RecommendedPairs):
        location = open_location(source.uri or config.artifact("recommendations"), config.storage)
        return read_recommendations(location, source.k).select(PAIRS.names)
    if isinstance(source, TopKPairs):
        return _from_graph(config, source)
    return _from_split(read_dataset(open_location(config.artifact("dataset"), config.storage)), source)


def _from_table(location: Location) -> pa.Table:
    with storage_errors(location.uri):
        try:
            table = pads.dataset(location.path, filesystem=location.arrow_filesystem(), format="parquet")
            missing = [name for name in PAIRS.names if name not in table.schema.names]
            if missing:
                raise DataError(f"{location}: expected columns user_id and item_id, saw {', '.join(table.schema.names)}; rename or add them")
            pairs = table.to_table(columns=PAIRS.names)
            # Ids may be integers in the table; nulls can name nobody.
            texts = pa.table({name: pc.fill_null(pairs[name].cast(pa.string()), "") for name in PAIRS.names})
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{location}: expected Parquet files with columns user_id and item_id, strings or integers: {error}") from error
    return texts.cast(PAIRS)


def _from_split(dataset: Dataset, source: SplitPairs) -> pa.Table:
    pairs = dataset.explained_pairs(source.split)
    return _with_ids(dataset, pairs["user_index"].to_numpy(), pairs["item_index"].to_numpy()).slice(0, source.max_pairs)


def _from_graph(config: BackfillConfig, source: TopKPairs) -> pa.Table:
    dataset, graph = read_catalogue(config)
    if source.k > dataset.num_items:
        raise ConfigError(f"pairs.k = {source.k}, but the dataset has {dataset.num_items} items; give at most so many")
    indices = range(dataset.num_users) if source.user_ids is None else map(dataset.user_index, source.user_ids)
    users = torch.tensor(list(indices))
    items, _ = recommend(graph, torch.from_numpy(dataset.interaction_edges("train")), users, source.k)  # (N, k), -1: no unseen item left
    there = items >= 0
    return _with_ids(dataset, users[:, None].expand_as(items)[there].numpy(), items[there].numpy())


def _with_ids(dataset: Dataset, user_indices: npt.NDArray[np.int64], item_indices: npt.NDArray[np.int64]) -> pa.Table:
    columns = {"user_id": dataset.users["user_id"].take(pa.array(user_indices)), "item_id": dataset.items["item_id"].take(pa.array(item_indices))}
    return pa.table(columns).cast(PAIRS)
