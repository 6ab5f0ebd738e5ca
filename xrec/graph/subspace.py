"""Orthonormal bases of tables whose rows are dealt to workers, as subspace iterations need them."""

import torch
from torch import Tensor

from xrec.graph.partition import Partition

_ROWS_PER_SUM = 65_536


def orthonormal(block: Tensor, partition: Partition) -> Tensor:
    """Return an orthonormal basis of the columns of all workers' `block` (n, k) together.

    A column that depends on the others becomes zero. The basis comes from the eigenvectors of the
    (k, k) Gram matrix, computed twice for full precision (SVQB, Stathopoulos & Wu 2002). This is
    similar to Cholesky QR, but works for a matrix of lower rank too.
    """
    for _ in range(2):
        values, vectors = torch.linalg.eigh(inner(block, block, partition))
        keep = values > tolerance(block.shape[1]) * values[-1]
        whiten = vectors * torch.where(
            keep, values.clamp(min=torch.finfo(values.dtype).tiny).rsqrt(), 0
        )
        block = block @ partition.broadcast(whiten).to(block.dtype)
    return block


def inner(left: Tensor, right: Tensor, partition: Partition) -> Tensor:
    """Return left^T right (k, k) float64 over all workers' rows.

    Rows are converted to float64 piece by piece, to save memory.
    """
    total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
    for a, b in zip(left.split(_ROWS_PER_SUM), right.split(_ROWS_PER_SUM), strict=True):
        total.addmm_(a.double().T, b.double())
    return partition.all_reduce(total)


def tolerance(width: int) -> float:
    """Return the least share of the largest squared singular value that is no float32 rounding."""
    return width * (4 * torch.finfo(torch.float32).eps) ** 2
