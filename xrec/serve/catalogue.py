"""The users and items that a frontend knows: ids, texts, vectors and histories."""

import pyarrow.compute as pc
import torch
import torch.nn.functional as F

from xrec.adapter.artifact import read_adapter
from xrec.adapter.config import model_inputs
from xrec.checks import AspectNames
from xrec.config import ServeConfig
from xrec.data import Dataset
from xrec.graph.artifact import GraphEmbeddings, read_dataset_and_graph
from xrec.graph.ranking import seen_items, top_k_items
from xrec.serve.messages import Evidence, ItemEntry, ItemList, NearHistory, RecommendedItem
from xrec.storage import location_of

NUM_NEAREST = 5
"""Items of a user's history that an evidence names."""
MAX_SCANNED = 2**20
"""Items that one search reads at most: 0.1 s of one core."""
_SLICE = 2**16  # items that a search reads before it looks whether it has enough


class Catalogue:
    """A dataset and its graph.

    `fingerprints` are those of language model, adapter and graph, by name: only explanations of
    this model are served.
    """

    def __init__(self, dataset: Dataset, graph: GraphEmbeddings, fingerprints: dict[str, str]):
        graph.check_finite()
        self.dataset, self._graph, self.fingerprints = dataset, graph, fingerprints
        self._seen = seen_items(dataset)
        aspects = dataset.aspects
        self.aspect_names = AspectNames(() if aspects is None else aspects["aspect"].to_pylist())

    def item_texts(self, item: int) -> tuple[str, str]:
        """Return title and profile of the item with this index."""
        items = self.dataset.items
        return str(items["title"][item].as_py()), str(items["profile"][item].as_py())

    def recommend(self, user: int, k: int) -> list[RecommendedItem]:
        """Return the k best unseen items of the user with this index, without explanations.

        The best comes first. There are fewer than k if the user has not that many unseen items.
        This is for projects that have not published recommendations.
        """
        users, k = torch.tensor([user]), min(k, self.dataset.num_items)
        ((_, items, scores),) = top_k_items(
            self._graph.users, self._graph.items, self._seen, users, k
        )
        ranked = zip(items[0].tolist(), scores[0].tolist(), strict=True)
        return [
            RecommendedItem(
                rank=rank,
                score=score,
                item_id=self._item_id(item),
                title=self.item_texts(item)[0],
                answer=None,
            )
            for rank, (item, score) in enumerate(ranked, start=1)
            if item >= 0
        ]

    def as_recommended(
        self, item_id: str, rank: int, score: float | None
    ) -> RecommendedItem | None:
        """Return a published recommendation with its title; None if the item is gone."""
        if (item := self.dataset.item_ids.find(item_id)) is None:
            return None
        title = self.item_texts(item)[0]
        return RecommendedItem(rank=rank, score=score, item_id=item_id, title=title, answer=None)

    def evidence(self, user: int, item_id: str) -> Evidence:
        """Return what an explanation of the pair rests on; raises UnknownIdError."""
        item = self.dataset.item_index(item_id)
        _, seen = self._seen.of(torch.tensor([user]))
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
        """Return items whose ID or title contains `text`, in the dataset's order.

        Upper and lower case count as equal. after: an item; only those behind it are returned.
        There are at most `limit` items, and fewer or none if more than about `max_scanned` would
        have to be read; `next` then goes on behind them. Raises UnknownIdError.
        """
        start = 0 if after is None else self.dataset.item_index(after) + 1
        items = self.dataset.items.select(["item_id", "title"])
        found: list[dict[str, str]] = []
        num_slice = min(_SLICE, max_scanned)
        for first in range(start, items.num_rows, num_slice):
            rows = items.slice(first, num_slice)
            matches = [
                pc.match_substring(rows[name], text, ignore_case=True) for name in rows.column_names
            ]
            holds = pc.and_(pc.or_(*matches), pc.not_equal(rows["item_id"], ""))
            found += rows.filter(holds).slice(0, limit + 1 - len(found)).to_pylist()
            last = str(rows["item_id"][-1].as_py())  # of a hole it is ""
            num_scanned = first + rows.num_rows - start
            if len(found) > limit:
                return _page(found[:limit], found[limit - 1]["item_id"])
            if num_scanned >= max_scanned and last and start + num_scanned < items.num_rows:
                return _page(found, last)
        return _page(found, None)

    def _nearest(self, history: torch.Tensor, item: int) -> list[NearHistory]:
        """Return the items of a history (H,) that are nearest to an item."""
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
    """Read dataset and graph and the fingerprints of the model, without loading a language model.

    What finds aspects in texts is built here too (two seconds for 20,000 aspects): the first text
    that is cut would otherwise wait for it.

    Raises ArtifactNotFoundError or ArtifactMismatchError if the artifacts are missing or do not fit
    each other, DataError if a vector of the graph is not finite.
    """
    dataset, graph = read_dataset_and_graph(config)
    adapter = read_adapter(location_of(config, "adapter"))
    adapter.check_graph(graph.manifest)
    fingerprints = model_inputs(adapter.config, adapter.fingerprint, graph.manifest)
    catalogue = Catalogue(dataset, graph, fingerprints)
    catalogue.aspect_names.build()
    return catalogue
