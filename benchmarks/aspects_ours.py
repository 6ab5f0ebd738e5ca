"""xrec's own choice of aspects."""

import numpy as np
import scipy.sparse

from benchmarks.aspects_baselines import Method, Score
from benchmarks.aspects_data import Reviews, Split
from xrec.aspects import Mentions, fit, item_vectors, nearest_items

_DIM, _NUM_NEIGHBOURS = 64, 100


def scorer(split: Split, seed: int) -> Score:
    """Train xrec's scorer: neighbours by the graph with aspects, its numbers on validation."""
    train, validation = (_mentions(reviews, split) for reviews in (split.train, split.validation))
    vectors = item_vectors(train, embedding_dim=_DIM, seed=seed)
    neighbours = nearest_items(vectors, _NUM_NEIGHBOURS)
    found = fit(train, validation, neighbours, seed=seed)
    return lambda users, items: found.scorer.scores(users, items)


OURS: dict[str, Method] = {"ours": scorer}


def _mentions(reviews: Reviews, split: Split) -> Mentions:
    aspects = scipy.sparse.csr_matrix(reviews.mentions.astype(np.float32))
    return Mentions(reviews.users, reviews.items, aspects, split.num_users, split.num_items)
