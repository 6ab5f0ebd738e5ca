"""The sparse adjacency against dense matrices."""

import pytest
import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.graph import check_edges, node_degrees, normalized_adjacency

# User 2 and item 3 have no edges; the pair (0, 1) stands twice.
EDGES = torch.tensor([[0, 0, 1, 0, 3], [1, 0, 1, 1, 2]])


def dense_adjacency(edges: Tensor, num_users: int, num_items: int, exponent: float = 0.5) -> Tensor:
    n = num_users + num_items
    a = torch.zeros(n, n)
    for u, i in edges.T.tolist():
        a[u, num_users + i] = a[num_users + i, u] = 1.0
    scale = [degree**-exponent if degree else 0.0 for degree in a.sum(dim=1).tolist()]
    return torch.diag(torch.tensor(scale)) @ a @ torch.diag(torch.tensor(scale))


def test_adjacency_with_isolated_nodes_and_duplicates_equals_dense() -> None:
    sparse = normalized_adjacency(EDGES, 4, 4)
    assert sparse.layout == torch.sparse_csr
    torch.testing.assert_close(sparse.to_dense(), dense_adjacency(EDGES, 4, 4))


def test_adjacency_with_exponent_equals_dense() -> None:
    torch.testing.assert_close(
        normalized_adjacency(EDGES, 4, 4, exponent=0.3).to_dense(),
        dense_adjacency(EDGES, 4, 4, 0.3),
    )


def test_node_degrees_count_distinct_pairs_users_first() -> None:
    assert node_degrees(EDGES, 4, 4).tolist() == [2, 1, 0, 1, 1, 2, 1, 0]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[0, 4], [0, 0]], "user_index out of range, the first is 4; expected 0 to 3"),
        ([[0, -1], [0, 0]], "user_index out of range, the first is -1"),
        ([[0, 0], [0, 9]], "item_index out of range, the first is 9"),
        ([[], []], "no training interactions"),
    ],
)
def test_check_edges_bad_edges_raise_data_error(edges: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_edges(torch.tensor(edges, dtype=torch.int64), 4, 4)
