"""What every method of the graph benchmark gets, the edges of a dataset, and how it is scored."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from xrec.config.shared import Split
from xrec.data.dataset import read_dataset
from xrec.graph.ranking import SeenItems, ranking_metrics, users_with_items
from xrec.storage import open_location

K = 20
RECALL, NDCG = f"recall@{K}", f"ndcg@{K}"
HELD_OUT: tuple[Split, Split] = ("validation", "test")


@dataclass(frozen=True, eq=False)
class BenchmarkData:
    """Edges of each split between U users and I items.

    They are (2, E) int64, with user indices in row 0 and item indices in row 1.
    """

    name: str
    num_users: int
    num_items: int
    edges: dict[Split, Tensor]

    @property
    def train(self) -> Tensor:
        """The training edges (2, E) int64."""
        return self.edges["train"]

    def interactions(self) -> scipy.sparse.csr_matrix:
        """Return R, the training interactions (U, I) as ones in float32."""
        users, items = self.train.numpy()
        ones = np.ones(len(users), dtype=np.float32)
        return scipy.sparse.csr_matrix(
            (ones, (users, items)), shape=(self.num_users, self.num_items)
        )


def read_data(uri: str) -> BenchmarkData:
    """Read the dataset artifact at `uri`; workspace/yelp/dataset gets the name yelp."""
    dataset = read_dataset(open_location(uri))
    splits: tuple[Split, ...] = ("train", *HELD_OUT)
    edges = {split: torch.from_numpy(dataset.interaction_edges(split)) for split in splits}
    return BenchmarkData(
        Path(uri).resolve().parent.name,
        dataset.num_users,
        dataset.num_items,
        edges,
    )


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of users (U, D) and items (I, D), float32; a pair's score is their dot product."""

    users: Tensor
    items: Tensor


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A method's model after some time of its own work.

    The time is in wall-clock `seconds` and in `cpu_seconds`, with the set-up, without evaluation.
    There are no CPU seconds of an artifact.
    """

    seconds: float
    cpu_seconds: float | None
    epoch: int
    scores: Vectors


class Stopwatch:
    """Measures the time of a method's own work; it stands still while vectors are ranked."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside the `with`."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu

    def snapshot(self, epoch: int, scores: Vectors) -> Snapshot:
        """Return the model `scores` with the time so far."""
        return Snapshot(self.seconds, self.cpu_seconds, epoch, scores)


class Evaluator:
    """Scores a model: {"validation": {"recall@20": ..., "ndcg@20": ...}, "test": ...}.

    Training items are left out of every ranking.
    """

    def __init__(self, data: BenchmarkData) -> None:
        self._seen = SeenItems(data.train, data.num_users)
        self._held_out = {split: SeenItems(data.edges[split], data.num_users) for split in HELD_OUT}
        self._users = {split: users_with_items(data.edges[split]) for split in HELD_OUT}

    @torch.no_grad()
    def __call__(self, vectors: Vectors) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for split in HELD_OUT:
            items, users = self._held_out[split], self._users[split]
            metrics = ranking_metrics(vectors.users, vectors.items, self._seen, items, users, (K,))
            found[split] = {name: metrics[name] for name in (RECALL, NDCG)}
        return found
