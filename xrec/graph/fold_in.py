"""Fold-in: vectors of users and items that came after training, in closed form from the trained tables.

A new user u with the items N_u; ê is e / ||e||:

    m   = mean of ê_i over i in N_u,  z_u = m / ||m||    LightGCN's step from the neighbours, all of them alike
    W   = argmin  sum_t ||z_t W - ê_t||^2 + l tr(Z^T Z) / D ||W||^2      over trained users t, each counting once
    e_u = exp(a + b ln |N_u|) z_u W / ||z_u W||          a, b: least squares of ln ||e_t|| on ln |N_t|

An item's vector comes from its users in the same way. W turns the mean of a user's neighbours into what training would
have made of it, so that both ranking and adapter meet vectors like those they know. A rule of our own; the step is that of
arXiv 2002.02126, eq. 3. Users held out on Yelp reach 0.93 of the Recall@20 that they get when they are trained; with
neighbours weighed by d^-1/2 as there 0.87; by a ridge regression for each history (implicit ALS: Hu, Koren, Volinsky 2008,
eq. 4), at D^3 a user, 0.76 to 0.95 as its two weights go. New items with many users are ranked too high: a tenth of Yelp's items, held out
and folded in, got 0.207 where training gives 0.149, at the cost of the others. On other data: `benchmarks/fold_in.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import coalesce

from xrec.errors import DataError
from xrec.graph.adjacency import check_edges

_RIDGE = 1e-3  # l; from 1e-4 to 1e-2 recall changes by 1 % at most
_MOST_FITTED = 200_000  # W has D x D entries: more trained vectors tell no more of it, and cost time in each process


@dataclass(frozen=True)
class FoldIn:
    """The rules of a trained graph: `users` from lists of items, `items` from lists of users."""

    _users: "_Side"
    _items: "_Side"

    @classmethod
    def fit(cls, users: Tensor, items: Tensor, train_edges: Tensor) -> "FoldIn":
        """Fit both rules to users (U, D) and items (I, D), float, trained on `train_edges` (2, E) int64.

        Raises DataError for a table that is not finite, no edges or edges out of range, ValueError for tables of two widths.
        """
        if users.shape[1] != items.shape[1]:
            raise ValueError(
                f"users and items must have vectors of one length, saw {users.shape[1]} and {items.shape[1]}"
            )
        for name, table in (("users", users), ("items", items)):
            _check_finite(name, table)
        check_edges(train_edges, users.shape[0], items.shape[0])
        return cls(
            _users=_Side.fit(users, items, train_edges),
            _items=_Side.fit(items, users, train_edges.flip(0)),
        )

    def users(self, histories: Sequence[Sequence[int]] | Tensor) -> Tensor:
        """Vectors (N, D) float32 of N users, from the item indices of each; or from edges (2, E) int64, row 0 the users 0 to N - 1.

        An item that stands twice in a history counts once. Raises ValueError for a user without items, or an index out of range.
        """
        return self._users.vectors(_edges(histories), "user", "item")

    def items(self, audiences: Sequence[Sequence[int]] | Tensor) -> Tensor:
        """Vectors (N, D) float32 of N items, from the user indices of each; or from edges (2, E) int64, row 0 the items 0 to N - 1.

        Raises ValueError as `users` does.
        """
        return self._items.vectors(_edges(audiences), "item", "user")


@dataclass(frozen=True)
class _Side:
    """The rule of one side: `weight` (D, D) is W; `neighbours` (M, D) is the other side's table."""

    neighbours: Tensor
    weight: Tensor
    log_length: "_Line"

    @classmethod
    def fit(cls, table: Tensor, neighbours: Tensor, edges: Tensor) -> "_Side":
        """`edges` (2, E): rows of `table` in row 0, of `neighbours` in row 1."""
        lengths = torch.linalg.vector_norm(table, dim=1)
        degrees = torch.bincount(edges[0], minlength=len(table))
        fitted = _spread((lengths > 0) & (degrees > 0))
        renumbered = torch.full((len(table),), -1).index_put((fitted,), torch.arange(len(fitted)))
        of_fitted = edges[:, renumbered[edges[0]] >= 0]
        means = _mean_directions(
            neighbours, torch.stack([renumbered[of_fitted[0]], of_fitted[1]]), len(fitted)
        )
        weight = _ridge(means, F.normalize(table[fitted].float(), dim=1))
        return cls(neighbours, weight, _Line.fit(degrees[fitted].log(), lengths[fitted].log()))

    def vectors(self, edges: Tensor, this: str, other: str) -> Tensor:
        """(N, D) float32 from `edges` (2, E): numbers 0 to N - 1 of `this` in row 0, rows of `neighbours` in row 1."""
        edges = _distinct(edges, len(self.neighbours), other)
        degrees = torch.bincount(edges[0])
        if bool((degrees == 0).any()):
            number = int((degrees == 0).nonzero()[0])
            raise ValueError(
                f"{this} {number} of {len(degrees)} has no {other}: there is nothing to compute its vector from; leave that {this} out"
            )
        directions = F.normalize(
            _mean_directions(self.neighbours, edges, len(degrees)) @ self.weight, dim=1
        )
        return directions * self.log_length.at(degrees.log()).exp()[:, None]


@dataclass(frozen=True)
class _Line:
    """y = mean_y + slope (x - mean_x), as at the ends for an x beyond those of the fit."""

    mean_x: Tensor
    mean_y: Tensor
    slope: Tensor
    ends: tuple[float, float]

    @classmethod
    def fit(cls, x: Tensor, y: Tensor) -> "_Line":
        """Least squares; x, y (N,) float. Slope 0 if all x are equal."""
        x, y = x.double(), y.double()
        dx, dy = x - x.mean(), y - y.mean()
        slope = (dx @ dy) / (dx @ dx).clamp_min(1e-12)
        return cls(x.mean(), y.mean(), slope, (float(x.min()), float(x.max())))

    def at(self, x: Tensor) -> Tensor:
        """y (N,) float32 at x (N,)."""
        y: Tensor = self.mean_y + self.slope * (x.double().clamp(*self.ends) - self.mean_x)
        return y.float()


def _mean_directions(table: Tensor, edges: Tensor, num_rows: int) -> Tensor:
    """Unit vectors (num_rows, D) float32 along the mean of the neighbours' directions; zero where there is none."""
    lengths = torch.linalg.vector_norm(table.float(), dim=1)
    # 1 / ||e_i|| as the edge's weight: no normalized copy of a table that may be large.
    weights = torch.where(lengths > 0, 1 / lengths, 0)[edges[1]]
    mean = (
        torch.sparse_coo_tensor(edges, weights, (num_rows, len(table)), check_invariants=False)
        @ table.float()
    )
    return F.normalize(mean, dim=1)


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """argmin_W ||x W - y||^2 + l tr(x^T x) / D ||W||^2: (D, D) float32, of x (N, D), y (N, D)."""
    gram = x.T.double() @ x.double()
    dim = len(gram)
    penalty = _RIDGE * gram.trace() / dim
    weight: Tensor = torch.linalg.solve(
        gram + penalty * torch.eye(dim, dtype=gram.dtype), x.T.double() @ y.double()
    )
    return weight.float()


def _spread(usable: Tensor) -> Tensor:
    """Indices (N,) int64 of at most `_MOST_FITTED` of the `usable` (M,) bool, evenly spread; raises DataError if there is none."""
    indices = usable.nonzero()[:, 0]
    if len(indices) == 0:
        raise DataError(
            "no trained vector with interactions differs from zero: there is nothing to fit fold-in to; train the graph again"
        )
    step = -(-len(indices) // _MOST_FITTED)
    spread: Tensor = indices[::step]
    return spread


def _edges(lists: Sequence[Sequence[int]] | Tensor) -> Tensor:
    """(2, E) int64: the number of a list, and what is in it. Raises ValueError for an empty list."""
    if isinstance(lists, Tensor):
        return lists
    empty = [number for number, indices in enumerate(lists) if not indices]
    if empty:
        raise ValueError(
            f"list {empty[0]} of {len(lists)} is empty; expected at least one index in each"
        )
    numbers = [number for number, indices in enumerate(lists) for _ in indices]
    return torch.tensor(
        [numbers, [index for indices in lists for index in indices]], dtype=torch.int64
    )


def _distinct(edges: Tensor, num_neighbours: int, other: str) -> Tensor:
    """`edges` (2, E) sorted, each once; raises ValueError for an index out of range."""
    wrong = edges[1][(edges[1] < 0) | (edges[1] >= num_neighbours)]
    if len(wrong):
        raise ValueError(
            f"{other} index {int(wrong[0])} is out of range; expected 0 to {num_neighbours - 1}, the trained {other}s"
        )
    distinct: Tensor = coalesce(edges)
    return distinct


def _check_finite(name: str, table: Tensor) -> None:
    finite = torch.isfinite(table).all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise DataError(
            f"the graph's {name} have {int((~finite).sum())} vectors with NaN or infinity, the first in row {row}; train the graph again"
        )
