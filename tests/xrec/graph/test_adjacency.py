"""The sparse adjacency, with aspects, exponents and row blocks, against dense matrices."""

import pytest
import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.graph.adjacency import (
    check_edges,
    distinct_edges,
    node_degrees,
    normalized_adjacency,
)
from xrec.graph.aspects import NO_ASPECTS, AspectEdges
from xrec.graph.partition import Partition, RowBlocks

NUM_USERS, NUM_ITEMS = 4, 4
# User 2 and item 3 have no edges.
EDGES = torch.tensor([[0, 0, 1, 3], [0, 1, 1, 2]])
# Users 0 and 3 and item 1 have aspects; nobody has aspect 1.
ASPECTS = AspectEdges(
    torch.tensor([0, 3, NUM_USERS + 1]), torch.tensor([0, 2, 0]), torch.tensor([0.5, 2.0, 0.3]), 3
)


def dense_adjacency(aspects: AspectEdges, exponent: float) -> Tensor:
    num_nodes = NUM_USERS + NUM_ITEMS
    a = torch.zeros(num_nodes + aspects.num_aspects, num_nodes + aspects.num_aspects)
    for user, item in EDGES.T.tolist():
        a[user, NUM_USERS + item] = a[NUM_USERS + item, user] = 1.0
    for edge in zip(aspects.nodes, aspects.aspects, aspects.weights, strict=True):
        node, aspect, weight = (value.item() for value in edge)
        a[node, num_nodes + aspect] = a[num_nodes + aspect, node] = weight
    scale = torch.diag(torch.tensor([d**-exponent if d else 0.0 for d in a.sum(dim=1).tolist()]))
    return scale @ a @ scale


@pytest.mark.parametrize("exponent", [0.3, 0.5])
@pytest.mark.parametrize("aspects", [NO_ASPECTS, ASPECTS])
def test_adjacency_equals_dense_whole_and_dealt_to_blocks(aspects, exponent, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = [EDGES, NUM_USERS, NUM_ITEMS]

    def found(partition: Partition | None = None) -> Tensor:
        sparse = normalized_adjacency(*given, partition, exponent, aspects)
        assert sparse.layout == torch.sparse_csr
        with monkeypatch.context() as patched:
            patched.setattr("xrec.graph.adjacency._EDGES_PER_PIECE", 3)
            kept = normalized_adjacency(*given, partition, exponent, aspects, "edges")
            patched.setattr("xrec.graph.adjacency._place", None)  # the file is there
            again = normalized_adjacency(*given, partition, exponent, aspects, "edges")
        parts = ("crow_indices", "col_indices", "values")
        for other in (kept, again):
            assert all(torch.equal(getattr(sparse, p)(), getattr(other, p)()) for p in parts)
        return sparse.to_dense()

    expected = dense_adjacency(aspects, exponent)
    torch.testing.assert_close(found(), expected)
    blocks = RowBlocks.deal(node_degrees(EDGES, NUM_USERS, NUM_ITEMS, aspects), 3)
    parts = torch.cat([found(Partition(blocks, rank)) for rank in range(3)])
    torch.testing.assert_close(parts[blocks.rows][:, blocks.rows], expected)
    empty = blocks.nodes == -1
    assert not parts[empty].any()
    assert not parts[:, empty].any()


def test_distinct_edges_are_in_order_and_each_once():
    edges = torch.tensor([[3, 0, 1, 0, 0, 3], [2, 1, 1, 0, 1, 2]])
    assert torch.equal(distinct_edges(edges, NUM_ITEMS), EDGES)


def test_node_degrees_count_edges_users_first():
    assert node_degrees(EDGES, 4, 4).tolist() == [2, 1, 0, 1, 1, 2, 1, 0]
    assert node_degrees(EDGES, 4, 4, ASPECTS).tolist() == [3, 1, 0, 2, 1, 3, 1, 0, 2, 0, 1]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[0, 4], [0, 0]], "user_index out of range, the first is 4; expected 0 to 3"),
        ([[0, -1], [0, 0]], "user_index out of range, the first is -1"),
        ([[0, 0], [0, 9]], "item_index out of range, the first is 9"),
        ([[], []], "no training interactions"),
    ],
)
def test_check_edges_refuses_none_and_those_out_of_range(edges, message):
    with pytest.raises(DataError, match=message):
        check_edges(torch.tensor(edges, dtype=torch.int64), 4, 4)
