"""Aspects that say different things: which ones the same reviews mention, and what to name next."""

import numpy as np
import scipy.sparse

from xrec.aspects.mentions import Floats, Indices, Sparse


def cosines(aspects: Sparse) -> Sparse:
    """The cosines (A, A) of the columns of `aspects` (P, A), which are 0 or 1; sparse float32."""
    norms = np.sqrt(np.asarray(aspects.sum(axis=0), dtype=np.float32).ravel())
    scale = scipy.sparse.diags(1 / np.maximum(norms, 1))
    return (scale @ (aspects.T @ aspects) @ scale).tocsr().astype(np.float32)


def diverse(
    candidates: Indices, scores: Floats, k: int, diversity: float, similarities: Sparse
) -> tuple[Indices, Floats]:
    """Up to k of the candidates (N, L), the best first, -1 for none, and the scores of them.

    candidates: aspects, the best first, -1 for none. scores: (N, L), -inf there.
    similarities: (A, A). The scores that are returned are those of the candidates.
    """
    rows = np.arange(len(candidates))
    chosen = np.full((len(candidates), min(k, candidates.shape[1])), -1, dtype=np.int64)
    found = np.full(chosen.shape, -np.inf, dtype=np.float32)
    left, nearest = scores.copy(), np.zeros_like(scores)
    for place in range(chosen.shape[1]):
        best = np.argmax(left - diversity * nearest, axis=1)
        chosen[:, place], found[:, place] = candidates[rows, best], left[rows, best]
        left[rows, best] = -np.inf
        same = similarities[
            np.repeat(np.maximum(chosen[:, place], 0), candidates.shape[1]),
            np.maximum(candidates, 0).ravel(),
        ]
        nearest = np.maximum(nearest, np.asarray(same).reshape(candidates.shape))
    return np.where(found > -np.inf, chosen, -1), found
