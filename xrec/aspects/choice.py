"""The best aspects of many pairs, with their evidence: in how many reviews each one is.

Only an item's menu is chosen from: the aspects that its training reviews mention. So a pair costs
as much as its item's menu is long, however many aspects there are.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from xrec.aspects.artifact import NEIGHBOURS, WEIGHTS, read_aspects_manifest
from xrec.aspects.mentions import (
    Floats,
    Indices,
    Praise,
    Sparse,
    count_arrays,
    dataset_mentions,
    dataset_praise,
    mapped_counts,
    rows_or_zero,
    sparse_of,
)
from xrec.aspects.scorer import AspectScorer, Weights
from xrec.data.dataset import Dataset
from xrec.data.evidence import AspectEvidence
from xrec.graph.ranking import stable_top_k
from xrec.storage import Arrays, Location, mapped_arrays, read_content

_RULES = 1  # version of what is counted, in the name of the files of counts
_PAIRS_PER_BLOCK = 4096
_LEAST_SHARE = 0.05  # of an item's reviews: 2 of 55 are no reason
Counts = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Choices:
    """The k best aspects of N pairs, the best first.

    aspects: (N, k) int64, -1 where the menu has no more.
    item_reviews, user_reviews: (N, k), in how many reviews of the item, and of the user, it is.
    num_item_reviews, num_user_reviews: (N,), of how many.
    """

    aspects: Indices
    item_reviews: Counts
    user_reviews: Counts
    num_item_reviews: Counts
    num_user_reviews: Counts

    @property
    def with_own(self) -> "Choices":
        """The counts as if the pair's own review, which was left out, mentioned each aspect."""
        return replace(
            self,
            item_reviews=np.maximum(self.item_reviews, 1),
            num_item_reviews=np.maximum(self.num_item_reviews, 1),
        )

    def evidence(
        self, names: Sequence[str], opinion: Callable[[int, int], str] = lambda pair, aspect: ""
    ) -> list[tuple[AspectEvidence, ...]]:
        """Return the aspects of each pair, the best first; `names` are those of all aspects.

        `opinion` gives the item's words on an aspect, by the pair's place and the aspect's index.
        """
        columns = (self.aspects, self.item_reviews, self.user_reviews)
        totals = (self.num_item_reviews, self.num_user_reviews)
        rows = zip(*(column.tolist() for column in (*columns, *totals)), strict=True)
        return [
            tuple(
                AspectEvidence(
                    names[aspect], item, num_item, user, num_user, opinion=opinion(pair, aspect)
                )
                for aspect, item, user in zip(*found, strict=True)
                if aspect >= 0
            )
            for pair, (*found, num_item, num_user) in enumerate(rows)
        ]


class AspectChooser:
    """Chooses from menus: an item's aspects that enough of its reviews mention.

    At least `min_item_reviews`, and a twentieth of them. With `praise`, only those that more of its
    reviews praise than blame.
    """

    def __init__(
        self, scorer: AspectScorer, min_item_reviews: int = 1, praise: Praise | None = None
    ) -> None:
        assert min_item_reviews >= 1
        self.scorer = scorer
        self._min_item_reviews = min_item_reviews
        self._praise = praise

    def choose(
        self, users: Indices, items: Indices, k: int, *, leave_out_own: bool = False
    ) -> Choices:
        """Return the k best aspects of the pairs users (N,), items (N,).

        User -1 is one of whom nothing is known. With `leave_out_own`, for which all users must be
        known, the review of a training pair counts neither for the choice nor as evidence.
        """
        assert k >= 1
        assert users.min(initial=0) >= (0 if leave_out_own else -1)
        assert items.min(initial=0) >= 0
        choose = self._best_without_own if leave_out_own else self._best
        aspects = np.full((len(users), k), -1, dtype=np.int64)
        # Pairs of items with as many aspects are padded together.
        starts = self.scorer.mentions.of_items.indptr
        order = np.argsort(starts[items + 1] - starts[items], kind="stable")
        for first in range(0, len(order), _PAIRS_PER_BLOCK):
            block = order[first : first + _PAIRS_PER_BLOCK]
            best = choose(users[block], items[block], k)
            aspects[block, : best.shape[1]] = best
        return self.counted(users, items, aspects, leave_out_own=leave_out_own)

    def _best(self, users: Indices, items: Indices, k: int) -> Indices:
        distinct_items, place = np.unique(items, return_inverse=True)
        menus, item_part = self._menus(distinct_items)
        starts, lengths = menus.indptr[place], np.diff(menus.indptr)[place]
        width = int(lengths.max(initial=0))
        if not width:
            return np.empty((len(users), 0), dtype=np.int64)
        there = np.arange(width) < lengths[:, None]
        places = np.where(there, starts[:, None] + np.arange(width), 0)
        aspects = menus.indices[places]  # (N, width)
        distinct, row = np.unique(users, return_inverse=True)
        of_users = self.scorer.user_part(distinct).toarray()
        of_users[distinct < 0] = 0
        scores = item_part[places] + of_users[row[:, None], aspects]
        return _top(np.where(there, scores, -np.inf), aspects, k)

    def _menus(self, items: Indices) -> tuple[Sparse, Floats]:
        """Return the menus of `items` (N, A), sparse, and ln p(a | i) of each entry, (nnz,)."""
        scorer, mentions = self.scorer, self.scorer.mentions
        menus = mentions.of_items[items]
        least = _least(mentions.reviews_of_items[items], self._min_item_reviews)
        menus.data[menus.data < np.repeat(least, np.diff(menus.indptr))] = 0
        if self._praise is not None:
            menus = menus.multiply(self._praise.margins[items] > 0).tocsr()
        menus.eliminate_zeros()
        menus.sort_indices()
        rows = np.repeat(np.arange(len(items)), np.diff(menus.indptr))
        shares, floor = scorer.prior(items)
        prior = (shares + menus).multiply(menus > 0).tocsr()
        prior.sort_indices()
        floors = floor[rows] * mentions.frequency[menus.indices]
        part: Floats = np.log(prior.data + floors).astype(np.float32)
        return menus, part

    def _best_without_own(self, users: Indices, items: Indices, k: int) -> Indices:
        mentions = self.scorer.mentions
        scores = self.scorer.scores(users, items, leave_out_own=True)
        own = mentions.counted_rows(users, items)
        counts = mentions.of_items[items].toarray() - rows_or_zero(mentions.aspects, own)
        num_reviews = mentions.reviews_of_items[items] - (own >= 0)
        on_menu = counts >= _least(num_reviews, self._min_item_reviews)[:, None]
        if self._praise is not None:
            on_menu &= self._praise.without(items, own)
        every = np.broadcast_to(np.arange(mentions.num_aspects), scores.shape)
        return _top(np.where(on_menu, scores, -np.inf), every, k)

    def counted(
        self, users: Indices, items: Indices, aspects: Indices, *, leave_out_own: bool = False
    ) -> Choices:
        """Return the `aspects` (N, k), -1 for none, of the pairs with their evidence, as `choose`.

        They need not be on the items' menus.
        """
        mentions = self.scorer.mentions
        none = np.full(len(users), -1, dtype=np.int64)
        own = mentions.row_of(users, items) if leave_out_own else none
        of_item = mentions.counted_rows(users, items) if leave_out_own else none

        def in_reviews(matrix: Sparse, rows: Indices) -> Counts:
            """Return the entries (N, k) at rows (N,) of the aspects; 0 for -1 in either."""
            there = (aspects >= 0) & (rows >= 0)[:, None]
            places = (
                np.repeat(np.maximum(rows, 0), aspects.shape[1]),
                np.maximum(aspects, 0).ravel(),
            )
            found = np.asarray(matrix[places], dtype=np.float32).reshape(aspects.shape)
            return np.where(there, found, 0).astype(np.int32)

        num_of_users = np.where(users >= 0, mentions.reviews_of_users[users], 0).astype(np.int32)
        return Choices(
            aspects,
            in_reviews(mentions.of_items, items) - in_reviews(mentions.aspects, of_item),
            in_reviews(mentions.of_users, users) - in_reviews(mentions.aspects, own),
            mentions.reviews_of_items[items].astype(np.int32) - (of_item >= 0),
            num_of_users - (own >= 0),
        )


def _least(num_reviews: Floats, min_item_reviews: int) -> Floats:
    """How many of each item's reviews must mention an aspect of its menu, (N,)."""
    least: Floats = np.maximum(np.float32(min_item_reviews), np.float32(_LEAST_SHARE) * num_reviews)
    return least


def _top(scores: Floats, aspects: Indices, k: int) -> Indices:
    """Return the aspects of the k largest scores of each row, -1 where a score is -inf.

    Of equal scores the first counts, however wide the rows are.
    """
    best, places = stable_top_k(torch.from_numpy(scores), min(k, scores.shape[1]))
    chosen = np.take_along_axis(aspects, places.numpy(), axis=1).astype(np.int64)
    return np.where(best.numpy() > -np.inf, chosen, -1)


def read_chooser(location: Location, dataset: Dataset) -> AspectChooser:
    """Return the chooser with the trained score; the counts come from `dataset`, as in training.

    Counts and neighbours are mapped files of this node. The dataset may extend that of the
    training: an item that the training did not know has no neighbours.

    Raises ArtifactNotFoundError if there is no finished artifact, ArtifactMismatchError if it is of
    another dataset or a file is not what the manifest says.
    """
    manifest = read_aspects_manifest(location, dataset.manifest)
    remedy = "run `xrec train-aspects` again"
    weights = json.loads(read_content(location, manifest, WEIGHTS, remedy=remedy))
    num_items = dataset.num_items

    def neighbours() -> Arrays:
        content = read_content(location, manifest, NEIGHBOURS, remedy=remedy)
        parts = safetensors.numpy.load(content)
        starts = np.pad(parts["starts"], (0, num_items + 1 - len(parts["starts"])), mode="edge")
        return {"data": parts["cosines"], "indices": parts["items"], "indptr": starts}

    def counts() -> Arrays:
        return count_arrays(dataset_mentions(dataset, "train"), dataset_praise(dataset))

    near = mapped_arrays(f"{manifest.files[NEIGHBOURS]}-{num_items}.neighbours", neighbours)
    counted = mapped_arrays(f"{dataset.manifest.fingerprint}.counts-{_RULES}", counts)
    mentions, praise = mapped_counts(counted, dataset)
    scorer = AspectScorer(mentions, sparse_of(near, num_items), Weights(**weights))
    return AspectChooser(scorer, manifest.config["min_item_reviews"], praise)
