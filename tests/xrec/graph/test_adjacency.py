"""The sparse adjacency against dense matrices; its row blocks; aspects as nodes."""

import math

import pytest
import torch
from torch import Tensor

from tests.errors import raises
from xrec.errors import DataError
from xrec.graph.adjacency import check_edges, distinct_edges, node_degrees, normalized_adjacency
from xrec.graph.aspects import NO_ASPECTS, AspectEdges, aspect_edges
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
        how = (partition, exponent, aspects, "edges")
        kept = normalized_adjacency(*given, *how, edges_per_piece=3)
        again = normalized_adjacency(EDGES[:, :1], *given[1:], *how)  # the file is there
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


@pytest.mark.parametrize(
    ("edges", "code", "key", "saw"),
    [
        ([[0, 4], [0, 0]], "index_out_of_range", "user_index", 4),
        ([[0, -1], [0, 0]], "index_out_of_range", "user_index", -1),
        ([[0, 0], [0, 9]], "index_out_of_range", "item_index", 9),
        ([[], []], "no_edges", "training interactions", None),
    ],
)
def test_check_edges_refuses_empty_and_out_of_range_edges(edges, code, key, saw):
    with raises(DataError, code, key, saw):
        check_edges(torch.tensor(edges, dtype=torch.int64), 4, 4)


# Row blocks


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 7])
def test_row_blocks_hold_each_node_once_in_order_with_empty_rows_last(num_blocks):
    degrees = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(1))
    blocks = RowBlocks.deal(degrees, num_blocks)
    assert len(blocks.nodes) == num_blocks * blocks.block_size == num_blocks * -(-30 // num_blocks)
    assert torch.equal(blocks.nodes[blocks.rows], torch.arange(30))
    assert int((blocks.nodes == -1).sum()) == len(blocks.nodes) - 30
    for rank in range(num_blocks):
        ids = blocks.node_ids(rank).tolist()
        real = [node for node in ids if node >= 0]
        assert ids == sorted(real) + [-1] * (len(ids) - len(real))


# Aspects


def test_aspect_edges_weigh_rare_aspects_more():
    of_items = [(0, 0, 1), (1, 0, 3), (1, 4, 1), (0, 2, 1), (1, 2, 1), (2, 2, 1)]
    edges = aspect_edges(
        torch.tensor([(3, 4, 2), (0, 0, 1)]).T,
        torch.tensor(of_items).T,
        num_users=4,
        num_items=3,
        num_aspects=5,
    )
    names = zip(edges.nodes.tolist(), edges.aspects.tolist(), strict=True)
    common, rare = math.log(4 / 3), math.log(4 / 2)  # of 3 items, 2 have aspect 0 and 1 aspect 4
    assert dict(zip(names, edges.weights.tolist(), strict=True)) == pytest.approx(
        {
            (3, 4): math.log(3) * rare,
            (0, 0): math.log(2) * common,
            (4 + 0, 0): math.log(2) * common,
            (4 + 1, 0): math.log(4) * common,
            (4 + 1, 4): math.log(2) * rare,
        },  # and aspect 2, which all items have, connects nobody
        rel=1e-6,
    )
