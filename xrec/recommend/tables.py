"""What a recommend job ranks: vectors, training interactions and ids, as arrays that the actors of a node share."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xrec.config import RecommendConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.graph.artifact import read_graph
from xrec.storage import open_location


@dataclass(frozen=True, eq=False)
class RankingTables:
    """U users, I items, and the N users to rank for.

    user_vectors (U, D), item_vectors (I, D) float32; train_edges (2, E) int64; order (N,) int64, user indices by user_id;
    user_ids (N) in that order, item_ids (I).
    """

    user_vectors: npt.NDArray[np.float32]
    item_vectors: npt.NDArray[np.float32]
    train_edges: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    user_ids: pa.Array
    item_ids: pa.Array


def read_tables(config: RecommendConfig) -> RankingTables:
    """Read dataset and graph; raises UnknownIdError for a user that the dataset does not hold, DataError if a vector is not finite."""
    dataset = read_dataset(open_location(config.artifact("dataset"), config.storage))
    order = _users_by_id(dataset, config)
    graph = read_graph(open_location(config.artifact("graph"), config.storage))
    graph.check_finite()
    return RankingTables(
        user_vectors=graph.users.numpy(),
        item_vectors=graph.items.numpy(),
        train_edges=dataset.interaction_edges("train"),
        order=order,
        user_ids=dataset.users["user_id"].combine_chunks().take(pa.array(order)),
        item_ids=dataset.items["item_id"].combine_chunks(),
    )


def _users_by_id(dataset: Dataset, config: RecommendConfig) -> npt.NDArray[np.int64]:
    """Indices (N,) of the users to rank for, each once, in the order of their ids."""
    ids = dataset.users["user_id"].to_pylist() if config.user_ids is None else set(config.user_ids)
    return np.array([dataset.user_index(user_id) for user_id in sorted(ids)], dtype=np.int64)
