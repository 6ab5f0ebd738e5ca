"""The users and items that a frontend knows: ids, texts, vectors and histories."""

import pyarrow.compute as pc
import torch
import torch.nn.functional as F

from xrec.adapter.artifact import read_adapter
from xrec.adapter.config import model_inputs
from xrec.checks import AspectNames
from xrec.config.serve import ServeConfig
from xrec.data.dataset import Dataset
from xrec.graph.artifact import GraphEmbeddings, read_dataset_and_graph
from xrec.graph.ranking import seen_items, top_k_items
from xrec.serve.messages import Evidence, ItemEntry, NearHistory, RecommendedItem
from xrec.storage import location_of

NUM_NEAREST = 5
"""Items of a user's history that an evidence names."""


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

    def find_items(self, text: str, limit: int, after: str | None = None) -> list[ItemEntry]:
        """Return at most `limit` items whose ID or title contains `text`, in the dataset's order.

        Upper and lower case count as equal. after: an item; only those behind it are returned.
        Raises UnknownIdError.
        """
        start = 0 if after is None else self.dataset.item_index(after) + 1
        items = self.dataset.items.slice(start)
        holds = pc.or_(
            pc.match_substring(items["title"], text, ignore_case=True),
            pc.match_substring(items["item_id"], text, ignore_case=True),
        )
        holds = pc.and_(holds, pc.not_equal(items["item_id"], ""))
        found = items.filter(holds).slice(0, limit).select(["item_id", "title"])
        return [ItemEntry(**row) for row in found.to_pylist()]

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
