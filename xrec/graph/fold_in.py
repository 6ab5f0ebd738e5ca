"""Fold-in: the vector of a user who was not trained on, computed from the trained tables.

For a new user u with the items N_u, where ê is e / ||e||:

    m   = mean of ê_i over i in N_u,   z_u = m / ||m||
    W   = argmin  sum_t ||z_t W - ê_t||^2 + l tr(Z^T Z) / D ||W||^2   over the trained users t
    e_u = exp(a + b ln |N_u|) z_u W / ||z_u W||

z_u is LightGCN's propagation (arXiv 2002.02126, eq. 3), but with equal weights. W is a ridge
regression from the mean of a user's neighbors to the direction that training gave the user. a and b
are the least-squares fit of ln ||e_t|| on ln |N_t|. So the adapter gets vectors like the trained
ones. The rule is our own; docs/graph.md has its results.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xrec.errors import DataError
from xrec.graph.adjacency import check_edges
from xrec.graph.artifact import check_finite
from xrec.graph.ranking import SeenItems

_RIDGE = 1e-3  # l; from 1e-4 to 1e-2 recall changes by at most 1 %
# Each process fits W, whose D x D entries do not gain from more vectors.
_MOST_FITTED = 200_000


@dataclass(frozen=True)
class FoldIn:
    """The fitted rule.

    `items` (I, D) are the trained vectors, `weight` (D, D) is W, and `line` is b and a. `ends` are
    the least and largest fitted ln |N|; values outside are clamped.
    """

    items: Tensor
    weight: Tensor
    line: tuple[float, float]
    ends: tuple[float, float]

    @classmethod
    def of(
        cls, users: Tensor, items: Tensor, train_edges: Tensor, most_fitted: int = _MOST_FITTED
    ) -> "FoldIn":
        """Fit the rule to users (U, D), items (I, D), and their `train_edges` (2, E) int64.

        Raises DataError if a table is not finite, there are no edges, or an index is out of range.
        """
        check_finite("user", users)
        check_finite("item", items)
        check_edges(train_edges, users.shape[0], items.shape[0])
        lengths = torch.linalg.vector_norm(users, dim=1)
        degrees = torch.bincount(train_edges[0], minlength=len(users))
        fitted = _spread((lengths > 0) & (degrees > 0), most_fitted)
        of_fitted = torch.stack(SeenItems(train_edges).of(fitted))
        means = _mean_directions(items, of_fitted, len(fitted))
        weight = _ridge(means, F.normalize(users[fitted].float(), dim=1))
        x, y = degrees[fitted].double().log(), lengths[fitted].double().log()
        # The default driver, gelsy, gives an arbitrary line if all degrees are equal.
        powers = torch.stack([x, torch.ones_like(x)], 1)
        line = torch.linalg.lstsq(powers, y[:, None], driver="gelsd").solution[:, 0]
        ends = float(x.min()), float(x.max())
        return cls(items, weight, (float(line[0]), float(line[1])), ends)

    def vector(self, items: Tensor) -> Tensor:
        """Return a new user's vector (D,) float32, given distinct item indices (M,), M >= 1."""
        return self.parts(torch.zeros_like(items), items, 1).sum(dim=0)

    def parts(self, rows: Tensor, items: Tensor, num_users: int) -> Tensor:
        """Return what each item adds to its user's vector, (M, D) float32; e_u is their sum.

        rows, items: (M,) int64, users from 0 to `num_users` - 1 and their distinct items.
        """
        mapped = F.normalize(self.items[items].float(), dim=1) @ self.weight
        counts = torch.bincount(rows, minlength=num_users).double().clamp(min=1)
        slope, intercept = self.line
        lengths = (intercept + slope * counts.log().clamp(*self.ends)).exp().float()
        sums = mapped.new_zeros(num_users, mapped.shape[1]).index_add_(0, rows, mapped)
        norms = torch.linalg.vector_norm(sums, dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        parts: Tensor = mapped * (lengths / norms)[rows, None]
        return parts


def _mean_directions(table: Tensor, edges: Tensor, num_rows: int) -> Tensor:
    """Return unit vectors (num_rows, D) along the mean direction of each row's neighbors, or 0."""
    lengths = torch.linalg.vector_norm(table.float(), dim=1)
    # Edge weights of 1 / ||e_i|| save a normalized copy of a table that may be large.
    weights = torch.where(lengths > 0, 1 / lengths, 0)[edges[1]]
    mean = (
        torch.sparse_coo_tensor(edges, weights, (num_rows, len(table)), check_invariants=False)
        @ table.float()
    )
    return F.normalize(mean, dim=1)


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """Return argmin_W ||x W - y||^2 + l tr(x^T x) / D ||W||^2, (D, D) float32; x, y (N, D)."""
    gram = x.T.double() @ x.double()
    dim = len(gram)
    penalty = _RIDGE * gram.trace() / dim
    weight: Tensor = torch.linalg.solve(
        gram + penalty * torch.eye(dim, dtype=gram.dtype), x.T.double() @ y.double()
    )
    return weight.float()


def _spread(usable: Tensor, most: int) -> Tensor:
    """Return the indices (N,) of at most `most` evenly spread rows of `usable` (M,) bool.

    Raises DataError if no row is usable.
    """
    indices = usable.nonzero()[:, 0]
    if len(indices) == 0:
        raise DataError(
            "all trained vectors with interactions are zero, so fold-in cannot be fitted; retrain "
            "the graph",
            code="nothing_to_fit",
        )
    step = -(-len(indices) // most)
    spread: Tensor = indices[::step].contiguous()
    return spread
