"""score(u, i, a): how likely the user u is to praise the aspect a of the item i.

    score = ln p(a | i) + v ln(1 + c(u, a) / (l p(a)))
    p(a | i) = (c(i, a) + m q(a | i)) / (n(i) + m)

The first term is how often the item's n(i) training reviews mention a, with m reviews of similar
items as a prior: q is the share of the neighbours' reviews, each neighbour weighted by the power b
of its cosine. The second is the user's own habit: in how many of their reviews, c(u, a), beside the
share p(a) of all reviews.

Where profiles take the place of reviews (`ProfileMentions`), a profile is the only review of its
item, n(i) = 1, and c(u, a) counts the items that the user interacted with.

The constants and weights are trained by `xrec.aspects.fit`. A pair's own review, if it is one of
the training reviews, can be left out of all counts.
"""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse

from xrec.aspects.mentions import Floats, Indices, Mentions, Sparse, rows_or_zero


@dataclass(frozen=True)
class Weights:
    """The trained numbers: in the formula above m, b, v and l."""

    prior_reviews: float = 16.0
    similarity_power: float = 4.0
    own_weight: float = 0.3
    own_reviews: float = 10.0


@dataclass(frozen=True, eq=False)
class AspectScorer:
    """Scores aspects; `neighbours` (I, I) are the cosines of each item's nearest ones, sparse."""

    mentions: Mentions
    neighbours: Sparse
    weights: Weights = field(default_factory=Weights)

    def prior(self, items: Indices) -> tuple[Sparse, Floats]:
        """m (q(a | i) - floor p(a)) of `items`, (N, A) sparse, and the floor, (N,).

        The floor is the weight of half a review of an average neighbour; m without neighbours.
        """
        powers, most = self.neighbours[items], self.weights.prior_reviews
        powers.data **= np.float32(self.weights.similarity_power)
        totals = np.asarray(powers @ self.mentions.reviews_of_items, dtype=np.float32)
        num = np.maximum(np.diff(powers.indptr), 1)
        scale = 0.5 * np.asarray(powers.sum(axis=1), dtype=np.float32).ravel() / num
        share = most / (totals + np.maximum(scale, np.float32(1e-12)))
        floor = np.where(totals > 0, share * scale, most).astype(np.float32)
        shares = scipy.sparse.diags(share.astype(np.float32)) @ (powers @ self.mentions.of_items)
        return shares, floor

    def user_part(self, users: Indices) -> Sparse:
        """The second term of `users` (N,), (N, A) sparse: 0 where nothing is known."""
        weights, mentions = self.weights, self.mentions
        part = lift(mentions.of_users[users], mentions.frequency, weights.own_reviews)
        return (part * np.float32(weights.own_weight)).tocsr()

    def item_part(self, items: Indices) -> Floats:
        """ln p(a | i) of all aspects, (N, A), without its denominator, which ranks nothing."""
        shares, floor = self.prior(items)
        counts = (self.mentions.of_items[items] + shares).toarray()
        part: Floats = np.log(counts + floor[:, None] * self.mentions.frequency)
        return part

    def scores(self, users: Indices, items: Indices, *, leave_out_own: bool = False) -> Floats:
        """Return the scores of all aspects for N pairs, (N, A) float32, up to a constant a pair.

        With `leave_out_own`, a pair that is a training pair is scored as if its review had not been
        written; only its item's neighbours, and how often an aspect is mentioned at large, stay as
        they are.
        """
        mentions, weights = self.mentions, self.weights
        shares, floor = self.prior(items)
        of_item = (mentions.of_items[items] + shares).toarray()
        habit = mentions.of_users[users].toarray()
        if leave_out_own:
            counted = rows_or_zero(mentions.aspects, mentions.counted_rows(users, items))
            of_item = np.maximum(of_item - counted, 0)
            habit -= rows_or_zero(mentions.aspects, mentions.row_of(users, items))
        scores: Floats = np.log(of_item + floor[:, None] * mentions.frequency)
        scores += weights.own_weight * np.log1p(habit / (weights.own_reviews * mentions.frequency))
        return scores


def lift(counts: Sparse, frequency: Floats, reviews: float) -> Sparse:
    """Return ln(1 + counts / (reviews frequency)), sparse as `counts` is."""
    lifted = counts.tocsr().copy()
    lifted.data = np.log1p(lifted.data / (np.float32(reviews) * frequency[lifted.indices]))
    return lifted
