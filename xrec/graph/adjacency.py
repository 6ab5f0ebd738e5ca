"""The graph as a matrix: A = D^-a [[0, R], [R^T, 0]] D^-a.

Rows and columns are the users, then the items. R is the binary interaction matrix, D the diagonal
matrix of the degrees. With a = 1/2 this is LightGCN's matrix (arXiv 2002.02126, eq. 3). Aspects are
rows and columns after the items, with weighted edges to users and items; a degree is then the sum
of a node's weights. A is symmetric, so it is its own transpose.
"""

import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.graph.aspects import NO_ASPECTS, AspectEdges
from xrec.graph.partition import Partition

_LARGEST_INT32 = 2**31 - 1


def normalized_adjacency(
    edges: Tensor,
    num_users: int,
    num_items: int,
    partition: Partition | None = None,
    exponent: float = 0.5,
    aspects: AspectEdges = NO_ASPECTS,
) -> Tensor:
    """Return A as a sparse CSR tensor (N, N) float32, N = num_users + num_items + num_aspects.

    `edges` (2, E) int64 has user indices in row 0 and item indices in row 1; a pair that stands
    there twice counts once, with weight 1. The edges of `aspects` have their own weights. A node
    without edges has an empty row. `exponent` is a.

    With `partition`, only this worker's rows are returned, (n, W n): row r belongs to the node
    `partition.node_ids[r]`, and the columns are in the order of `partition.blocks.nodes`.
    Raises DataError as `check_edges` does.
    """
    check_edges(edges, num_users, num_items)
    partition = partition or Partition.whole(num_users + num_items + aspects.num_aspects)
    users, items = _distinct(edges, num_items)
    ends = torch.stack([users, items + num_users])
    weights = None
    if len(aspects):
        aspect_nodes = aspects.aspects + (num_users + num_items)
        weights = torch.cat([torch.ones(ends.shape[1]), aspects.weights])
        ends = torch.cat([ends, torch.stack([aspects.nodes, aspect_nodes])], dim=1)
    degrees = _weighted_degrees(ends, weights, partition.blocks.num_nodes)
    # A node without edges has degree 0. It scales no edge; 1 in its place avoids an infinite value.
    scale = degrees.where(degrees > 0, 1).pow(-exponent).float()
    nodes = partition.blocks.nodes
    crow, columns, values = _sorted_rows(partition.blocks.rows[ends], weights, partition)
    values = values * scale[nodes.clamp(min=0)][columns]
    values *= scale[partition.node_ids.clamp(min=0)].repeat_interleave(crow.diff())
    return _csr(crow, columns, values, (partition.blocks.block_size, len(nodes)))


def node_degrees(
    edges: Tensor, num_users: int, num_items: int, aspects: AspectEdges = NO_ASPECTS
) -> Tensor:
    """Return the number of distinct edges of each node: users, items, aspects; (N,) int64.

    N is num_users + num_items + num_aspects. Raises DataError as `check_edges` does.
    """
    check_edges(edges, num_users, num_items)
    users, items = _distinct(edges, num_items)
    num_nodes = num_users + num_items + aspects.num_aspects
    ends = [users, items + num_users, aspects.nodes, aspects.aspects + num_users + num_items]
    return torch.bincount(torch.cat(ends), minlength=num_nodes)


def check_edges(
    edges: Tensor, num_users: int, num_items: int, what: str = "training interactions"
) -> None:
    """Raise DataError if `edges` (2, E) int64 is empty or has an index out of range.

    `what` names the edges in the message.
    """
    if edges.shape[1] == 0:
        raise DataError(
            f"the dataset has no {what} ({num_users} users, {num_items} items); "
            "check its interactions and the shares of the splits"
        )
    for name, indices, count in (
        ("user_index", edges[0], num_users),
        ("item_index", edges[1], num_items),
    ):
        wrong = (indices < 0) | (indices >= count)
        if bool(wrong.any()):
            first = int(indices[wrong][0])
            raise DataError(
                f"{int(wrong.sum())} {what} have a {name} out of range, the first is {first}; "
                f"expected 0 to {count - 1}"
            )


def _distinct(edges: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    keys = torch.unique(edges[0] * num_items + edges[1])
    return keys // num_items, keys % num_items


def _weighted_degrees(ends: Tensor, weights: Tensor | None, num_nodes: int) -> Tensor:
    """Return the sum of each node's weights, (N,) float64, or the number of its edges."""
    both = None if weights is None else weights.double().repeat(2)
    return torch.bincount(ends.flatten(), weights=both, minlength=num_nodes).double()


def _sorted_rows(
    rows: Tensor, weights: Tensor | None, partition: Partition
) -> tuple[Tensor, Tensor, Tensor]:
    """Return this worker's rows: their starts (n + 1,), columns (nnz,) int64, weights (nnz,).

    `rows` (2, E) are the rows of each edge's two ends in the layout. Within a row the columns
    ascend. Without `weights` (E,) all weights are 1, and less memory is used.
    """
    size, num_columns = partition.blocks.block_size, len(partition.blocks.nodes)
    first = partition.rank * size
    both = [(rows[0], rows[1]), (rows[1], rows[0])]
    keys = [_own_keys(row, column, first, size, num_columns) for row, column in both]
    if weights is None:
        ordered = torch.cat(keys).sort().values
        sorted_weights = torch.ones(())
    else:
        own = [weights[_is_own(row, first, size)] for row, _ in both]
        ordered, order = torch.cat(keys).sort()
        sorted_weights = torch.cat(own)[order]
    starts = torch.searchsorted(ordered, torch.arange(size + 1) * num_columns)
    return starts, ordered.remainder_(num_columns), sorted_weights


def _own_keys(rows: Tensor, columns: Tensor, first: int, size: int, num_columns: int) -> Tensor:
    """Return one number for each edge in the rows `first` to `first + size`: row, then column."""
    own = _is_own(rows, first, size)
    return (rows[own] - first) * num_columns + columns[own]


def _is_own(rows: Tensor, first: int, size: int) -> Tensor:
    return (rows >= first) & (rows < first + size)


def _csr(crow: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    # MKL multiplies with 32-bit indices. Given 64-bit ones, torch makes a 32-bit copy at each call.
    dtype = torch.int32 if max(len(columns), shape[1]) <= _LARGEST_INT32 else torch.int64
    return torch.sparse_csr_tensor(crow.to(dtype), columns.to(dtype), values, shape)
