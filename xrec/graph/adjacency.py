"""The graph as a matrix: A = D^-a [[0, R], [R^T, 0]] D^-a.

Rows and columns are the users, then the items. R is the binary interaction matrix, D the diagonal
matrix of the degrees. With a = 1/2 this is LightGCN's matrix (arXiv 2002.02126, eq. 3). Aspects
follow the items, with weighted edges to users and items; a degree is then the sum of a node's
weights. A is symmetric.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.graph.aspects import NO_ASPECTS, AspectEdges
from xrec.graph.partition import Halo, Partition
from xrec.storage import Allocate, filled_arrays

_LARGEST_INT32 = 2**31 - 1
_EDGES_PER_PIECE = 2**20  # sorted together, in some 100 MB


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

    `edges` (2, E) int64 are distinct pairs of user and item indices, with weight 1. A node without
    edges has an empty row. `exponent` is a.

    With `partition`, only this worker's rows are returned: row r is that of the node
    `partition.node_ids[r]`, and column c that of `partition.column_nodes[c]`.

    With `name`, which identifies the edges, the rows are mapped from a file of this node
    (`filled_arrays`), so no edge is in a worker's own memory. Raises the errors of `check_edges`.
    """
    check_edges(edges, num_users, num_items)
    partition = partition or Partition.whole(num_users + num_items + aspects.num_aspects)
    blocks, column_nodes = partition.blocks, partition.column_nodes

    def fill(allocate: Allocate) -> None:
        degrees = _degrees(edges, num_users, num_items, aspects)
        crow = torch.zeros(blocks.block_size + 1, dtype=torch.int64)
        own = partition.node_ids
        crow[1:] = degrees[own].where(own >= 0, 0).cumsum(0)
        num_values = int(crow[-1])
        # MKL multiplies with 32-bit indices; torch would convert 64-bit ones at each call.
        index = np.int32 if max(num_values, len(column_nodes)) <= _LARGEST_INT32 else np.int64
        torch.from_numpy(allocate("crow", crow.shape, index)).copy_(crow)
        columns = torch.from_numpy(allocate("columns", (num_values,), index))
        values = torch.from_numpy(allocate("values", (num_values,), np.float32))
        pieces = _pieces(edges, num_users, num_items, aspects, edges_per_piece)
        _place(pieces, partition, crow, columns, values)
        weighted = _degrees(edges, num_users, num_items, aspects, aspects.weights).double()
        # A node without edges scales nothing; 1 avoids an infinite value.
        scale = weighted.where(weighted > 0, 1).pow(-exponent).float()
        scales = scale[own], scale[column_nodes]
        _sort_and_scale(crow, columns, values, *scales, edges_per_piece)

    path = f"{name}-{blocks.num_blocks}-{partition.rank}-{exponent!r}.adjacency"
    crow, columns, values = map(torch.from_numpy, filled_arrays(name and path, fill).values())
    return torch.sparse_csr_tensor(crow, columns, values, (blocks.block_size, len(column_nodes)))


def with_halo(
    partition: Partition,
    edges: Tensor,
    num_users: int,
    num_items: int,
    aspects: AspectEdges = NO_ASPECTS,
    device: torch.device | None = None,
) -> Partition:
    """Return `partition` with the rows of others that share an edge with its own. Collective.

    The process group must be able to send from `device`, by default the CPU.
    """
    blocks = partition.blocks
    is_needed = torch.zeros(len(blocks.nodes), dtype=torch.bool)
    for left, right, _ in _pieces(edges, num_users, num_items, aspects, _EDGES_PER_PIECE):
        for ends, others in ((left, right), (right, left)):
            found, _ = partition.find(ends)
            is_needed[blocks.rows[others[found]]] = True
    rows = is_needed.nonzero().flatten()
    halo = Halo(blocks, partition.rank, rows, device or torch.device("cpu"))
    return replace(partition, halo=halo)


def node_degrees(
    edges: Tensor, num_users: int, num_items: int, aspects: AspectEdges = NO_ASPECTS
) -> Tensor:
    """Return the number of edges of each node, (N,) int64; raises the errors of `check_edges`."""
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
    """Return the distinct `edges` (2, E) int64, sorted by user, then item."""
    keys = torch.unique(edges[0] * num_items + edges[1])
    return torch.stack([keys // num_items, keys % num_items])


def _degrees(
    edges: Tensor,
    num_users: int,
    num_items: int,
    aspects: AspectEdges,
    weights: Tensor | None = None,
) -> Tensor:
    """Return each node's number of edges, or with `weights` of the aspects' edges, their sum."""
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
    """Yield the two nodes and the weights of edges, (P,) each."""
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
    """Write each edge's column and weight into its row's part of `columns` and `values` (nnz,)."""
    free = crow[:-1].clone()
    for left, right, weights in pieces:
        for ends, others in ((left, right), (right, left)):
            found, rows = partition.find(ends)
            rows, order = rows.sort(stable=True)
            found = found[order]
            positions = free[rows] + torch.arange(len(rows)) - torch.searchsorted(rows, rows)
            columns[positions] = partition.find_columns(others[found]).to(columns.dtype)
            values[positions] = weights[found]
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
    """Sort the columns within each row, and scale by row (n,) and by column (C,)."""
    every = torch.arange(0, len(columns) + edges_per_piece, edges_per_piece)
    ends = torch.searchsorted(crow, every, right=True).clamp(max=len(crow) - 1).unique()
    for first, stop in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        at = slice(int(crow[first]), int(crow[stop]))
        rows = torch.arange(stop - first).repeat_interleave(crow[first : stop + 1].diff())
        keys, order = (rows * len(of_columns) + columns[at]).sort()
        ordered = keys.remainder_(len(of_columns))
        columns[at] = ordered.to(columns.dtype)
        values[at] = values[at][order] * of_columns[ordered] * of_rows[first:stop][rows]
