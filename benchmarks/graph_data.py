"""What every method of the benchmark is given, and how it is scored: a dataset artifact's edges, one metric for all."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from xrec.config.shared import Split
from xrec.data.dataset import read_dataset
from xrec.graph import SeenItems, ranking_metrics, users_with_items
from xrec.storage import open_location

K = 20
RECALL, NDCG = f"recall@{K}", f"ndcg@{K}"
HELD_OUT: tuple[Split, Split] = ("validation", "test")
_ROWS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class BenchmarkData:
    """U users, I items; `edges` of each split (2, E) int64: user indices in row 0, item indices in row 1."""

    name: str
    fingerprint: str
    num_users: int
    num_items: int
    edges: dict[Split, Tensor]

    @property
    def train(self) -> Tensor:
        """(2, E) int64."""
        return self.edges["train"]

    def interactions(self) -> scipy.sparse.csr_matrix:
        """R: the training interactions (U, I), ones in float32."""
        users, items = self.train.numpy()
        ones = np.ones(len(users), dtype=np.float32)
        return scipy.sparse.csr_matrix(
            (ones, (users, items)), shape=(self.num_users, self.num_items)
        )


def read_data(uri: str) -> BenchmarkData:
    """The dataset artifact at `uri`, named after the folder it stands in (workspace/yelp/dataset: yelp)."""
    dataset = read_dataset(open_location(uri))
    splits: tuple[Split, ...] = ("train", *HELD_OUT)
    edges = {split: torch.from_numpy(dataset.interaction_edges(split)) for split in splits}
    return BenchmarkData(
        Path(uri).resolve().parent.name,
        dataset.manifest.fingerprint,
        dataset.num_users,
        dataset.num_items,
        edges,
    )


@dataclass(frozen=True, eq=False)
class Vectors:
    """users (U, D), items (I, D) float32; a pair's score is their dot product."""

    users: Tensor
    items: Tensor


@dataclass(frozen=True, eq=False)
class ScoreRows:
    """A model without vectors: user indices (B,) int64 -> scores of all items (B, I) float32."""

    of: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A method's model after `seconds` of wall-clock and `cpu_seconds` (None: not known) of its own work, set-up in, evaluation out."""

    seconds: float
    cpu_seconds: float | None
    epoch: int
    scores: Vectors | ScoreRows


class Stopwatch:
    """A method's own work: stopped while its vectors are ranked."""

    def __init__(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.cpu_seconds = cpu_seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu

    def snapshot(self, epoch: int, scores: Vectors | ScoreRows) -> Snapshot:
        """The model `scores` at this time."""
        return Snapshot(self.seconds, self.cpu_seconds, epoch, scores)


class Evaluator:
    """{"validation": {"recall@20", "ndcg@20"}, "test": ...} of a model; training items are left out of every ranking."""

    def __init__(self, data: BenchmarkData) -> None:
        self._seen = SeenItems(data.train, data.num_users)
        self._held_out = {split: SeenItems(data.edges[split], data.num_users) for split in HELD_OUT}
        self._users = {split: users_with_items(data.edges[split]) for split in HELD_OUT}

    @torch.no_grad()
    def __call__(self, scores: Vectors | ScoreRows) -> dict[str, dict[str, float]]:
        return {
            split: self._of_rows(scores, split)
            if isinstance(scores, ScoreRows)
            else self._of_vectors(scores, split)
            for split in HELD_OUT
        }

    def _of_vectors(self, vectors: Vectors, split: Split) -> dict[str, float]:
        metrics = ranking_metrics(
            vectors.users,
            vectors.items,
            self._seen,
            self._held_out[split],
            self._users[split],
            (K,),
        )
        return {name: metrics[name] for name in (RECALL, NDCG)}

    def _of_rows(self, scores: ScoreRows, split: Split) -> dict[str, float]:
        """The same function on blocks of users: with the identity as users and the scores' transpose as items."""
        totals = dict.fromkeys((RECALL, NDCG), 0.0)
        for users in self._users[split].split(_ROWS_AT_ONCE):
            num = len(users)
            seen, held_out = (
                SeenItems(torch.stack(edges.of(users)), num)
                for edges in (self._seen, self._held_out[split])
            )
            metrics = ranking_metrics(
                torch.eye(num), scores.of(users).T, seen, held_out, torch.arange(num), (K,)
            )
            totals = {name: total + metrics[name] * num for name, total in totals.items()}
        return {name: total / len(self._users[split]) for name, total in totals.items()}
