"""LightGCN, forward and backward, against dense matrices and against torch_geometric's own model."""

import pytest
import torch
from torch_geometric.nn import LightGCN as PyGLightGCN

from xrec.graph import LightGCN, normalized_adjacency

NUM_USERS, NUM_ITEMS, DIM = 5, 7, 4


@pytest.fixture
def edges() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    pairs = torch.randperm(NUM_USERS * NUM_ITEMS, generator=generator)[:12]
    return torch.stack([pairs // NUM_ITEMS, pairs % NUM_ITEMS])


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_lightgcn_forward_and_gradient_equal_dense(edges: torch.Tensor, num_layers: int) -> None:
    torch.manual_seed(0)
    model = LightGCN(NUM_USERS, NUM_ITEMS, DIM, num_layers)
    adjacency = normalized_adjacency(edges, NUM_USERS, NUM_ITEMS)
    weights = torch.randn(NUM_USERS + NUM_ITEMS, DIM)
    users, items = model(adjacency)
    (torch.cat([users, items]) * weights).sum().backward()

    table = model.embeddings.detach().clone().requires_grad_()
    a = adjacency.to_dense()
    mean = sum(torch.matrix_power(a, power) for power in range(num_layers + 1)) @ table / (num_layers + 1)
    (mean * weights).sum().backward()

    torch.testing.assert_close(torch.cat([users, items]), mean)
    torch.testing.assert_close(model.embeddings.grad, table.grad)


def test_lightgcn_vectors_equal_torch_geometric(edges: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = LightGCN(NUM_USERS, NUM_ITEMS, DIM, 2)
    theirs = PyGLightGCN(NUM_USERS + NUM_ITEMS, DIM, num_layers=2)
    theirs.embedding.weight.data.copy_(model.embeddings.data)
    one_way = torch.stack([edges[0], edges[1] + NUM_USERS])

    users, items = model(normalized_adjacency(edges, NUM_USERS, NUM_ITEMS))

    torch.testing.assert_close(torch.cat([users, items]), theirs.get_embedding(torch.cat([one_way, one_way.flip(0)], dim=1)))
