"""The trained vectors and the spectral start they came from, made into vectors of one dimension.

And those of a later graph, brought as near as may be to those that it started from.

Training fits what the start leaves out, and forgets some of what the start knew. The two make
different errors, and the sum of their scores ranks better than either alone (docs/log).

The sum U_1 I_1^T + w c U_2 I_2^T has rank 2D. Among the matrices of rank D its truncated SVD is
nearest to it (Eckart & Young 1936). No matrix of scores is made: with the QR factors
[U_1, w c U_2] = Q_u R_u and [I_1, I_2] = Q_i R_i, the SVD of R_u R_i^T (2D, 2D) gives the result.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from xrec.graph.partition import Partition

Vectors = tuple[Tensor, Tensor]
"""users (U, D) and items (I, D), or a worker's rows; the dot product of two rows is their score."""


def blend(trained: Vectors, start: Vectors, weight: float, partition: Partition) -> Vectors:
    """Return users (U, D) and items (I, D) float32 whose scores are nearest to the weighted sum.

    All are this worker's rows, and every worker must call this function.

    The sum is the scores of `trained` plus `weight` times those of `start`. Before that, `start` is
    scaled by c, so that its scores have the Frobenius norm of the scores of `trained`. Both sides
    get the square root of each singular value; the entry of largest magnitude of each item column
    is positive. Takes time O((U + I) D^2).
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
    # There are fewer singular values than dimensions where there are fewer users or items.
    found = min(rank, len(values))
    shared = values[:found].sqrt()
    items = items @ (y.T[:, :found] * shared)
    signs = partition.signs(items)
    users, items = users @ (x[:, :found] * shared) * signs, items * signs
    return pad(users, (0, rank - found)), pad(items, (0, rank - found))


def score_norm(vectors: Vectors, partition: Partition) -> float:
    """Return the Frobenius norm of the scores U I^T of all workers' rows.

    It comes from the (D, D) Gram matrices: ||U I^T||^2 = <U^T U, I^T I>.
    """
    users, items = (partition.inner(rows, rows) for rows in vectors)
    return float((users * items).sum().clamp(min=0).sqrt())


def _qr(rows: Tensor, partition: Partition) -> tuple[Tensor, Tensor]:
    """Return Q (m, r), this worker's rows, and R (r, k) of all workers' `rows` (m, k).

    Several workers' R have a QR factorization of their own (TSQR, arXiv 0808.2664).
    """
    q, r = torch.linalg.qr(rows)
    if partition.blocks.num_blocks == 1:
        return q, r
    width = rows.shape[1]
    every = partition.all_gather(pad(r, (0, 0, 0, width - len(r))))
    of_blocks, r_of_all = map(partition.broadcast, torch.linalg.qr(every))
    return q @ of_blocks[partition.rank * width :][: len(r)], r_of_all


def turned_onto(vectors: Tensor, onto: Tensor) -> Tensor:
    """`vectors` (N, D) by the rotation or reflection that brings them nearest to `onto` (N, D).

    The orthogonal Procrustes problem (Schonemann 1966), in float64.
    """
    left, _, right = torch.linalg.svd(Partition.whole(len(vectors)).inner(vectors, onto))
    return torch.cat([(rows.double() @ (left @ right)).float() for rows in vectors.split(65_536)])


def settled(vectors: Tensor, earlier: Tensor, keep_within: float) -> Tensor:
    """`vectors` (N, D), turned onto `earlier` (N, D); rows that moved little are the earlier ones.

    Rows of `earlier` are zero where there was no vector. A row moved little if its distance is at
    most `keep_within` times the length of the earlier one, which then stays bit by bit.
    """
    turned = turned_onto(vectors, earlier)
    distances = torch.linalg.vector_norm(turned - earlier, dim=1, keepdim=True)
    lengths = torch.linalg.vector_norm(earlier, dim=1, keepdim=True)
    return torch.where(distances <= keep_within * lengths, earlier, turned)
