"""Baselines without gradient descent: EASE and truncated SVD by scipy."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from benchmarks.graph_data import BenchmarkData, ScoreRows, Snapshot, Stopwatch, Vectors

Array = npt.NDArray[np.floating[Any]]


def fit_ease(data: BenchmarkData, *, regularization: float) -> Iterator[Snapshot]:
    """Fit EASE (Steck, WWW 2019, arXiv 1905.03375); scores are R B.

    P = (R^T R + l I)^-1, B_ij = -P_ij / P_jj, B_jj = 0. The matrix (I, I) is dense float32, which
    is 1 GB for 16,000 items and 400 GB for 316,000, and time is cubic: it does not scale with the
    catalogue.
    """
    watch = Stopwatch()
    with watch.running():
        interactions = data.interactions()
        gram = np.asfortranarray((interactions.T @ interactions).toarray())
        gram[np.diag_indices_from(gram)] += np.float32(regularization)
        inverse = _inverse(gram)
        weights = np.divide(inverse, -np.diag(inverse).copy(), out=inverse)
        np.fill_diagonal(weights, 0.0)

    def rows(users: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(interactions[users.numpy()] @ weights))

    yield watch.snapshot(0, ScoreRows(rows))


def _inverse(matrix: Array) -> Array:
    """Invert a symmetric positive definite matrix (I, I) in its own memory, by Cholesky."""
    potrf, potri = scipy.linalg.get_lapack_funcs(("potrf", "potri"), (matrix,))
    factor, failed = potrf(matrix, lower=True, overwrite_a=True)
    assert failed == 0, f"not positive definite at row {failed}"
    lower: Array
    lower, failed = potri(factor, lower=True, overwrite_c=True)
    assert failed == 0, f"singular at row {failed}"
    rows = 1024  # the upper triangle is filled in strips, without a second matrix
    for start in range(0, len(lower), rows):
        stop = min(start + rows, len(lower))
        block = np.tril(lower[start:stop, start:stop])
        lower[start:stop, start:stop] = block + np.tril(block, -1).T
        lower[start:stop, stop:] = lower[stop:, start:stop].T
    return lower


def fit_svd(
    data: BenchmarkData, *, embedding_dim: int, seed: int, exponent: float
) -> Iterator[Snapshot]:
    """Fit the truncated SVD of D_u^-a R D_i^-a by scipy's ARPACK, with a = `exponent`.

    The vectors are U S^1/2 and V S^1/2.
    """
    watch = Stopwatch()
    with watch.running():
        interactions = data.interactions()
        user_weights, item_weights = (
            _inverse_power(interactions.sum(axis=axis), exponent) for axis in (1, 0)
        )
        matrix = (
            scipy.sparse.diags_array(user_weights)
            @ interactions
            @ scipy.sparse.diags_array(item_weights)
        )
        rng = np.random.default_rng(seed)
        left, values, right = scipy.sparse.linalg.svds(
            matrix.tocsr().astype(np.float32), k=embedding_dim, rng=rng
        )
        root = np.sqrt(values)
        vectors = Vectors(
            torch.from_numpy(left * root).float(), torch.from_numpy(right.T * root).float()
        )
    yield watch.snapshot(0, vectors)


def _inverse_power(degrees: Array, exponent: float) -> Array:
    weights: Array = np.maximum(np.asarray(degrees, dtype=np.float64).ravel(), 1.0) ** -exponent
    return weights
