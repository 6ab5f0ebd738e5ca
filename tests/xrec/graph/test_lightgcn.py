"""LightGCN, forward and backward, against dense matrices."""

import pytest
import torch

from xrec.graph.adjacency import normalized_adjacency
from xrec.graph.lightgcn import LightGCN, random_embeddings
from xrec.graph.partition import Partition

NUM_USERS, NUM_ITEMS, DIM = 5, 7, 4


def new_model(num_layers: int) -> LightGCN:
    start = random_embeddings(Partition.whole(NUM_USERS + NUM_ITEMS), DIM, seed=0)
    return LightGCN(start, NUM_USERS, num_layers)


@pytest.fixture
def edges():
    generator = torch.Generator().manual_seed(3)
    pairs = torch.randperm(NUM_USERS * NUM_ITEMS, generator=generator)[:12]
    return torch.stack([pairs // NUM_ITEMS, pairs % NUM_ITEMS])


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_lightgcn_forward_and_gradient_equal_dense(edges, num_layers):
    torch.manual_seed(0)
    model = new_model(num_layers)
    adjacency = normalized_adjacency(edges, NUM_USERS, NUM_ITEMS)
    weights = torch.randn(NUM_USERS + NUM_ITEMS, DIM)
    vectors = model(adjacency)
    (vectors * weights).sum().backward()

    table = model.embeddings.detach().clone().requires_grad_()
    a = adjacency.to_dense()
    mean = (
        sum(torch.matrix_power(a, power) for power in range(num_layers + 1))
        @ table
        / (num_layers + 1)
    )
    (mean * weights).sum().backward()

    torch.testing.assert_close(vectors, mean)
    torch.testing.assert_close(model.embeddings.grad, table.grad)


def test_random_embeddings_same_seed_is_equal_and_has_the_standard_deviation():
    partition = Partition.whole(70_000)  # more than one draw
    first, again, other = (random_embeddings(partition, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.std()) == pytest.approx(0.1, rel=0.01)
    assert not torch.equal(first[:4464], first[65_536:])
