"""Ways to rank aspects for a user and an item: simple scores from counts, and xrec's own choice.

A method learns from a split and returns a function of users (N,) and items (N,) to scores (N, A).
Weights are chosen by NDCG@10 on the validation reviews.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from benchmarks.aspects_data import Floats, Indices, Reviews, Split
from xrec.aspects import Mentions, fit, item_vectors, ndcg, nearest_items

Score = Callable[[Indices, Indices], Floats]
"""Scores (N, A) of all aspects for users (N,) and items (N,)."""
Method = Callable[[Split, int], Score]
"""Learns from a split; the second argument is the seed of all that is drawn."""

_SMOOTHING = np.float32(5)  # reviews of the whole catalogue added to those of an item or a user
_NUM_NEAREST_USERS, _GRAPH_DIM = 50, 32
_DIM, _NUM_NEAREST_ITEMS = 64, 100  # of ours
_WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)


def item_frequency(split: Split, seed: int) -> Score:
    """The share of the item's training reviews, smoothed by five of the catalogue's."""
    shares = _smoothed(split.item_counts, split.reviews_of_items, split.frequency)
    return lambda users, items: shares[items]


def log_linear(split: Split, seed: int) -> Score:
    """log p(a | i) + v log(p(a | u) / p(a)) + w log(p(a | users near u) / p(a)).

    The neighbours are the nearest users by the cosine of spectral vectors of the graph of training
    reviews. v and w are chosen on validation.
    """
    item = np.log(_smoothed(split.item_counts, split.reviews_of_items, split.frequency))
    own = _lift(split.user_counts, split.reviews_of_users, split.frequency)
    near = _neighbours(split)
    neighbours = _lift(near @ split.user_counts, near @ split.reviews_of_users, split.frequency)
    candidates = [
        _sum_of(item, own * np.float32(v) + neighbours * np.float32(w))
        for v, w in product(_WEIGHTS, _WEIGHTS)
    ]
    held_out = split.validation
    return max(
        candidates,
        key=lambda score: ndcg(score(held_out.users, held_out.items), held_out.mentions).mean(),
    )


def ours(split: Split, seed: int) -> Score:
    """xrec's scorer: neighbours by the graph with aspects, its numbers on validation."""
    train, validation = (_mentions(reviews, split) for reviews in (split.train, split.validation))
    vectors = item_vectors(train, embedding_dim=_DIM, seed=seed)
    found = fit(train, validation, nearest_items(vectors, _NUM_NEAREST_ITEMS), seed=seed)
    return lambda users, items: found.scorer.scores(users, items)


METHODS: dict[str, Method] = {"item": item_frequency, "log-linear": log_linear, "ours": ours}


def _mentions(reviews: Reviews, split: Split) -> Mentions:
    aspects = scipy.sparse.csr_matrix(reviews.mentions.astype(np.float32))
    return Mentions(reviews.users, reviews.items, aspects, split.num_users, split.num_items)


def _smoothed(counts: Floats, num_reviews: Floats, frequency: Floats) -> Floats:
    smoothed: Floats = (counts + _SMOOTHING * frequency) / (num_reviews + _SMOOTHING)
    return smoothed


def _lift(counts: Floats, num_reviews: Floats, frequency: Floats) -> Floats:
    lift: Floats = np.log(_smoothed(counts, num_reviews, frequency) / frequency)
    return lift


def _sum_of(of_items: Floats, of_users: Floats) -> Score:
    return lambda users, items: of_items[items] + of_users[users]


def _neighbours(split: Split) -> Floats:
    """Return the matrix (U, U) with 1 where a user is among another's nearest ones."""
    ones = np.ones(len(split.train), dtype=np.float32)
    graph = scipy.sparse.csr_matrix(
        (ones, (split.train.users, split.train.items)), (split.num_users, split.num_items)
    )
    graph.data[:] = 1
    scales = [
        scipy.sparse.diags(1 / np.sqrt(np.maximum(np.asarray(graph.sum(axis=axis)).ravel(), 1)))
        for axis in (1, 0)
    ]
    dim = min(_GRAPH_DIM, min(graph.shape) - 1)
    left, values, _ = scipy.sparse.linalg.svds(scales[0] @ graph @ scales[1], k=dim, random_state=0)
    vectors = left * values
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    count = min(_NUM_NEAREST_USERS, split.num_users - 1)
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    near = np.zeros(cosines.shape, dtype=np.float32)
    np.put_along_axis(near, nearest, np.float32(1), axis=1)
    return near
