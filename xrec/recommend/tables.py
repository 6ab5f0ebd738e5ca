"""What a recommend run ranks: arrays of vectors, edges and ids, shared by the actors of a node."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xrec.config.backfill import BackfillConfig, RecommendConfig
from xrec.data.cold_start import read_cold_start
from xrec.data.dataset import Dataset, read_dataset
from xrec.graph.artifact import GraphEmbeddings, check_graph_of_dataset, read_graph
from xrec.graph.fold_in import extend_with_new
from xrec.storage import location_of


@dataclass(frozen=True, eq=False)
class RankingTables:
    """U users, I items, and what the users have seen.

    user_vectors: (U, D) float32. item_vectors: (I, D) float32.
    train_edges: (2, E) int64, user and item indices of the training interactions.
    user_ids: U strings. item_ids: I strings.
    """

    user_vectors: npt.NDArray[np.float32]
    item_vectors: npt.NDArray[np.float32]
    train_edges: npt.NDArray[np.int64]
    user_ids: pa.Array
    item_ids: pa.Array


def read_tables(config: RecommendConfig) -> RankingTables:
    """Read what `config` names.

    Raises what `read_catalogue` raises, and UnknownIdError for a user who is neither in the dataset
    nor in the cold start.
    """
    dataset, graph = read_catalogue(config)
    for user_id in config.user_ids or ():
        dataset.user_index(user_id)
    return RankingTables(
        user_vectors=graph.users.numpy(),
        item_vectors=graph.items.numpy(),
        train_edges=dataset.interaction_edges("train"),
        user_ids=dataset.users["user_id"].combine_chunks(),
        item_ids=dataset.items["item_id"].combine_chunks(),
    )


def read_catalogue(config: RecommendConfig | BackfillConfig) -> tuple[Dataset, GraphEmbeddings]:
    """The dataset and its graph; users and items of a cold start are appended to both.

    Raises ArtifactNotFoundError if one is missing, ArtifactMismatchError if the graph is of another
    dataset, DataError if a vector is not finite.
    """
    dataset = read_dataset(location_of(config, "dataset"))
    graph = read_graph(location_of(config, "graph"))
    check_graph_of_dataset(
        graph.manifest, dataset.manifest, config.artifact("graph"), config.artifact("dataset")
    )
    graph.check_finite()
    if config.cold_start is None:
        return dataset, graph
    return extend_with_new(dataset, graph, read_cold_start(config.cold_start, config.storage))
