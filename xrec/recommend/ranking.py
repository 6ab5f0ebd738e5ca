"""Rank items for all users, one part of the users at a time in each process."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from xrec.config import RecommendConfig
from xrec.data import EVIDENCE_KINDS, Dataset, index_keys, read_dataset, taken
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.fold_in import FoldIn
from xrec.graph.index import ItemIndex
from xrec.graph.ranking import seen_items, top_k_items
from xrec.neighbors.artifact import NeighborTable, read_graph_if_any, read_neighbors
from xrec.neighbors.reasons import CATEGORY, Reasons
from xrec.neighbors.scores import histories, rounded
from xrec.progress import counter
from xrec.recommend.artifact import identify, parse_rows
from xrec.recommend.eligible import Eligibility, item_categories, read_eligibility, unnamed_items
from xrec.schemas import RECOMMENDATIONS, SUPPORT
from xrec.storage import (
    Location,
    Manifest,
    fingerprint_of,
    finished,
    location_of,
    open_location,
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


def recommend(
    config: RecommendConfig,
    cluster: Callable[[], AbstractContextManager[None]] = nullcontext,
    *,
    users_per_part: int = USERS_PER_PART,
) -> Manifest:
    """Rank items for all users on Ray, write the artifact, and return its manifest.

    If these recommendations exist, their manifest is returned at once.

    cluster: keeps Ray initialized inside its `with` block; by default Ray already is.

    Raises what `identify`, `read_eligibility` and `map_in_processes` raise, and DataError if a
    vector is not finite or if no item is left to recommend to any user.
    """
    location, (settings, inputs) = location_of(config, "recommendations"), identify(config)
    if (done := finished(location, "recommendations", settings, inputs)) is not None:
        return done
    from xrec.processes import map_in_processes, num_cpus  # Ray, which readers do not need

    dataset = read_dataset(location_of(config, "dataset"))
    read_graph_if_any(config, dataset).check_finite()
    eligibility = read_eligibility(config, dataset)
    unnamed_items(config, dataset)  # raises for a broken table before any work, as this does:
    item_categories(config, dataset)
    first_users = range(0, dataset.num_users, users_per_part)
    make = partial(_writer, config, eligibility, location, users_per_part)
    parts = dict[str, Part]()
    with cluster(), counter("users ranked", dataset.num_users) as show:
        num_processes = max(1, num_cpus())
        for index, part in map_in_processes(make, first_users, num_processes=num_processes):
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
    dataset = read_dataset(location_of(config, "dataset"))
    graph, neighbors = read_graph_if_any(config, dataset), read_neighbors(config)
    ranker = Ranker(dataset, graph, config.k, eligibility, neighbors)
    if neighbors is not None:
        of_items = unnamed_items(config, dataset), item_categories(config, dataset)
        ranker.reasons = reasons_of(dataset, graph, neighbors, *of_items)
    if config.index == "hnsw":
        name = fingerprint_of([dataset.manifest.fingerprint, graph.manifest.fingerprint])
        ranker.index = ItemIndex(name, graph.items, dataset.lost_items)
        drawn = np.random.default_rng(0).permutation(dataset.num_users)
        ranker.compared = drawn[:_MOST_COMPARED]

    def write(first: int) -> Part:
        users = np.arange(first, min(first + num_users, dataset.num_users))
        ids = taken(dataset.users["user_id"], users.tolist())
        users = users[np.array(ids) != ""]  # an empty id is not a user
        name = _name(first // num_users)
        earlier = _earlier(config, name) if ranker.reasons else None
        rows, recalls = ranker.rank(users, earlier)
        location_of_part = location / name
        digest = write_table(location_of_part, rows, RECOMMENDATIONS)
        num_without = len(users) - len(rows["user_id"].unique())
        return Part(digest, rows.num_rows, len(users), num_without, recalls)

    return write


def _earlier(config: RecommendConfig, name: str) -> pa.Table | None:
    """Return a part of the earlier recommendations, or None if there is none."""
    if config.keeps is None:
        return None
    file = open_location(config.keeps, config.storage) / name
    return parse_rows(file.read_bytes()) if file.is_file() else None


def reasons_of(
    dataset: Dataset,
    graph: GraphEmbeddings,
    neighbors: NeighborTable,
    excluded: npt.NDArray[np.bool_],
    categories: npt.NDArray[np.object_],
) -> Reasons:
    """Return what finds reasons for pairs of a dataset; excluded and categories as it has them."""
    history = histories(dataset)
    fold_in = FoldIn.of(graph.users, graph.items, history.edges) if neighbors.has_vectors else None
    return Reasons(neighbors, history, fold_in, excluded, categories)


class Ranker:
    """Ranks items for users; processes on a node share the files of dataset and graph.

    compared: (M,) int64, the users for whom the items found by the index are compared with those of
    an exact search.
    """

    index: ItemIndex | None = None
    reasons: Reasons | None = None
    compared: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def __init__(
        self,
        dataset: Dataset,
        graph: GraphEmbeddings,
        k: int,
        eligibility: Eligibility | None = None,
        neighbors: NeighborTable | None = None,
    ):
        self._dataset, self._graph, self._k, self._eligibility = dataset, graph, k, eligibility
        self.seen = seen_items(dataset)
        self._more = None if neighbors is None else neighbors.scores(histories(dataset)).of

    @cached_property
    def _mean_user(self) -> torch.Tensor:
        return self._graph.users.mean(dim=0)

    def fill_idle(self, users: torch.Tensor) -> None:
        """Give those of users (N,) without interactions, whose vectors are zeros, the mean one."""
        idle = users[~self._graph.users[users].any(dim=1)]
        if len(idle):
            self._graph.users[idle] = self._mean_user

    def rank(
        self, users: npt.NDArray[np.int64], earlier: pa.Table | None = None
    ) -> tuple[pa.Table, tuple[float, ...]]:
        """Return the best items (schema RECOMMENDATIONS) for users (N,) int64, ascending.

        A user with fewer than k eligible unseen items has fewer rows, or none. earlier: rows whose
        supporting items stay while they qualify. Also returns, for each of these users who is
        compared, the share of the exact best k that the index found.
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
            "score": scores[rows, places] if self._more is None else rounded(scores[rows, places]),
        }
        pairs = users[rows], items[rows, places]
        return pa.table({**table, **self._evidence(*pairs, earlier)}, RECOMMENDATIONS), recalls

    def _evidence(
        self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], earlier: pa.Table | None
    ) -> dict[str, pa.Array]:
        """Return the columns SUPPORT for pairs (N,)."""
        if self.reasons is None:
            return {field.name: pa.nulls(len(users), field.type) for field in SUPPORT}
        before = None if earlier is None else self._supporting(users, items, earlier)
        found = self.reasons.of(users, items, before)
        ids = taken(self._dataset.items["item_id"], found.items.clip(0).tolist())
        categories = self.reasons.categories[items]
        none = found.items < 0, found.at_least == 0
        return {
            "evidence_kind": pa.array([EVIDENCE_KINDS[kind] for kind in found.kinds.tolist()]),
            "evidence_item_id": pa.array(ids, pa.string(), mask=none[0]),
            "evidence_category": pa.array(categories, pa.string(), mask=found.kinds != CATEGORY),
            "evidence_at_least": pa.array(found.at_least, pa.int32(), mask=none[1]),
        }

    def _supporting(
        self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64], earlier: pa.Table
    ) -> npt.NDArray[np.int64]:
        """Return the items that supported these pairs in earlier rows, -1 for none."""
        dataset, rows = self._dataset, earlier.filter(pc.is_valid(earlier["evidence_item_id"]))
        of = [
            dataset.user_ids.rows(rows["user_id"]),
            *(dataset.item_ids.rows(rows[name]) for name in ("item_id", "evidence_item_id")),
        ]
        known = (of[0] >= 0) & (of[1] >= 0)
        keys, support = index_keys(of[0], of[1])[known], of[2][known]
        order, wanted = keys.argsort(), index_keys(users, items)
        if not len(keys):
            return np.full(len(users), -1)
        at = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
        return np.where(keys[at] == wanted, support[at], -1)

    def _best(
        self, users: npt.NDArray[np.int64], index: ItemIndex | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return items and scores (N, k) for users (N,), from the index or an exact search."""
        vectors = self._graph
        self.fill_idle(torch.from_numpy(users))
        items = np.full((len(users), self._k), -1)
        scores = np.zeros((len(users), self._k), np.float32)
        groups: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
        groups = [(users, np.empty(0, np.int64))]
        if self._eligibility is not None:
            groups = self._eligibility.groups(users, self._dataset.num_items)
        rank = top_k_items if index is None else index.top_k
        for group, out in groups:
            lost = torch.from_numpy(np.union1d(self._dataset.lost_items, out))
            seen, of = self.seen.with_lost(lost), torch.from_numpy(group)
            ranked = rank(vectors.users, vectors.items, seen, of, self._k, more=self._more)
            chunks = [each for _, *each in ranked]
            place = np.searchsorted(users, group)
            items[place], scores[place] = (
                torch.cat(parts).numpy() for parts in zip(*chunks, strict=True)
            )
        return items, scores
