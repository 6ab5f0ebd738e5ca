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
"""Maximum number of items from the user's history in an evidence."""
MAX_SCANNED = 2**20
"""Maximum number of items that one search reads, in 0.1 s of one core."""
_SLICE = 2**16  # items that a search reads at a time


class Catalogue:
    """A dataset and its graph.

    fingerprints: those of the language model, adapter and graph whose explanations are served.
    """

    def __init__(self, dataset: Dataset, graph: GraphEmbeddings, fingerprints: dict[str, str]):
        graph.check_finite()
        self.dataset, self._graph, self.fingerprints = dataset, graph, fingerprints
        self._seen = seen_items(dataset)
        aspects = dataset.aspects
        self.aspect_names = AspectNames(() if aspects is None else aspects["aspect"].to_pylist())

    def item_texts(self, item: int) -> tuple[str, str]:
        """Return the title and the profile of the item with this index."""
        items = self.dataset.items
        return str(items["title"][item].as_py()), str(items["profile"][item].as_py())

    def recommend(self, user: int, k: int) -> list[RecommendedItem]:
        """Return the k best unseen items of the user with this index, best first.

        They have no explanations. Used by projects that have not published recommendations.
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
        """Return the evidence behind an explanation of the pair; raise UnknownIdError."""
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

    The index of aspect names is built too, which takes two seconds for 20,000 aspects. Otherwise
    the first text to be cut would wait for it.

    Raises ArtifactNotFoundError or ArtifactMismatchError if artifacts are missing or do not belong
    together, DataError if a vector of the graph is not finite.
    """
    dataset, graph = read_dataset_and_graph(config)
    adapter = read_adapter(location_of(config, "adapter"))
    adapter.check_graph(graph.manifest)
    fingerprints = model_inputs(adapter.config, adapter.fingerprint, graph.manifest)
    catalogue = Catalogue(dataset, graph, fingerprints)
    catalogue.aspect_names.build()
    return catalogue
