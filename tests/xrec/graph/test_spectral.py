"""The randomized SVD against scipy's exact one."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from xrec.graph import Partition, normalized_adjacency, spectral_embeddings, truncated_svd

NUM_USERS, NUM_ITEMS, RANK, EXPONENT = 90, 70, 8, 0.35


@pytest.fixture(scope="module")
def edges() -> torch.Tensor:
    """Ten tastes of different strength, so that the leading singular values differ clearly.

    User 11 and item 13 have no edges.
    """
    rng = np.random.default_rng(0)
    chance = 0.03 + 0.9 * (
        (np.arange(NUM_USERS)[:, None] // 9 == np.arange(NUM_ITEMS) // 7)
        * np.linspace(1, 0.2, 10)[np.arange(NUM_ITEMS) // 7]
    )
    likes = rng.random((NUM_USERS, NUM_ITEMS)) < chance
    likes[11], likes[:, 13] = False, False
    return torch.from_numpy(np.stack(likes.nonzero()))


@pytest.fixture(scope="module")
def adjacency(edges: torch.Tensor) -> torch.Tensor:
    return normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, exponent=EXPONENT)


def exact_svd(edges: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    users, items = edges.numpy()
    weights = np.bincount(users)[users] ** -EXPONENT * np.bincount(items)[items] ** -EXPONENT
    u, s, vt = svds(csr_matrix((weights, (users, items)), shape=(NUM_USERS, NUM_ITEMS)), k=RANK)
    order = np.argsort(-s)
    return u[:, order], s[order], vt[order].T


def svd(
    adjacency: torch.Tensor, rank: int = RANK, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    partition = Partition.whole(NUM_USERS + NUM_ITEMS)
    return truncated_svd(
        adjacency,
        NUM_USERS,
        rank,
        num_iterations=20,
        oversampling=10,
        seed=seed,
        partition=partition,
    )


def test_truncated_svd_equals_scipy_up_to_sign(
    edges: torch.Tensor, adjacency: torch.Tensor
) -> None:
    vectors, values = svd(adjacency)
    u, s, v = exact_svd(edges)
    np.testing.assert_allclose(values, s, rtol=1e-4)
    np.testing.assert_allclose(
        (vectors[:NUM_USERS] * values) @ vectors[NUM_USERS:].T, (u * s) @ v.T, atol=1e-4
    )
    for ours, theirs in ((vectors[:NUM_USERS].numpy(), u), (vectors[NUM_USERS:].numpy(), v)):
        np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-4)
        np.testing.assert_allclose(np.abs(np.diag(ours.T @ theirs)), 1, atol=1e-3)


def test_truncated_svd_largest_entry_of_each_item_vector_is_positive(
    adjacency: torch.Tensor,
) -> None:
    items = svd(adjacency)[0][NUM_USERS:]
    assert (items.max(dim=0).values == items.abs().max(dim=0).values).all()


def test_truncated_svd_same_seed_is_equal_and_another_seed_agrees(adjacency: torch.Tensor) -> None:
    (first, _), (again, _), (other, _) = svd(adjacency), svd(adjacency), svd(adjacency, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first, other, atol=2e-3, rtol=0)


def test_spectral_embeddings_are_weighted_svd_with_standard_deviation(
    edges: torch.Tensor, adjacency: torch.Tensor
) -> None:
    embeddings = spectral_embeddings(
        adjacency, NUM_USERS, RANK, singular_value_power=1.5, num_iterations=20
    )
    _, s, _ = exact_svd(edges)
    connected = torch.ones(NUM_USERS + NUM_ITEMS, dtype=torch.bool)
    connected[[11, NUM_USERS + 13]] = False
    squared_lengths = embeddings[:NUM_USERS][connected[:NUM_USERS]].square().sum(dim=0)
    np.testing.assert_allclose(squared_lengths / squared_lengths[0], (s / s[0]) ** 1.5, rtol=1e-3)
    assert float(torch.where(connected.unsqueeze(1), embeddings, 0).std()) == pytest.approx(
        0.1, rel=1e-3
    )
    # Nodes without edges have no spectral value. They get a small random one, which training moves.
    assert (embeddings[~connected].abs() > 0).all()
    assert embeddings[~connected].abs().max() < 0.05


@pytest.mark.parametrize("dim", [5, 40])
def test_spectral_embeddings_more_dimensions_than_rank_fill_the_rest_at_random(dim: int) -> None:
    # Three blocks of ones: a matrix of rank 3.
    edges = torch.tensor([(u, i) for u in range(20) for i in range(15) if u % 3 == i % 3]).T
    embeddings = spectral_embeddings(normalized_adjacency(edges, 20, 15), 20, dim)
    scales = embeddings.square().mean(dim=0).sqrt()
    assert embeddings.isfinite().all()
    assert (scales[:3] > 0.05).all()
    assert ((scales[3:] > 0.003) & (scales[3:] < 0.03)).all()
    users = embeddings[:20, :3]
    torch.testing.assert_close(users[0], users[3], atol=1e-4, rtol=0)


def test_spectral_embeddings_of_many_nodes_make_no_dense_matrix() -> None:
    num_nodes = 300_000  # squared, in float32: 360 GB
    edges = torch.randint(num_nodes // 2, (2, 400_000), generator=torch.Generator().manual_seed(0))
    adjacency = normalized_adjacency(edges, num_nodes // 2, num_nodes // 2)
    embeddings = spectral_embeddings(adjacency, num_nodes // 2, 4, num_iterations=1, oversampling=2)
    assert embeddings.shape == (num_nodes, 4)
    assert embeddings.isfinite().all()
