"""What an actor does with some users: it ranks the items that each has not seen.

The actors of a node share the arrays of vectors, edges and ids (`RankingTables`).
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from torch import Tensor

from xrec.bulk import Outcome, RowFormat
from xrec.config.backfill import RecommendConfig
from xrec.data.cold_start import read_cold_start
from xrec.data.dataset import Dataset, read_dataset
from xrec.graph.artifact import GraphEmbeddings, check_graph_of_dataset, read_graph
from xrec.graph.fold_in import extend_with_new
from xrec.graph.ranking import SeenItems, top_k_items
from xrec.storage import location_of

ALL_SEEN = "all_items_seen"
FULL = "users_with_k"
"""The cost that counts users for whom there are k items."""

ROWS = RowFormat(
    keys=("user_id",),
    ok=pa.schema(
        [
            pa.field("item_id", pa.string(), metadata={"comment": "an item the user has not seen"}),
            pa.field("rank", pa.int32(), metadata={"comment": "1 is the user's best item"}),
            pa.field(
                "score",
                pa.float32(),
                metadata={"comment": "dot product of the user's and the item's vector"},
            ),
        ]
    ),
    ok_keys=("rank",),
    failed=pa.schema([]),
    reasons=(ALL_SEEN,),
)
"""A user has a row of `status=ok` for each recommended item, or one failed row.

Rows, and not a list of items in one row, because every reader can filter, join and export them.
"""


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


def load_task(tables: "ray.ObjectRef[RankingTables]", k: int) -> "RankingTask":
    """The task of an actor. `tables` are in Ray's object store, so actors of a node share them."""
    torch.set_num_threads(1)
    return RankingTask(ray.get(tables), k)


class RankingTask:
    """Ranks the items of some users (a ChunkTask of xrec.bulk)."""

    row_errors: tuple[type[Exception], ...] = ()

    def __init__(self, tables: RankingTables, k: int):
        self._tables = tables
        self._k = k
        self._users, self._items, edges = (
            _shared(array)
            for array in (tables.user_vectors, tables.item_vectors, tables.train_edges)
        )
        self._seen = SeenItems(edges, len(tables.user_vectors))

    def do(self, rows: pa.Table) -> Outcome:
        """The k best unseen items of each user, fewer if fewer are left.

        A user who has seen all items is a failed row.
        """
        users = self._indices(rows["user_id"])
        chunks = [
            (items, scores)
            for _, items, scores in top_k_items(
                self._users, self._items, self._seen, torch.from_numpy(users), self._k
            )
        ]
        items, scores = (torch.cat(parts).numpy() for parts in zip(*chunks, strict=True))  # (N, k)
        of_user, places = np.nonzero(items >= 0)  # -1 where no unseen item is left
        ok = pa.table(
            {
                "user_id": self._ids(users[of_user]),
                "item_id": self._tables.item_ids.take(pa.array(items[of_user, places])),
                "rank": pa.array(places + 1, pa.int32()),
                "score": pa.array(scores[of_user, places], pa.float32()),
            }
        )
        without = pa.table({"user_id": self._ids(users[items[:, 0] < 0])})
        return Outcome(
            ok,
            self.fail(without, ALL_SEEN, "the user has seen every item"),
            {FULL: int((items[:, -1] >= 0).sum())},
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """The users as failed rows."""
        texts = {"reason": reason, "message": message}
        repeated = {name: pa.repeat(text, rows.num_rows) for name, text in texts.items()}
        return pa.table({"user_id": rows["user_id"], **repeated})

    def _indices(self, user_ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """The indices of N users, (N,), in increasing order.

        All ids of the catalogue are compared with these few, so no actor needs an index of them.
        """
        is_wanted = pc.is_in(self._tables.user_ids, value_set=user_ids.combine_chunks())
        indices = np.flatnonzero(is_wanted.to_numpy(zero_copy_only=False))
        assert len(indices) == len(user_ids), (len(indices), len(user_ids))
        return indices

    def _ids(self, users: npt.NDArray[np.int64]) -> pa.Array:
        return self._tables.user_ids.take(pa.array(users))


def _shared(array: npt.NDArray[Any]) -> Tensor:
    """`array` as a tensor, without a copy.

    An array from Ray's object store is read-only, and nothing here writes to it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def read_tables(config: RecommendConfig) -> RankingTables:
    """Read what `config` names.

    Raises what reading these raises, and UnknownIdError for a user who is neither in the dataset
    nor in the cold start.
    """
    dataset, graph = _read_catalogue(config)
    for user_id in config.user_ids or ():
        dataset.user_index(user_id)
    return RankingTables(
        user_vectors=graph.users.numpy(),
        item_vectors=graph.items.numpy(),
        train_edges=dataset.interaction_edges("train"),
        user_ids=dataset.users["user_id"].combine_chunks(),
        item_ids=dataset.items["item_id"].combine_chunks(),
    )


def _read_catalogue(config: RecommendConfig) -> tuple[Dataset, GraphEmbeddings]:
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
