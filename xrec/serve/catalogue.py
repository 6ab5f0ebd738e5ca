"""The users and items that a frontend knows: ids, texts, vectors and histories."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow.compute as pc
import torch
import torch.nn.functional as F

from xrec.checks import AspectNames
from xrec.data.dataset import Dataset
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.ranking import SeenItems, top_k_items


@dataclass(frozen=True)
class NearItem:
    """An item of a user's history and its similarity to another item.

    `similarity` is the cosine of the two items' vectors, -1 to 1.
    """

    item_id: str
    title: str
    similarity: float


@dataclass(frozen=True)
class Standing:
    """The rank of a pair in the graph.

    `score` is the dot product of the two vectors. `rank` counts from 1 among the `num_ranked` items
    that the user has not seen, and this one.
    """

    score: float
    rank: int
    num_ranked: int


class Catalogue:
    """A dataset and its graph, both with the new users and items of the config if there are any."""

    def __init__(self, dataset: Dataset, graph: GraphEmbeddings):
        graph.check_finite()
        self.dataset, self._graph = dataset, graph
        self._seen = SeenItems(
            torch.from_numpy(dataset.interaction_edges("train")), dataset.num_users
        )

    def build(self) -> None:
        """Read now what finds aspects in texts; otherwise the first text that is cut takes longer.

        That is two seconds for 20,000 aspects, and none for a dataset without aspects.
        """
        self.aspect_names.build()

    @cached_property
    def aspect_names(self) -> AspectNames:
        """Finds the aspects of the dataset in texts."""
        aspects = self.dataset.aspects
        return AspectNames(() if aspects is None else aspects["aspect"].to_pylist())

    def user_profile(self, user: int) -> str:
        """Return the profile of the user with this index."""
        return str(self.dataset.users["profile"][user].as_py())

    def item_texts(self, item: int) -> tuple[str, str]:
        """Return title and profile of the item with this index."""
        return str(self.dataset.items["title"][item].as_py()), str(
            self.dataset.items["profile"][item].as_py()
        )

    def item_id(self, item: int) -> str:
        """Return the id of the item with this index."""
        return str(self.dataset.items["item_id"][item].as_py())

    def recommend(self, user: int, k: int) -> list[tuple[int, float]]:
        """Return the k best unseen items of a user with their scores, best first.

        There are fewer than k if the user has not that many unseen items.
        """
        ((_, items, scores),) = top_k_items(
            self._graph.users,
            self._graph.items,
            self._seen,
            torch.tensor([user]),
            min(k, self.dataset.num_items),
        )
        return [
            (item, score)
            for item, score in zip(items[0].tolist(), scores[0].tolist(), strict=True)
            if item >= 0
        ]

    def nearest_history(self, user: int, item: int, count: int) -> list[NearItem]:
        """Return the `count` items of the user's history that are nearest to `item`.

        `item` itself is left out.
        """
        _, history = self._seen.of(torch.tensor([user]))
        history = history[history != item]
        similarities = F.cosine_similarity(
            self._graph.items[history].float(), self._graph.items[item].float()[None], dim=1
        )
        order = torch.argsort(similarities, descending=True, stable=True)[:count]
        return [
            NearItem(self.item_id(index), self.item_texts(index)[0], float(similarities[place]))
            for place in order.tolist()
            for index in [int(history[place])]
        ]

    def standing(self, user: int, item: int) -> Standing:
        """Return score and rank of a pair."""
        scores = self._graph.items @ self._graph.users[user]
        _, seen = self._seen.of(torch.tensor([user]))
        unseen = torch.ones(len(scores), dtype=torch.bool).index_fill_(0, seen, False)
        unseen[item] = True
        return Standing(
            float(scores[item]), int((scores[unseen] > scores[item]).sum()) + 1, int(unseen.sum())
        )

    def other_users(self, user: int, count: int) -> list[str]:
        """Return the ids of `count` other users, the same ones at each call with this user.

        There are fewer if the dataset has not that many.
        """
        num_users = self.dataset.num_users
        drawn = (
            np.random.default_rng([user, 1]).permutation(num_users)[: count + 1]
            if num_users < 100_000
            else _drawn(user, num_users, count)
        )
        return [
            str(self.dataset.users["user_id"][int(index)].as_py())
            for index in drawn
            if index != user
        ][:count]

    def find_users(self, prefix: str, limit: int) -> list[str]:
        """Return at most `limit` user ids that begin with `prefix`, in order."""
        start = bisect.bisect_left(self._sorted_user_ids, prefix)
        found = self._sorted_user_ids[start : start + limit]
        return [user_id for user_id in found if user_id.startswith(prefix)]

    def find_items(self, text: str, limit: int) -> list[tuple[str, str]]:
        """Return ids and titles of at most `limit` items whose id or title contains `text`.

        Upper and lower case count as equal. The order is the dataset's.
        """
        items = self.dataset.items
        holds = pc.or_(
            pc.match_substring(items["title"], text, ignore_case=True),
            pc.match_substring(items["item_id"], text, ignore_case=True),
        )
        found = items.filter(holds).slice(0, limit)
        return list(zip(found["item_id"].to_pylist(), found["title"].to_pylist(), strict=True))

    @cached_property
    def _sorted_user_ids(self) -> Sequence[str]:
        return sorted(self.dataset.user_indices)


def _drawn(user: int, num_users: int, count: int) -> list[int]:
    """Return about `count` distinct users, without a permutation of all of them."""
    drawn = np.random.default_rng([user, 1]).integers(num_users, size=4 * (count + 1)).tolist()
    return list(dict.fromkeys(drawn))[: count + 1]
