"""Rank items for all users, one part of the users at a time in each process."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from xrec import bulk
from xrec.config import RecommendConfig
from xrec.data import Dataset, taken
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings, read_dataset_and_graph
from xrec.graph.index import ItemIndex
from xrec.graph.ranking import seen_items, top_k_items
from xrec.progress import counter
from xrec.recommend.artifact import identify
from xrec.recommend.eligible import Eligibility, read_eligibility
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import (
    Location,
    Manifest,
    fingerprint_of,
    location_of,
    write_manifest,
    write_table,
)

USERS_PER_PART = 2**15
_MOST_COMPARED = 1000  # users


@dataclass(frozen=True)
class Part:
    """A file of the artifact. recalls: recall of the index, for the users who were compared."""

    content_hash: str
    num_rows: int
    num_users: int
    num_without: int
    recalls: tuple[float, ...]


def recommend(config: RecommendConfig, *, users_per_part: int = USERS_PER_PART) -> Manifest:
    """Rank items for all users on Ray, write the artifact, and return its manifest.

    Raises what `identify`, `read_eligibility` and `map_in_processes` raise, and DataError if a
    vector is not finite or if no item is left to recommend to any user.
    """
    settings, inputs = identify(config)
    location = location_of(config, "recommendations")
    dataset, graph = read_dataset_and_graph(config)
    graph.check_finite()
    eligibility = read_eligibility(config, dataset)
    first_users = range(0, dataset.num_users, users_per_part)
    make = partial(_writer, config, eligibility, location, users_per_part)
    parts, num = dict[str, Part](), max(1, bulk.num_cpus())
    with counter("users ranked", dataset.num_users) as show:
        for index, part in bulk.map_in_processes(make, first_users, num_processes=num):
            parts[_name(first_users[index] // users_per_part)] = part
            show(sum(part.num_users for part in parts.values()))
    if not (num_rows := sum(part.num_rows for part in parts.values())):
        raise DataError(
            f"{config.artifact('dataset')}: no user has an eligible item that they have not "
            "already seen, so nothing is recommended; check eligible.items, or add items",
            code="nothing_to_recommend",
            key="eligible",
        )
    recalls = [recall for name in sorted(parts) for recall in parts[name].recalls]
    files = {name: parts[name].content_hash for name in sorted(parts)}
    return write_manifest(
        location,
        "recommendations",
        config=settings,
        inputs=inputs,
        files=files,
        fingerprint=fingerprint_of(files),
        row_counts={
            "recommendations": num_rows,
            "users": sum(part.num_users for part in parts.values()),
            "users_without_items": sum(part.num_without for part in parts.values()),
        },
        metrics={"recall_of_index": float(np.mean(recalls)), "compared_users": len(recalls)}
        if recalls
        else {},
    )


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _writer(
    config: RecommendConfig, eligibility: Eligibility | None, location: Location, num_users: int
) -> Callable[[int], Part]:
    """Return a function that writes a part of `num_users` users, given its first user."""
    torch.set_num_threads(1)
    dataset, graph = read_dataset_and_graph(config)
    ranker = Ranker(dataset, graph, config.k, eligibility)
    if config.index == "hnsw":
        name = fingerprint_of([dataset.manifest.fingerprint, graph.manifest.fingerprint])
        ranker.index = ItemIndex(name, graph.items, dataset.lost_items)
        drawn = np.random.default_rng(0).permutation(dataset.num_users)
        ranker.compared = drawn[:_MOST_COMPARED]

    def write(first: int) -> Part:
        users = np.arange(first, min(first + num_users, dataset.num_users))
        ids = taken(dataset.users["user_id"], users.tolist())
        users = users[np.array(ids) != ""]  # an empty id is not a user
        rows, recalls = ranker.rank(users)
        location_of_part = location / _name(first // num_users)
        digest = write_table(location_of_part, rows, RECOMMENDATIONS)
        num_without = len(users) - len(rows["user_id"].unique())
        return Part(digest, rows.num_rows, len(users), num_without, recalls)

    return write


class Ranker:
    """Ranks items for users; processes on a node share the files of dataset and graph.

    compared: (M,) int64, the users for whom the items found by the index are compared with those of
    an exact search.
    """

    index: ItemIndex | None = None
    compared: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def __init__(
        self,
        dataset: Dataset,
        graph: GraphEmbeddings,
        k: int,
        eligibility: Eligibility | None = None,
    ):
        self._dataset, self._graph, self._k, self._eligibility = dataset, graph, k, eligibility
        self._seen = seen_items(dataset)

    @cached_property
    def _mean_user(self) -> torch.Tensor:
        return self._graph.users.mean(dim=0)

    def rank(self, users: npt.NDArray[np.int64]) -> tuple[pa.Table, tuple[float, ...]]:
        """Return the best items (schema RECOMMENDATIONS) for users (N,) int64, ascending.

        A user with fewer than k eligible unseen items has fewer rows, or none. Also returns, for
        each of these users who is compared, the share of the exact best k that the index found.
        """
        items, scores = self._best(users, self.index)
        recalls, compared = tuple[float, ...](), np.isin(users, self.compared)
        if compared.any():
            exact, _ = self._best(users[compared], None)
            both = zip(exact, items[compared], strict=True)
            recalls = tuple(float(np.isin(best, found).mean()) for best, found in both)
        rows, places = np.nonzero(items >= 0)  # -1: no item is left
        table = {
            "user_id": taken(self._dataset.users["user_id"], users[rows].tolist()),
            "item_id": taken(self._dataset.items["item_id"], items[rows, places].tolist()),
            "rank": pa.array(places + 1, pa.int32()),
            "score": scores[rows, places],
        }
        return pa.table(table, RECOMMENDATIONS), recalls

    def _best(
        self, users: npt.NDArray[np.int64], index: ItemIndex | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return items and scores (N, k) for users (N,), from the index or an exact search.

        Users without interactions, whose vectors are zeros, get what the mean user likes.
        """
        vectors, rows = self._graph.users, torch.from_numpy(users)
        idle = rows[~vectors[rows].any(dim=1)]
        if len(idle):
            vectors[idle] = self._mean_user
        items = np.full((len(users), self._k), -1)
        scores = np.zeros((len(users), self._k), np.float32)
        groups: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
        groups = [(users, np.empty(0, np.int64))]
        if self._eligibility is not None:
            groups = self._eligibility.groups(users, self._dataset.num_items)
        rank = top_k_items if index is None else index.top_k
        for group, out in groups:
            lost = torch.from_numpy(np.union1d(self._dataset.lost_items, out))
            seen, of = self._seen.with_lost(lost), torch.from_numpy(group)
            ranked = rank(self._graph.users, self._graph.items, seen, of, self._k)
            chunks = [each for _, *each in ranked]
            place = np.searchsorted(users, group)
            items[place], scores[place] = (
                torch.cat(parts).numpy() for parts in zip(*chunks, strict=True)
            )
        return items, scores
