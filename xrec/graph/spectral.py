"""The spectral initialization of the graph: a randomized truncated SVD of P = D_u^-a R D_i^-a.

R is the binary interaction matrix, D_u and D_i are the degrees of users and items. With aspects,
the adjacency has more edges than P and its transpose, so its largest eigenvalues replace the
singular values; without aspects they are equal, and the eigenvectors are [U; V] / sqrt(2).

The algorithms are 4.4 and 5.1 of Halko, Martinsson, Tropp 2011 (arXiv 0909.4061): a random basis is
multiplied by P and P^T in turn and orthonormalized each time; then P between the two bases is a
small matrix with an exact SVD. P is the users' rows of the adjacency and P^T the items' rows, so
the row blocks of propagation are used, and no larger matrix is needed.
"""

import logging

import torch
from torch import Tensor
from torch.nn.functional import pad

from xrec.graph.partition import Partition

logger = logging.getLogger("xrec")

# Standard deviation of the embeddings, as for random ones; the learning rate is tuned for it.
_START_STD = 0.1
_FILL_STD = 0.01
_NUM_ITERATIONS, _OVERSAMPLING = 4, 16
_POWER = 1.5  # p in the scores U S^p V^T


def spectral_embeddings(
    adjacency: Tensor,
    num_users: int,
    embedding_dim: int,
    *,
    num_aspects: int = 0,
    seed: int = 0,
    partition: Partition | None = None,
    num_iterations: int = _NUM_ITERATIONS,
) -> Tensor:
    """Return this worker's rows (n, D) float32 of the layer-0 embeddings [U S^(p/2); V S^(p/2)].

    They are scaled to a standard deviation of 0.1. `adjacency` (n, n + H) comes from
    `normalized_adjacency` with the exponent a. Rows of nodes without edges and columns beyond the
    rank are drawn from N(0, 0.01^2) instead, so that training can use them; the number of such
    columns is logged. The result is the same for any number of workers, up to rounding. Collective.
    """
    partition = partition or Partition.whole(adjacency.shape[0])
    decompose = truncated_eigenvectors if num_aspects else truncated_svd
    vectors, singular_values = decompose(
        adjacency,
        num_users,
        embedding_dim,
        seed=seed,
        partition=partition,
        num_iterations=num_iterations,
    )
    rank = int((singular_values > 0).sum())
    if rank < embedding_dim:
        logger.warning(
            "the graph has only %d positive singular values, so the other %d of %d dimensions are "
            "initialized at random",
            rank,
            embedding_dim - rank,
            embedding_dim,
        )
    weighted = (
        vectors * singular_values.pow(_POWER / 2).nan_to_num(posinf=0) * (singular_values > 0)
    )
    weighted *= _START_STD / _std(weighted, partition.blocks.num_nodes * rank, partition)
    fill = partition.normal_rows(embedding_dim, seed + 1).to(weighted.device) * _FILL_STD
    return torch.where(weighted == 0, fill, weighted)


def truncated_svd(
    adjacency: Tensor,
    num_users: int,
    rank: int,
    *,
    seed: int,
    partition: Partition,
    num_iterations: int = _NUM_ITERATIONS,
) -> tuple[Tensor, Tensor]:
    """Return this worker's rows of [U; V] (n, rank) and S (rank,), float32, of P ~ U S V^T.

    S is descending; values and columns beyond the rank of P are zero. The basis has `_OVERSAMPLING`
    more vectors than `rank` and is multiplied by P^T P `num_iterations` times. The entry of largest
    magnitude in each column of V is positive.
    """
    sides = _Sides(adjacency, num_users, partition)
    width = min(rank + _OVERSAMPLING, num_users, partition.blocks.num_nodes - num_users)
    items = _orthonormal(
        partition.normal_rows(width, seed)[sides.num_own_users :].to(adjacency.device), partition
    )
    for _ in range(num_iterations):
        users = _orthonormal(sides.times_items(items), partition)
        items = _orthonormal(sides.times_users(users), partition)
    users = _orthonormal(sides.times_items(items), partition)
    image = sides.times_users(users)
    items = _orthonormal(image, partition)
    # Rayleigh-Ritz: with the SVD of the small B = Q_u^T P Q_i = X S Y^T, the singular vectors of P
    # are Q_u X and Q_i Y.
    left, values, right = torch.linalg.svd(partition.inner(image, items))
    left, values, right = (
        partition.broadcast(part)[..., :rank] for part in (left, values, right.T.contiguous())
    )
    values = values * (values > _tolerance(width) ** 0.5 * values[0])
    vectors = torch.cat([users @ left.to(users.dtype), items @ right.to(items.dtype)])
    return _finished(vectors, values, rank, num_users, partition)


def truncated_eigenvectors(
    adjacency: Tensor,
    num_users: int,
    rank: int,
    *,
    seed: int,
    partition: Partition,
    num_iterations: int = _NUM_ITERATIONS,
) -> tuple[Tensor, Tensor]:
    """Return this worker's rows of Q (n, rank) and L (rank,), float32, of A ~ Q L Q^T.

    L has the largest positive eigenvalues, descending; values and columns beyond their number are
    zero. The basis is multiplied by A twice per iteration. A graph has about as many negative
    eigenvalues of the same size, and A^2 does not distinguish l from -l, so a basis vector q may be
    a v(l) + b v(-l). Then A q = l (a v(l) - b v(-l)), and the two span both. The entry of largest
    magnitude in each column, over items and aspects, is positive.
    """
    width = min(rank + _OVERSAMPLING, partition.blocks.num_nodes)
    basis = _orthonormal(partition.normal_rows(width, seed).to(adjacency.device), partition)
    for _ in range(2 * num_iterations):
        basis = _orthonormal(partition.product(adjacency, basis), partition)
    image = partition.product(adjacency, basis)
    basis = _orthonormal(torch.cat([basis, image], dim=1), partition)
    # Rayleigh-Ritz: with Q^T A Q = X L X^T the eigenvectors of A in the basis Q are Q X.
    small = partition.inner(basis, partition.product(adjacency, basis))
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    values, vectors = (partition.broadcast(part.flip(-1))[..., :rank] for part in (values, vectors))
    values = values.where(values > _tolerance(2 * width) ** 0.5 * values[0], 0)
    return _finished(basis @ vectors.to(basis.dtype), values, rank, num_users, partition)


def _finished(
    vectors: Tensor, values: Tensor, rank: int, num_users: int, partition: Partition
) -> tuple[Tensor, Tensor]:
    """Return vectors with fixed signs, and values, both padded with zero columns to `rank`."""
    vectors = vectors * (values > 0)
    vectors *= partition.signs(vectors[partition.num_own(num_users) :])
    missing = (0, rank - len(values))
    return pad(vectors, missing), pad(values, missing).float()


class _Sides:
    """P and P^T: this worker's user rows and item rows of the adjacency; users come first."""

    def __init__(self, adjacency: Tensor, num_users: int, partition: Partition) -> None:
        self._partition = partition
        self.num_own_users = partition.num_own(num_users)
        self._users = _row_slice(adjacency, 0, self.num_own_users)
        self._items = _row_slice(adjacency, self.num_own_users, adjacency.shape[0])

    def times_items(self, items: Tensor) -> Tensor:
        """Return this worker's user rows of P X, given its item rows of X."""
        users = items.new_zeros(self.num_own_users, items.shape[1])
        return self._partition.product(self._users, torch.cat([users, items]))

    def times_users(self, users: Tensor) -> Tensor:
        """Return this worker's item rows of P^T X, given its user rows of X."""
        items = users.new_zeros(self._items.shape[0], users.shape[1])
        return self._partition.product(self._items, torch.cat([users, items]))


def _row_slice(matrix: Tensor, first: int, end: int) -> Tensor:
    starts = matrix.crow_indices()[first : end + 1]
    low, high = int(starts[0]), int(starts[-1])
    return torch.sparse_csr_tensor(
        starts - starts[0],
        matrix.col_indices()[low:high],
        matrix.values()[low:high],
        (end - first, matrix.shape[1]),
    )


def _std(block: Tensor, count: int, partition: Partition) -> Tensor:
    """Return the standard deviation of all workers' entries, (), in the dtype of `block`.

    `count` is the number of entries that are not zero by construction.
    """
    total, squares = partition.all_reduce(
        torch.stack([block.sum(dtype=torch.float64), block.double().square().sum()])
    )
    variance: Tensor = squares / count - (total / count).square()
    return variance.sqrt().to(block.dtype)


def _orthonormal(block: Tensor, partition: Partition) -> Tensor:
    """Return an orthonormal basis of the columns of all workers' `block` (n, k).

    Dependent columns become zero. The basis comes from the eigenvectors of the (k, k) Gram matrix,
    computed twice for full precision (SVQB, Stathopoulos & Wu 2002). This is similar to Cholesky
    QR, but also works for a lower rank.
    """
    for _ in range(2):
        values, vectors = torch.linalg.eigh(partition.inner(block, block))
        keep = values > _tolerance(block.shape[1]) * values[-1]
        whiten = vectors * torch.where(
            keep, values.clamp(min=torch.finfo(values.dtype).tiny).rsqrt(), 0
        )
        block = block @ partition.broadcast(whiten).to(block.dtype)
    return block


def _tolerance(width: int) -> float:
    """Return the share of the largest squared singular value below which float32 is noise."""
    return width * (4 * torch.finfo(torch.float32).eps) ** 2
