"""Fold-in: vectors of users and items that came after training, computed from the trained tables.

For a new user u with the items N_u, where ê is e / ||e||:

    m   = mean of ê_i over i in N_u,   z_u = m / ||m||
    W   = argmin  sum_t ||z_t W - ê_t||^2 + l tr(Z^T Z) / D ||W||^2   over the trained users t
    e_u = exp(a + b ln |N_u|) z_u W / ||z_u W||

z_u is LightGCN's step from the neighbours (arXiv 2002.02126, eq. 3), except that all neighbours
have the same weight. W is a ridge regression: it maps the mean of a user's neighbours to the
direction that training gave the user. a and b are the least-squares fit of ln ||e_t|| on ln |N_t|.
So ranking and adapter get vectors like the trained ones. An item's vector comes from its users in
the same way. The rule is our own.
docs/graph.md has what it reaches.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import coalesce

from xrec.config.shared import ColdStartConfig, StorageConfig
from xrec.data.cold_start import ColdStartTables, extend_dataset, read_cold_start
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import DataError
from xrec.graph.adjacency import check_edges
from xrec.graph.artifact import GraphEmbeddings, check_finite, read_graph
from xrec.graph.identity import check_graph_of_dataset
from xrec.graph.ranking import SeenItems
from xrec.storage import Location

_RIDGE = 1e-3  # l; between 1e-4 and 1e-2 recall changes by 1 % at most
# W has only D x D entries, so more trained vectors do not make it better, and each process fits it.
_MOST_FITTED = 200_000


@dataclass(frozen=True)
class FoldIn:
    """The fitted rule of one side, users or items.

    `weight` (D, D) is W, `neighbours` (M, D) the other side's table. line: b and a of the length,
    (2,). ends: the least and largest fitted ln |N|; what lies beyond counts as the nearer end.
    """

    neighbours: Tensor
    weight: Tensor
    line: Tensor
    ends: tuple[float, float]

    @classmethod
    def of_users(cls, users: Tensor, items: Tensor, train_edges: Tensor) -> "FoldIn":
        """The rule for new users, fitted to users (U, D) and items (I, D), float.

        `train_edges` (2, E) int64 has user indices in row 0 and item indices in row 1. Raises
        DataError if a table is not finite, or if there are no edges or an index is out of range.
        """
        _check(users, items, train_edges)
        return cls._fit(users, items, train_edges)

    @classmethod
    def of_items(cls, users: Tensor, items: Tensor, train_edges: Tensor) -> "FoldIn":
        """The rule for new items; as `of_users`."""
        _check(users, items, train_edges)
        return cls._fit(items, users, train_edges.flip(0))

    @classmethod
    def _fit(cls, table: Tensor, neighbours: Tensor, edges: Tensor) -> "FoldIn":
        """Fit the rule; `edges` (2, E) has rows of `table` in row 0, of `neighbours` in row 1."""
        lengths = torch.linalg.vector_norm(table, dim=1)
        degrees = torch.bincount(edges[0], minlength=len(table))
        fitted = _spread((lengths > 0) & (degrees > 0))
        of_fitted = torch.stack(SeenItems(edges).of(fitted))
        means = _mean_directions(neighbours, of_fitted, len(fitted))
        weight = _ridge(means, F.normalize(table[fitted].float(), dim=1))
        x, y = degrees[fitted].double().log(), lengths[fitted].double().log()
        # The default driver, gelsy, gives any line where all degrees are equal.
        powers = torch.stack([x, torch.ones_like(x)], 1)
        line = torch.linalg.lstsq(powers, y[:, None], driver="gelsd").solution
        return cls(neighbours, weight, line[:, 0], (float(x.min()), float(x.max())))

    def vectors(self, edges: Tensor) -> Tensor:
        """Return vectors (N, D) float32 of the new users or items 0 to N - 1.

        `edges` (2, E) int64 has their numbers in row 0, each at least once, and rows of
        `neighbours` in row 1; a pair that stands there twice counts once.
        """
        edges = coalesce(edges)  # sorted, and each once
        degrees = torch.bincount(edges[0])
        assert degrees.all(), "who has no neighbours has no vector"
        used, places = edges[1].unique(return_inverse=True)
        of_used = torch.stack([edges[0], places])
        means = _mean_directions(self.neighbours[used], of_used, len(degrees))
        directions = F.normalize(means @ self.weight, dim=1)
        log_lengths = self.line[0] * degrees.double().log().clamp(*self.ends) + self.line[1]
        return directions * log_lengths.exp().float()[:, None]


def _check(users: Tensor, items: Tensor, train_edges: Tensor) -> None:
    check_finite("user", users)
    check_finite("item", items)
    check_edges(train_edges, users.shape[0], items.shape[0])


def _mean_directions(table: Tensor, edges: Tensor, num_rows: int) -> Tensor:
    """Return unit vectors (num_rows, D) float32 along the mean of the neighbours' directions.

    A row without neighbours is zero.
    """
    lengths = torch.linalg.vector_norm(table.float(), dim=1)
    # The edge's weight is 1 / ||e_i||, which saves a normalized copy of a table that may be large.
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


def _spread(usable: Tensor) -> Tensor:
    """Return the indices (N,) int64 of at most `_MOST_FITTED` of the `usable` (M,) bool.

    They are evenly spread. Raises DataError if no row is usable.
    """
    indices = usable.nonzero()[:, 0]
    if len(indices) == 0:
        raise DataError(
            "no trained vector with interactions differs from zero: there is nothing to fit "
            "fold-in to; train the graph again"
        )
    step = -(-len(indices) // _MOST_FITTED)
    spread: Tensor = indices[::step].contiguous()
    return spread


def read_with_new(
    dataset: Location, graph: Location, new: ColdStartConfig | None, storage: StorageConfig
) -> tuple[Dataset, GraphEmbeddings]:
    """Read a dataset and its graph, and append the users and items of a cold start.

    Raises ArtifactNotFoundError or ArtifactMismatchError if one is missing or they do not belong
    together, DataError or StorageError for a cold start that cannot be read.
    """
    known, vectors = read_dataset(dataset), read_graph(graph)
    check_graph_of_dataset(vectors.manifest, known.manifest, graph.uri, dataset.uri)
    if new is None:
        return known, vectors
    return extend_with_new(known, vectors, read_cold_start(new, storage))


def extend_with_new(
    dataset: Dataset, graph: GraphEmbeddings, tables: ColdStartTables
) -> tuple[Dataset, GraphEmbeddings]:
    """Return dataset and graph with the users and items of `tables` appended.

    Their vectors come from `FoldIn`. If `tables` has nothing usable, the rows stay as they are. The
    new interactions are among the train edges of the returned dataset, so that a ranking leaves out
    a new user's history. Both keep their manifests; `tables.fingerprint` distinguishes artifacts
    that were made from them. Raises DataError if a vector of the graph is not finite.
    """
    extension = extend_dataset(dataset, tables)
    user_edges, item_edges = map(torch.from_numpy, (extension.user_edges, extension.item_edges))
    if user_edges.shape[1] + item_edges.shape[1] == 0:
        return extension.dataset, graph
    train_edges = torch.from_numpy(dataset.interaction_edges("train"))
    trained, extended = (graph.users, graph.items, train_edges), graph
    if user_edges.shape[1]:
        extended = extended.with_more_users(FoldIn.of_users(*trained).vectors(user_edges))
    if item_edges.shape[1]:
        more = FoldIn.of_items(*trained).vectors(item_edges).to(graph.items.dtype)
        extended = replace(extended, items=torch.cat([graph.items, more]))
    return extension.dataset, extended
