"""Simple scores of an aspect for a user and an item, from counts of training reviews.

A method learns from a split and returns a function of users (N,) and items (N,) to scores (N, A).
Weights are chosen by NDCG@10 on the validation reviews.
"""

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from benchmarks.aspects_data import Floats, Indices, Reviews, Split
from xrec.aspects import ndcg

Score = Callable[[Indices, Indices], Floats]
"""Scores (N, A) of all aspects for users (N,) and items (N,)."""
Method = Callable[[Split, int], Score]
"""Learns from a split; the second argument is the seed of all that is drawn."""

_SMOOTHING = np.float32(5)  # reviews of the whole catalogue added to those of an item or a user
_NUM_NEIGHBOURS = 50
_GRAPH_DIM = 32


def random_scores(split: Split, seed: int) -> Score:
    """Return scores that are drawn at random."""
    rng = np.random.default_rng(seed)
    return lambda users, items: rng.random((len(users), len(split.aspects)), dtype=np.float32)


def global_frequency(split: Split, seed: int) -> Score:
    """Return the share of all training reviews that mention the aspect."""
    return lambda users, items: np.broadcast_to(
        split.frequency, (len(users), len(split.aspects))
    ).copy()


def item_frequency(split: Split, seed: int) -> Score:
    """Return the share of the item's training reviews, smoothed by five of the catalogue's."""
    shares = _smoothed(split.item_counts, split.reviews_of_items, split.frequency)
    return lambda users, items: shares[items]


def user_frequency(split: Split, seed: int) -> Score:
    """Return the share of the user's training reviews, smoothed by five of the catalogue's."""
    shares = _smoothed(split.user_counts, split.reviews_of_users, split.frequency)
    return lambda users, items: shares[users]


def log_linear(split: Split, seed: int) -> Score:
    """Return log p(a | i) + v log(p(a | u) / p(a)) + w log(p(a | users near u) / p(a)).

    The neighbours are the nearest users by the cosine of spectral vectors of the graph of training
    reviews. v and w are chosen on validation.
    """
    item = np.log(_smoothed(split.item_counts, split.reviews_of_items, split.frequency))
    own = _lift(split.user_counts, split.reviews_of_users, split.frequency)
    near = _neighbours(split)
    neighbours = _lift(near @ split.user_counts, near @ split.reviews_of_users, split.frequency)
    weights = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
    return _best_on_validation(
        split,
        (
            _sum_of(item, own * np.float32(v) + neighbours * np.float32(w))
            for v, w in product(weights, weights)
        ),
    )


def neighbours_only(split: Split, seed: int) -> Score:
    """Return `log_linear` without the user's own words."""
    item = np.log(_smoothed(split.item_counts, split.reviews_of_items, split.frequency))
    near = _neighbours(split)
    neighbours = _lift(near @ split.user_counts, near @ split.reviews_of_users, split.frequency)
    weights = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
    return _best_on_validation(split, (_sum_of(item, neighbours * np.float32(w)) for w in weights))


def matrix_factorization(split: Split, seed: int) -> Score:
    """Return <x_i, y_a> + w <x_u, y_a> from implicit ALS of users and items by aspects.

    Rows are users and items, columns are aspects (Hu, Koren, Volinsky 2008). The dimension, the
    weight of a mention, and w are chosen on validation.
    """
    counts = np.concatenate([split.user_counts, split.item_counts])
    candidates = []
    for dim, alpha in product((16, 32, 64), (1.0, 4.0)):
        rows, aspects = _als(counts, dim, alpha, seed)
        users, items = rows[: split.num_users] @ aspects.T, rows[split.num_users :] @ aspects.T
        candidates += [_sum_of(items, users * np.float32(w)) for w in (0.0, 0.1, 0.2, 0.4)]
    return _best_on_validation(split, candidates)


BASELINES: dict[str, Method] = {
    "random": random_scores,
    "global": global_frequency,
    "item": item_frequency,
    "user": user_frequency,
    "log-linear": log_linear,
    "log-linear, neighbours only": neighbours_only,
    "matrix factorization": matrix_factorization,
}


def _smoothed(counts: Floats, num_reviews: Floats, frequency: Floats) -> Floats:
    smoothed: Floats = (counts + _SMOOTHING * frequency) / (num_reviews + _SMOOTHING)
    return smoothed


def _lift(counts: Floats, num_reviews: Floats, frequency: Floats) -> Floats:
    lift: Floats = np.log(_smoothed(counts, num_reviews, frequency) / frequency)
    return lift


def _sum_of(of_items: Floats, of_users: Floats) -> Score:
    return lambda users, items: of_items[items] + of_users[users]


def _best_on_validation(split: Split, candidates: Iterable[Score]) -> Score:
    reviews: Reviews = split.validation
    return max(
        candidates,
        key=lambda score: ndcg(score(reviews.users, reviews.items), reviews.mentions).mean(),
    )


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
    count = min(_NUM_NEIGHBOURS, split.num_users - 1)
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    near = np.zeros(cosines.shape, dtype=np.float32)
    np.put_along_axis(near, nearest, np.float32(1), axis=1)
    return near


def _als(counts: Floats, dim: int, alpha: float, seed: int) -> tuple[Floats, Floats]:
    """Return rows (N, dim) and columns (A, dim) of implicit ALS of `counts` (N, A)."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(0, 0.1, (counts.shape[1], dim)).astype(np.float32)
    for _ in range(8):
        rows = _als_half(counts, columns, alpha)
        columns = _als_half(counts.T, rows, alpha)
    return rows, columns


def _als_half(counts: Floats, others: Floats, alpha: float, regularization: float = 10) -> Floats:
    """Return (X^T C X + l I)^-1 X^T C p for each row of `counts`; C = 1 + alpha c, p = [c > 0]."""
    gram = others.T @ others + np.float32(regularization) * np.eye(others.shape[1], dtype="f4")
    solved = np.zeros((len(counts), others.shape[1]), dtype=np.float32)
    for row, values in enumerate(counts):
        held = np.flatnonzero(values)
        vectors, weights = others[held], np.float32(alpha) * values[held, None]
        solved[row] = np.linalg.solve(
            gram + vectors.T @ (weights * vectors), ((1 + weights) * vectors).sum(axis=0)
        )
    return solved
