"""The bipartite graph as a matrix: A = D^-a [[0, R], [R^T, 0]] D^-a.

Rows and columns are the users, then the items. R is the binary interaction matrix, D the diagonal
matrix of the degrees. With a = 1/2 this is LightGCN's matrix (arXiv 2002.02126, eq. 3). A is
symmetric, so it is its own transpose.
"""

import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.graph.partition import Partition

_LARGEST_INT32 = 2**31 - 1


def normalized_adjacency(
    edges: Tensor,
    num_users: int,
    num_items: int,
    partition: Partition | None = None,
    exponent: float = 0.5,
) -> Tensor:
    """Return A as a sparse CSR tensor (N, N) float32, N = num_users + num_items.

    `edges` (2, E) int64 has user indices in row 0 and item indices in row 1; a pair that stands
    there twice counts once. A user or item without edges has an empty row. `exponent` is a.

    With `partition`, only this worker's rows are returned, (n, W n): row r belongs to the node
    `partition.node_ids[r]`, and the columns are in the order of `partition.blocks.nodes`.
    Raises DataError as `check_edges` does.
    """
    check_edges(edges, num_users, num_items)
    partition = partition or Partition.whole(num_users + num_items)
    users, items = _distinct(edges, num_items)
    degrees = _degrees(users, items, num_users, num_items)
    # A node without edges has degree 0. It scales no edge; 1 in its place avoids an infinite value.
    scale = degrees.clamp(min=1).double().pow(-exponent).float()
    nodes = partition.blocks.nodes
    crow, columns = _sorted_rows(
        partition.blocks.rows[users], partition.blocks.rows[items + num_users], partition
    )
    values = scale[nodes.clamp(min=0)][columns]
    values *= scale[partition.node_ids.clamp(min=0)].repeat_interleave(crow.diff())
    return _csr(crow, columns, values, (partition.blocks.block_size, len(nodes)))


def node_degrees(edges: Tensor, num_users: int, num_items: int) -> Tensor:
    """Return the number of distinct edges of each node, users first: (N,) int64.

    N is num_users + num_items. Raises DataError as `check_edges` does.
    """
    check_edges(edges, num_users, num_items)
    return _degrees(*_distinct(edges, num_items), num_users, num_items)


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


def _degrees(users: Tensor, items: Tensor, num_users: int, num_items: int) -> Tensor:
    return torch.cat(
        [torch.bincount(users, minlength=num_users), torch.bincount(items, minlength=num_items)]
    )


def _sorted_rows(
    user_rows: Tensor, item_rows: Tensor, partition: Partition
) -> tuple[Tensor, Tensor]:
    """Return the CSR structure of this worker's rows: row starts (n + 1,), columns (nnz,), int64.

    Within a row the columns ascend.
    """
    size, num_columns = partition.blocks.block_size, len(partition.blocks.nodes)
    keys = [
        _own_keys(rows, columns, partition.rank * size, size, num_columns)
        for rows, columns in ((user_rows, item_rows), (item_rows, user_rows))
    ]
    ordered = torch.cat(keys).sort().values
    starts = torch.searchsorted(ordered, torch.arange(size + 1) * num_columns)
    return starts, ordered.remainder_(num_columns)


def _own_keys(rows: Tensor, columns: Tensor, first: int, size: int, num_columns: int) -> Tensor:
    """Return one number for each edge in the rows `first` to `first + size`: row, then column."""
    local = rows - first
    own = (local >= 0) & (local < size)
    return local[own] * num_columns + columns[own]


def _csr(crow: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    # MKL multiplies with 32-bit indices. Given 64-bit ones, torch makes a 32-bit copy at each call.
    dtype = torch.int32 if max(len(columns), shape[1]) <= _LARGEST_INT32 else torch.int64
    return torch.sparse_csr_tensor(crow.to(dtype), columns.to(dtype), values, shape)
