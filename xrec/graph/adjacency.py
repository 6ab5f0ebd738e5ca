"""The bipartite graph as a matrix: A = D^-1/2 [[0, R], [R^T, 0]] D^-1/2, users first, then items (arXiv 2002.02126, eq. 3).

R is the binary interaction matrix, D the diagonal of degrees. A is symmetric, so it is its own transpose.
"""

import torch
from torch import Tensor
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import coalesce, to_torch_csr_tensor, to_undirected

from xrec.errors import DataError


def normalized_adjacency(edges: Tensor, num_users: int, num_items: int) -> Tensor:
    """A as a sparse CSR tensor (N, N) float32, N = num_users + num_items.

    `edges` (2, E) int64: user indices in row 0, item indices in row 1; a pair that stands twice counts once. A user or
    item without edges has an empty row. Raises DataError as `check_edges` does.
    """
    check_edges(edges, num_users, num_items)
    num_nodes = num_users + num_items
    directed = coalesce(torch.stack([edges[0], edges[1] + num_users]), num_nodes=num_nodes)
    both_ways = to_undirected(directed, num_nodes=num_nodes)
    both_ways, weights = gcn_norm(both_ways, num_nodes=num_nodes, add_self_loops=False, dtype=torch.float32)
    adjacency: Tensor = to_torch_csr_tensor(both_ways, weights, size=num_nodes, is_coalesced=True)
    return adjacency


def check_edges(edges: Tensor, num_users: int, num_items: int, what: str = "training interactions") -> None:
    """Raise DataError if there is no edge (`edges` (2, E) int64; `what` they are), or one with an index out of range."""
    if edges.shape[1] == 0:
        raise DataError(f"the dataset has no {what} ({num_users} users, {num_items} items); check its interactions and the shares of the splits")
    for name, indices, count in (("user_index", edges[0], num_users), ("item_index", edges[1], num_items)):
        wrong = (indices < 0) | (indices >= count)
        if bool(wrong.any()):
            first = int(indices[wrong][0])
            raise DataError(f"{int(wrong.sum())} {what} have a {name} out of range, the first {first}; expected 0 to {count - 1}")
