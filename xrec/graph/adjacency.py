"""The graph as a matrix: A = D^-a [[0, R], [R^T, 0]] D^-a.

Rows and columns are the users, then the items. R is the binary interaction matrix, D the diagonal
matrix of the degrees. With a = 1/2 this is LightGCN's matrix (arXiv 2002.02126, eq. 3). Aspects are
rows and columns after the items, with weighted edges to users and items; a degree is then the sum
of a node's weights. A is symmetric, so it is its own transpose.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.graph.aspects import NO_ASPECTS, AspectEdges
from xrec.graph.partition import Partition
from xrec.storage import Allocate, filled_arrays

_LARGEST_INT32 = 2**31 - 1
_EDGES_PER_PIECE = 2**20  # sorted at a time, in some 100 MB


def normalized_adjacency(
    edges: Tensor,
    num_users: int,
    num_items: int,
    partition: Partition | None = None,
    exponent: float = 0.5,
    aspects: AspectEdges = NO_ASPECTS,
    name: str | None = None,
    edges_per_piece: int = _EDGES_PER_PIECE,
) -> Tensor:
    """Return A as a sparse CSR tensor (N, N) float32, N = num_users + num_items + num_aspects.

    `edges` (2, E) int64 has user indices in row 0 and item indices in row 1, each pair once, with
    weight 1. The edges of `aspects` have their own weights. A node without edges has an empty row.
    `exponent` is a.

    With `partition`, only this worker's rows are returned, (n, W n): row r belongs to the node
    `partition.node_ids[r]`, and the columns are in the order of `partition.blocks.nodes`.

    With `name`, which says what the edges are, the rows are a file of this node (`filled_arrays`),
    and no edge is in the memory of a worker. Raises DataError as `check_edges` does.
    """
    check_edges(edges, num_users, num_items)
    partition = partition or Partition.whole(num_users + num_items + aspects.num_aspects)
    blocks = partition.blocks

    def fill(allocate: Allocate) -> None:
        degrees = _degrees(edges, num_users, num_items, aspects)
        crow = torch.zeros(blocks.block_size + 1, dtype=torch.int64)
        own = partition.node_ids
        crow[1:] = degrees[own].where(own >= 0, 0).cumsum(0)
        num_values = int(crow[-1])
        # MKL multiplies with 32-bit indices. Given 64-bit ones, torch copies them at each call.
        index = np.int32 if max(num_values, len(blocks.nodes)) <= _LARGEST_INT32 else np.int64
        torch.from_numpy(allocate("crow", crow.shape, index)).copy_(crow)
        columns = torch.from_numpy(allocate("columns", (num_values,), index))
        values = torch.from_numpy(allocate("values", (num_values,), np.float32))
        pieces = _pieces(edges, num_users, num_items, aspects, edges_per_piece)
        _place(pieces, partition, crow, columns, values)
        weighted = _degrees(edges, num_users, num_items, aspects, aspects.weights).double()
        # A node without edges has degree 0. It scales no edge; 1 avoids an infinite value.
        scale = weighted.where(weighted > 0, 1).pow(-exponent).float()
        scales = scale[own], scale[blocks.nodes]
        _sort_and_scale(crow, columns, values, *scales, edges_per_piece)

    path = f"{name}-{blocks.num_blocks}-{partition.rank}-{exponent!r}.adjacency"
    crow, columns, values = map(torch.from_numpy, filled_arrays(name and path, fill).values())
    return torch.sparse_csr_tensor(crow, columns, values, (blocks.block_size, len(blocks.nodes)))


def node_degrees(
    edges: Tensor, num_users: int, num_items: int, aspects: AspectEdges = NO_ASPECTS
) -> Tensor:
    """Return the number of edges of each node: users, items, aspects; (N,) int64.

    N is num_users + num_items + num_aspects. Raises DataError as `check_edges` does.
    """
    check_edges(edges, num_users, num_items)
    return _degrees(edges, num_users, num_items, aspects)


def check_edges(
    edges: Tensor, num_users: int, num_items: int, what: str = "training interactions"
) -> None:
    """Raise DataError if `edges` (2, E) int64 is empty or has an index out of range.

    `what` names the edges in the message.
    """
    if edges.shape[1] == 0:
        raise DataError(
            f"the dataset has no {what} ({num_users} users, {num_items} items); "
            "check its interactions and the shares of the splits",
            code="no_edges",
            key=what,
        )
    for name, indices, count in (
        ("user_index", edges[0], num_users),
        ("item_index", edges[1], num_items),
    ):
        if indices.min() < 0 or indices.max() >= count:
            wrong = indices[(indices < 0) | (indices >= count)]
            raise DataError(
                f"{len(wrong)} {what} have a {name} out of range, the first is {int(wrong[0])}; "
                f"expected 0 to {count - 1}",
                code="index_out_of_range",
                key=name,
                saw=int(wrong[0]),
            )


def distinct_edges(edges: Tensor, num_items: int) -> Tensor:
    """Return `edges` (2, E) int64 by user, then item, each once."""
    keys = torch.unique(edges[0] * num_items + edges[1])
    return torch.stack([keys // num_items, keys % num_items])


def _degrees(
    edges: Tensor,
    num_users: int,
    num_items: int,
    aspects: AspectEdges,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the number of each node's edges; with `weights` of the aspects' edges, their sum."""
    num_nodes = num_users + num_items + aspects.num_aspects
    ends = torch.cat([aspects.nodes, aspects.aspects + num_users + num_items])
    both = None if weights is None else weights.double().repeat(2)
    degrees = torch.bincount(ends, weights=both, minlength=num_nodes)
    degrees[:num_users] += torch.bincount(edges[0], minlength=num_users)
    degrees[num_users:][:num_items] += torch.bincount(edges[1], minlength=num_items)
    return degrees


def _pieces(
    edges: Tensor, num_users: int, num_items: int, aspects: AspectEdges, size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the nodes at the two ends of some edges, and weights, (P,) each."""
    for users, items in zip(*(row.split(size) for row in edges), strict=True):
        yield users, items + num_users, torch.ones(len(users))
    parts = (aspects.nodes, aspects.aspects, aspects.weights)
    for nodes, named, weights in zip(*(p.split(size) for p in parts), strict=True):
        yield nodes, named + (num_users + num_items), weights


def _place(
    pieces: Iterator[tuple[Tensor, Tensor, Tensor]],
    partition: Partition,
    crow: Tensor,
    columns: Tensor,
    values: Tensor,
) -> None:
    """Put each edge's column and weight into its row's part of `columns` and `values` (nnz,)."""
    free = crow[:-1].clone()
    for left, right, weights in pieces:
        for ends, others in ((left, right), (right, left)):
            found, rows = partition.find(ends)
            rows, order = rows.sort(stable=True)
            found = found[order]
            places = free[rows] + torch.arange(len(rows)) - torch.searchsorted(rows, rows)
            columns[places] = partition.blocks.rows[others[found]].to(columns.dtype)
            values[places] = weights[found]
            filled, counts = rows.unique_consecutive(return_counts=True)
            free[filled] += counts


def _sort_and_scale(
    crow: Tensor,
    columns: Tensor,
    values: Tensor,
    of_rows: Tensor,
    of_columns: Tensor,
    edges_per_piece: int,
) -> None:
    """Let the columns of each row ascend; multiply with the scale of row (n,) and column (W n,)."""
    every = torch.arange(0, len(columns) + edges_per_piece, edges_per_piece)
    ends = torch.searchsorted(crow, every, right=True).clamp(max=len(crow) - 1).unique()
    for first, stop in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        at = slice(int(crow[first]), int(crow[stop]))
        rows = torch.arange(stop - first).repeat_interleave(crow[first : stop + 1].diff())
        keys, order = (rows * len(of_columns) + columns[at]).sort()
        ordered = keys.remainder_(len(of_columns))
        columns[at] = ordered.to(columns.dtype)
        values[at] = values[at][order] * of_columns[ordered] * of_rows[first:stop][rows]
