"""Choose the best aspects of an item for a user, and count the reviews that mention them.

    score(u, i, a) = ln (c(i, a) + m p(a)) + v ln (1 + c(u, a) / (l p(a)))

c(i, a) and c(u, a) are the numbers of reviews of the item and by the user that mention the aspect,
and p(a) is the share of all reviews that do. Up to a constant, the first term is ln p(a | i), the
item's share smoothed with m reviews of the catalog. The second term measures how far the user's
share, smoothed with l reviews, exceeds the share in all reviews. The constants were set on Yelp,
Google and instruments together; nothing is trained.

Only aspects on the item's menu are chosen: those that at least a twentieth of its reviews mention,
and that more reviews praise than blame. Those that the user complains of, because more of their
reviews blame than praise them, are not chosen for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xrec.aspects.counts import Indices, Ints, ReviewCounts
from xrec.config import PromptConfig, placeholder_names
from xrec.data import ASPECTS_FROM, AspectEvidence, Dataset
from xrec.errors import ConfigError
from xrec.storage import Manifest

_ITEM_PRIOR = 5.0  # m, in reviews
_USER_PRIOR, _USER_WEIGHT = 10.0, 0.15  # l, in reviews, and v
_LEAST_SHARE = 0.05  # of an item's reviews: 2 of 55 are too few

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Choices:
    """k aspects for each of N pairs, with their counts.

    aspects: (N, k) int64, best first if they were chosen, filled up with -1.
    item_reviews, user_reviews: (N, k), the reviews of the item, and by the user, that mention each.
    num_item_reviews, num_user_reviews: (N,), all reviews of the item, and by the user.
    """

    aspects: Indices
    item_reviews: Ints
    user_reviews: Ints
    num_item_reviews: Ints
    num_user_reviews: Ints

    @property
    def with_own(self) -> "Choices":
        """The same choices with item counts of at least 1, for the pair's own left-out review."""
        return replace(
            self,
            item_reviews=np.maximum(self.item_reviews, 1),
            num_item_reviews=np.maximum(self.num_item_reviews, 1),
        )

    def evidence(
        self, names: Sequence[str], opinion: Callable[[int, int], str] = lambda pair, aspect: ""
    ) -> list[tuple[AspectEvidence, ...]]:
        """Return the evidence for each pair's aspects; `names` are the names of all aspects.

        `opinion` returns the reviewers' words on an aspect of a pair, given the index of each.
        """
        counts = (self.aspects, self.item_reviews, self.user_reviews)
        totals = (self.num_item_reviews, self.num_user_reviews)
        rows = zip(*(column.tolist() for column in (*counts, *totals)), strict=True)
        return [
            tuple(
                AspectEvidence(
                    names[aspect], item, num_item, user, num_user, opinion=opinion(pair, aspect)
                )
                for aspect, item, user in zip(*counted, strict=True)
                if aspect >= 0
            )
            for pair, (*counted, num_item, num_user) in enumerate(rows)
        ]


class AspectChooser:
    """Scores and chooses aspects by a dataset's reviews; raises the errors of `ReviewCounts`.

    pairs_per_block: how many pairs are scored at once, which limits the memory.
    """

    def __init__(self, dataset: Dataset, *, pairs_per_block: int = 4096) -> None:
        self._counts, self._pairs_per_block = ReviewCounts(dataset), pairs_per_block

    def choose(
        self, users: Indices, items: Indices, k: int, *, leave_out_own: bool = False
    ) -> Choices:
        """Return the k best aspects for each pair of users (N,) and items (N,).

        User -1 is someone about whom nothing is known. With `leave_out_own`, the review of a
        training pair counts neither for the choice nor as evidence.
        """
        assert k >= 1
        assert users.min(initial=0) >= -1
        assert items.min(initial=0) >= 0
        own = self._own(users, items, leave_out_own)
        aspects = np.full((len(users), k), -1)
        for first in range(0, len(users), self._pairs_per_block):
            block = slice(first, first + self._pairs_per_block)
            self._fill(aspects[block], users[block], items[block], own[block])
        return self._with_counts(users, items, aspects, own)

    def counted(
        self, users: Indices, items: Indices, aspects: Indices, *, leave_out_own: bool = False
    ) -> Choices:
        """Return the given `aspects` (N, k), -1 for none, with their counts for the pairs."""
        own = self._own(users, items, leave_out_own)
        return self._with_counts(users, items, aspects, own)

    def scores(self, user: int, item: int, aspects: Indices) -> Scores:
        """Return the scores (n,) of aspects (n,) for a user and an item."""
        users, items, none = (np.full(len(aspects), index) for index in (user, item, -1))
        counts = self._counts.of_pairs(users, items, aspects, none)
        return self._score(counts.item_reviews, counts.user_reviews, aspects)

    def _score(self, item_reviews: Ints, user_reviews: Ints, aspects: Indices) -> Scores:
        frequency = self._counts.frequency[aspects]
        score: Scores = np.log(item_reviews + _ITEM_PRIOR * frequency)
        score += _USER_WEIGHT * np.log1p(user_reviews / (_USER_PRIOR * frequency))
        return score

    def _own(self, users: Indices, items: Indices, leave_out_own: bool) -> Indices:
        return (
            self._counts.training_rows(users, items) if leave_out_own else np.full(len(users), -1)
        )

    def _fill(self, best: Indices, users: Indices, items: Indices, own: Indices) -> None:
        """Write the best aspects of pairs (N,) to `best` (N, k); the more frequent wins a tie."""
        rows, aspects = self._counts.mentioned(items)
        counts = self._counts.of_pairs(users[rows], items[rows], aspects, own[rows])
        num_reviews, _ = self._counts.totals(users, items, own)
        least = np.maximum(1, _LEAST_SHARE * num_reviews)[rows]
        scores = self._score(counts.item_reviews, counts.user_reviews, aspects)
        is_praised = (counts.item_margins > 0) & (counts.user_margins >= 0)
        menu = np.flatnonzero((counts.item_reviews >= least) & is_praised)
        order = menu[np.lexsort((-scores[menu], rows[menu]))]
        rows, aspects = rows[order], aspects[order]
        ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
        is_best = ranks < best.shape[1]
        best[rows[is_best], ranks[is_best]] = aspects[is_best]

    def _with_counts(
        self, users: Indices, items: Indices, aspects: Indices, own: Indices
    ) -> Choices:
        shape, k = aspects.shape, aspects.shape[1]
        row_users, row_items, row_own = (np.repeat(part, k) for part in (users, items, own))
        counts = self._counts.of_pairs(row_users, row_items, aspects.ravel(), row_own)
        return Choices(
            aspects,
            counts.item_reviews.reshape(shape),
            counts.user_reviews.reshape(shape),
            *self._counts.totals(users, items, own),
        )


def chooser_for(prompt: PromptConfig, dataset: Dataset) -> AspectChooser | None:
    """Return the chooser of the aspects for `prompt`, or None if the prompt uses no aspects.

    Raises the errors of `check_prompt`, and DataError if the dataset has no aspects.
    """
    check_prompt(prompt, dataset.manifest)
    return AspectChooser(dataset) if prompt.aspects else None


def check_prompt(prompt: PromptConfig, dataset: Manifest) -> None:
    """Raise ConfigError if the prompt counts item reviews but the aspects come from profiles."""
    counts = [name for name in placeholder_names(prompt.aspect) if name.endswith("item_reviews")]
    if prompt.aspects and counts and dataset.metrics.get(ASPECTS_FROM) == "profiles":
        raise ConfigError(
            f"prompt.aspect = {prompt.aspect!r} counts the item's reviews, but the dataset's "
            "aspects come from profiles; expected a template without counts, such as '{aspect}'",
            code="no_reviews_to_count",
            key="prompt.aspect",
            saw=prompt.aspect,
        )
