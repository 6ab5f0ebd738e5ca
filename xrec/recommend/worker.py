"""The actor of a recommend job: it ranks a range of users and writes their Parquet file."""

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

from xrec.config.shared import StorageConfig
from xrec.graph.ranking import SeenItems, top_k_items
from xrec.recommend.tables import RankingTables
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import content_hash, open_location, parquet_bytes, read_table


@dataclass(frozen=True)
class WorkerSettings:
    """All that an actor uses. `tables` refers to RankingTables in Ray's object store."""

    tables: "ray.ObjectRef[RankingTables]"
    output: str
    storage: StorageConfig
    k: int
    users_per_task: int


class RangeWorker:
    """Callable for Ray Data's actor pool.

    It takes {"part": (1,)} and returns the part's file, content hash and counts.
    """

    def __init__(self, settings: WorkerSettings):
        torch.set_num_threads(1)
        self._settings = settings
        self._output = open_location(settings.output, settings.storage)
        self._ranker = Ranker(ray.get(settings.tables))

    def __call__(self, batch: dict[str, npt.NDArray[np.int64]]) -> dict[str, Any]:
        """Rank the users of one part and write it.

        A part that is there is kept, since its content follows from the run and its number.
        """
        (part,) = (int(value) for value in batch["part"])
        location = self._output / part_name(part)
        if location.is_file():
            data, table = location.read_bytes(), read_table(location, RECOMMENDATIONS)
        else:
            size = self._settings.users_per_task
            table = self._ranker.recommend(part * size, (part + 1) * size, self._settings.k)
            data = parquet_bytes(table, RECOMMENDATIONS)
            location.write_bytes(data)
        # A user with an item of rank k has all k items.
        num_full_users = pc.sum(pc.equal(table["rank"], self._settings.k)).as_py() or 0
        return {
            "part": [part],
            "file": [location.name],
            "hash": [content_hash(data)],
            "num_rows": [table.num_rows],
            "num_full_users": [num_full_users],
        }


class Ranker:
    """Ranks ranges of users of `tables`."""

    def __init__(self, tables: RankingTables):
        self._tables = tables
        self._users, self._items, edges = (
            _shared(array)
            for array in (tables.user_vectors, tables.item_vectors, tables.train_edges)
        )
        self._seen = SeenItems(edges, len(tables.user_vectors))

    def recommend(self, start: int, stop: int, k: int) -> pa.Table:
        """The k best unseen items of the users from `start` up to `stop` in the order of ids.

        The table has the schema RECOMMENDATIONS, by user and rank.
        """
        tables = self._tables
        users = torch.from_numpy(tables.order[start:stop].copy())
        chunks = [
            (items, scores)
            for _, items, scores in top_k_items(self._users, self._items, self._seen, users, k)
        ]
        items, scores = (torch.cat(parts).numpy() for parts in zip(*chunks, strict=True))  # (N, k)
        rows, columns = np.nonzero(items >= 0)  # -1 where no unseen item is left
        return pa.table(
            {
                "user_id": tables.user_ids.take(pa.array(start + rows)),
                "item_id": tables.item_ids.take(pa.array(items[rows, columns])),
                "rank": pa.array(columns + 1, pa.int32()),
                "score": pa.array(scores[rows, columns], pa.float32()),
            }
        ).cast(RECOMMENDATIONS)


def part_name(part: int) -> str:
    """The file of a range of users."""
    return f"part-{part:05d}.parquet"


def _shared(array: npt.NDArray[Any]) -> Tensor:
    """`array` as a tensor, without a copy.

    An array from Ray's object store is read-only, and nothing here writes to it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
