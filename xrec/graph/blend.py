"""Two models of the same users and items made one, of the same dimension: the trained vectors, and the spectral start they came from.

Training fits what the start leaves out, and forgets some of what it knew; the two err differently, and their scores added
rank better than either. U_1 I_1^T + w c U_2 I_2^T has rank 2D; of all matrices of rank D the truncated SVD is nearest to it
(Eckart & Young 1936). Neither matrix of scores is ever made: with U = [U_1, w c U_2] = Q_u R_u and I = [I_1, I_2] = Q_i R_i,
the SVD of R_u R_i^T (2D, 2D) is all it takes.
"""

import torch
from torch import Tensor

Vectors = tuple[Tensor, Tensor]
"""users (U, D), items (I, D); their dot product is the score."""


def blend(trained: Vectors, start: Vectors, weight: float) -> Vectors:
    """users (U, D), items (I, D) float32 whose scores are nearest to those of `trained` plus `weight` times those of `start`.

    `start` is scaled first, by c, to scores of the same Frobenius norm as `trained`. Each singular value is shared evenly by both
    sides; the entry of largest magnitude of each item column is positive. Time O((U + I) D^2). Raises ValueError for a negative weight.
    """
    if weight < 0:
        raise ValueError(f"weight must be at least 0, saw {weight}")
    norm_of_start = score_norm(start)
    if weight == 0 or norm_of_start == 0:
        return trained
    scale = weight * score_norm(trained) / norm_of_start
    users, items = (
        torch.cat(pair, dim=1)
        for pair in zip((trained[0], trained[1]), (start[0] * scale, start[1]), strict=True)
    )
    (users, left), (items, right) = torch.linalg.qr(users), torch.linalg.qr(items)
    x, values, y = torch.linalg.svd(left @ right.T)
    rank = trained[0].shape[1]
    shared = values[:rank].sqrt()
    items = items @ (y.T[:, :rank] * shared)
    signs = torch.where(items.gather(0, items.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0)
    return users @ (x[:, :rank] * shared) * signs, items * signs


def score_norm(vectors: Vectors) -> float:
    """Frobenius norm of the scores U I^T, from the (D, D) Gram matrices: ||U I^T||^2 = <U^T U, I^T I>."""
    users, items = (table.T.double() @ table.double() for table in vectors)
    return float((users * items).sum().clamp(min=0).sqrt())
