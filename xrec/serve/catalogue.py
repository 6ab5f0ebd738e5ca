"""The users and items that a frontend knows: ids, texts, vectors and histories."""

import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow.compute as pc
import torch
import torch.nn.functional as F

from xrec.adapter.artifact import read_adapter
from xrec.backfill.identity import model_of
from xrec.config import ServeConfig
from xrec.data import Dataset, read_dataset
from xrec.errors import ArtifactMismatchError, DataError
from xrec.graph.artifact import GraphEmbeddings, read_dataset_and_graph
from xrec.graph.fold_in import FoldIn
from xrec.graph.ranking import SeenItems, top_k_items
from xrec.neighbors.artifact import NeighborTable, read_graph_if_any, read_neighbors
from xrec.neighbors.scores import rounded
from xrec.recommend.ranking import Ranker
from xrec.serve.messages import (
    MAX_PAIRS,
    Evidence,
    ItemEntry,
    ItemList,
    NearHistory,
    RecommendedItem,
)
from xrec.storage import location_of

logger = logging.getLogger("xrec")

NUM_NEAREST = 5
"""Maximum number of items from the user's history in an evidence."""
MAX_SCANNED = 2**20
"""Maximum number of items that one search reads, in 0.1 s of one core."""
_SLICE = 2**16  # items that a search reads at a time


class HistoryVectors:
    """Computes the vectors of users who only have a history."""

    def __init__(self, dataset: Dataset, graph: GraphEmbeddings):
        self._dataset, trained = dataset, dataset.interaction_edges("train")
        users = graph.users[: dataset.num_users]
        self._fold_in = FoldIn.of(users, graph.items, torch.from_numpy(trained))
        self._has_vector = np.bincount(trained[1], minlength=dataset.num_items) > 0

    def vector(self, history: Sequence[str]) -> torch.Tensor:
        """Return the vector (D,) of a user with these items.

        Items without training interactions are ignored. Raises UnknownIdError for an unknown item,
        DataError if all are ignored.
        """
        indices = {self._dataset.item_index(item_id) for item_id in history}
        items = sorted(index for index in indices if self._has_vector[index])
        if not items:
            raise DataError(
                f"none of the {len(indices)} items in the history has training interactions; "
                "add an item that does",
                code="no_trained_item",
                key="history",
                saw=len(indices),
            )
        return self._fold_in.vector(torch.tensor(items))


class Catalogue:
    """A dataset and its graph, whose vectors are zeros if the project has none.

    fingerprints: those of what writes the explanations that are served (`model_of`).
    """

    def __init__(
        self,
        dataset: Dataset,
        graph: GraphEmbeddings,
        fingerprints: dict[str, str],
        neighbors: NeighborTable | None = None,
    ):
        graph.check_finite()
        self.dataset, self._graph, self.fingerprints = dataset, graph, fingerprints
        self._neighbors, self._most = neighbors, min(MAX_PAIRS, dataset.num_items)
        self._ranker = Ranker(dataset, graph, self._most, neighbors=neighbors)
        self._seen = self._ranker.seen

    @cached_property
    def histories(self) -> HistoryVectors:
        """Computes the vectors of users who are not in the dataset."""
        return HistoryVectors(self.dataset, self._graph)

    def item_texts(self, item: int) -> tuple[str, str]:
        """Return the title and the profile of the item with this index."""
        items = self.dataset.items
        return str(items["title"][item].as_py()), str(items["profile"][item].as_py())

    def recommend(self, user: int) -> list[RecommendedItem | None]:
        """Return what `xrec recommend` would recommend to the user with this index, best first."""
        rows, _ = self._ranker.rank(np.array([user]))
        columns = (rows[name].to_pylist() for name in ("item_id", "rank", "score"))
        return list(map(self.as_recommended, *columns))

    def recommend_from(self, history: Sequence[str]) -> list[RecommendedItem | None]:
        """Return the best items for someone who chose the items in `history`, best first.

        Raises UnknownIdError for an unknown item, DataError if none of the items has a vector.
        """
        vector = self.histories.vector(history)[None]
        chosen = torch.tensor(sorted({self.dataset.item_index(item_id) for item_id in history}))
        own = SeenItems(torch.stack([torch.zeros_like(chosen), chosen]), self._seen.lost)
        more = None if self._neighbors is None else self._neighbors.scores(own).of
        user = torch.tensor([0])  # the only row of `vector` and `own`
        ((_, items, scores),) = top_k_items(
            vector, self._graph.items, own, user, self._most, more=more
        )
        num_items = int((items[0] >= 0).sum())  # fewer if the catalog has no more
        ids = [self._item_id(item) for item in items[0, :num_items].tolist()]
        values = scores[0, :num_items].numpy()
        shown = values if more is None else rounded(values)
        return list(map(self.as_recommended, ids, range(1, num_items + 1), shown.tolist()))

    def as_recommended(
        self, item_id: str, rank: int, score: float | None
    ) -> RecommendedItem | None:
        """Return a published recommendation with its title; None if the item is gone."""
        if (item := self.dataset.item_ids.find(item_id)) is None:
            return None
        title = self.item_texts(item)[0]
        return RecommendedItem(rank=rank, score=score, item_id=item_id, title=title, answer=None)

    def evidence(self, user: int, item_id: str) -> Evidence:
        """Return the evidence behind an explanation of the pair; raise UnknownIdError."""
        item = self.dataset.item_index(item_id)
        index = torch.tensor([user])
        _, seen = self._seen.of(index)
        self._ranker.fill_idle(index)
        scores = self._graph.items @ self._graph.users[user]
        left_out = torch.cat([seen, self._seen.lost])
        unseen = torch.ones(len(scores), dtype=torch.bool).index_fill_(0, left_out, False)
        unseen[item] = True
        title, profile = self.item_texts(item)
        return Evidence(
            user_id=str(self.dataset.users["user_id"][user].as_py()),
            user_profile=str(self.dataset.users["profile"][user].as_py()),
            item_id=item_id,
            item_title=title,
            item_profile=profile,
            score=float(scores[item]),
            rank=int((scores[unseen] > scores[item]).sum()) + 1,
            num_ranked=int(unseen.sum()),
            nearest_history=self._nearest(seen[seen != item], item),
            aspects_from=self.dataset.aspects_from,
        )

    def find_items(
        self, text: str, limit: int, after: str | None = None, max_scanned: int = MAX_SCANNED
    ) -> ItemList:
        """Return up to `limit` items whose ID or title contains `text`, in the dataset's order.

        Case is ignored. The search starts after the item `after` and reads about `max_scanned`
        items; if there are more, `next` is where to continue. Raises UnknownIdError.
        """
        start = 0 if after is None else self.dataset.item_index(after) + 1
        items = self.dataset.items.select(["item_id", "title"])
        entries: list[dict[str, str]] = []
        num_slice = min(_SLICE, max_scanned)
        for first in range(start, items.num_rows, num_slice):
            rows = items.slice(first, num_slice)
            matches = [
                pc.match_substring(rows[name], text, ignore_case=True) for name in rows.column_names
            ]
            is_match = pc.and_(pc.or_(*matches), pc.not_equal(rows["item_id"], ""))
            entries += rows.filter(is_match).slice(0, limit + 1 - len(entries)).to_pylist()
            last = str(rows["item_id"][-1].as_py())  # "" if the row is empty
            num_scanned = first + rows.num_rows - start
            if len(entries) > limit:
                return _page(entries[:limit], entries[limit - 1]["item_id"])
            if num_scanned >= max_scanned and last and start + num_scanned < items.num_rows:
                return _page(entries, last)
        return _page(entries, None)

    def _nearest(self, history: torch.Tensor, item: int) -> list[NearHistory]:
        """Return the items in a history (H,) that are most similar to an item."""
        vectors = self._graph.items
        similarities = F.cosine_similarity(vectors[history], vectors[item][None], dim=1)
        order = torch.argsort(similarities, descending=True, stable=True)[:NUM_NEAREST]
        return [
            NearHistory(
                item_id=self._item_id(near), title=self.item_texts(near)[0], similarity=similarity
            )
            for near, similarity in zip(
                history[order].tolist(), similarities[order].tolist(), strict=True
            )
        ]

    def _item_id(self, item: int) -> str:
        return str(self.dataset.items["item_id"][item].as_py())


def _page(rows: list[dict[str, str]], following: str | None) -> ItemList:
    return ItemList(items=[ItemEntry(**row) for row in rows], next=following)


def read_catalogue(config: ServeConfig) -> Catalogue:
    """Read the dataset, the graph and the model's fingerprints; the language model is not loaded.

    Only an adapter needs a graph; without one, neighbors rank what is not published, if there are
    any.

    The vectors of histories are fitted too. Otherwise a request would wait for that.

    Raises ArtifactNotFoundError or ArtifactMismatchError if artifacts are missing or do not belong
    together, DataError if a vector of the graph is not finite.
    """
    if config.writer == "adapter":
        dataset, graph = read_dataset_and_graph(config)
        read_adapter(location_of(config, "adapter")).check_graph(graph.manifest)
    else:
        dataset = read_dataset(location_of(config, "dataset"))
        graph = read_graph_if_any(config, dataset)
    try:
        neighbors = read_neighbors(config)
    except ArtifactMismatchError as error:
        logger.warning("unpublished recommendations are ranked without neighbors: %s", error)
        neighbors = None
    catalogue = Catalogue(dataset, graph, model_of(config, download=True), neighbors)
    if graph.manifest.kind == "graph":
        _ = catalogue.histories
    return catalogue
