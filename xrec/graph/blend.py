"""Blend trained vectors with their spectral initialization, and align a later graph's vectors.

Training fits what the initialization misses, and forgets some of what it knew. The two make
different errors, and the sum of their scores ranks better than either alone (docs/log).

The sum U_1 I_1^T + w c U_2 I_2^T has rank 2D, and its best approximation of rank D is its truncated
SVD (Eckart & Young 1936). No score matrix is needed: with the QR factors [U_1, w c U_2] = Q_u R_u
and [I_1, I_2] = Q_i R_i, the SVD of R_u R_i^T (2D, 2D) gives the result.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from xrec.graph.partition import Partition

Vectors = tuple[Tensor, Tensor]
"""users (U, D) and items (I, D), or a worker's rows of them; scores are dot products."""


def blend(trained: Vectors, start: Vectors, weight: float, partition: Partition) -> Vectors:
    """Return users (U, D) and items (I, D) float32 whose scores best approximate the weighted sum.

    All are this worker's rows; collective. The sum is the scores of `trained` plus `weight` times
    those of `start`, scaled by c to the same Frobenius norm. Both sides get the square root of each
    singular value, and the entry of largest magnitude in each item column is positive. Takes time
    O((U + I) D^2).
    """
    norm_of_start = score_norm(start, partition)
    if weight == 0 or norm_of_start == 0:
        return trained
    scale = weight * score_norm(trained, partition) / norm_of_start
    users, items = (
        torch.cat(pair, dim=1)
        for pair in zip((trained[0], trained[1]), (start[0] * scale, start[1]), strict=True)
    )
    (users, left), (items, right) = _qr(users, partition), _qr(items, partition)
    x, values, y = map(partition.broadcast, torch.linalg.svd(left @ right.T))
    rank = trained[0].shape[1]
    # With few users or items, there are fewer singular values than dimensions.
    num_values = min(rank, len(values))
    shared = values[:num_values].sqrt()
    items = items @ (y.T[:, :num_values] * shared)
    signs = partition.signs(items)
    users, items = users @ (x[:, :num_values] * shared) * signs, items * signs
    return pad(users, (0, rank - num_values)), pad(items, (0, rank - num_values))


def score_norm(vectors: Vectors, partition: Partition) -> float:
    """Return the Frobenius norm of all workers' scores, by ||U I^T||^2 = <U^T U, I^T I>."""
    users, items = (partition.inner(rows, rows) for rows in vectors)
    return float((users * items).sum().clamp(min=0).sqrt())


def _qr(rows: Tensor, partition: Partition) -> tuple[Tensor, Tensor]:
    """Return this worker's rows of Q (m, r), and R (r, k), for all workers' `rows` (m, k).

    The workers' R factors are factorized again (TSQR, arXiv 0808.2664).
    """
    q, r = torch.linalg.qr(rows)
    if partition.blocks.num_blocks == 1:
        return q, r
    width = rows.shape[1]
    every = partition.all_gather(pad(r, (0, 0, 0, width - len(r))))
    of_blocks, r_of_all = map(partition.broadcast, torch.linalg.qr(every))
    return q @ of_blocks[partition.rank * width :][: len(r)], r_of_all


def turned_onto(vectors: Tensor, onto: Tensor) -> Tensor:
    """Return `vectors` (N, D) rotated or reflected to be nearest to `onto` (N, D).

    This is the orthogonal Procrustes problem (Schonemann 1966), solved in float64.
    """
    left, _, right = torch.linalg.svd(Partition.whole(len(vectors)).inner(vectors, onto))
    return torch.cat([(rows.double() @ (left @ right)).float() for rows in vectors.split(65_536)])


def settled(vectors: Tensor, earlier: Tensor, keep_within: float) -> Tensor:
    """Return `vectors` (N, D) rotated onto `earlier` (N, D), with rows that moved little restored.

    A row moved little if its distance is at most `keep_within` times the earlier vector's length;
    it is then bit for bit the earlier one. Rows of `earlier` without a vector are zero.
    """
    turned = turned_onto(vectors, earlier)
    distances = torch.linalg.vector_norm(turned - earlier, dim=1, keepdim=True)
    lengths = torch.linalg.vector_norm(earlier, dim=1, keepdim=True)
    return torch.where(distances <= keep_within * lengths, earlier, turned)
