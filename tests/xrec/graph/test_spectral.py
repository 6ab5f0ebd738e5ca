"""The start and the blend of vectors, against scipy's and numpy's exact decompositions."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from torch import Tensor

from xrec.graph.adjacency import normalized_adjacency
from xrec.graph.aspects import AspectEdges
from xrec.graph.blend import blend, score_norm, settled, turned_onto
from xrec.graph.partition import Partition
from xrec.graph.spectral import spectral_embeddings, truncated_eigenvectors, truncated_svd

NUM_USERS, NUM_ITEMS, NUM_ASPECTS, RANK, EXPONENT = 90, 70, 20, 8, 0.35
MANY = 20  # iterations, so that nothing is left to chance


@pytest.fixture(scope="module")
def edges():
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
def aspects():
    """Words that users and items of a taste share, and a few others."""
    rng = np.random.default_rng(0)
    taste = np.concatenate([np.arange(NUM_USERS) // 9, np.arange(NUM_ITEMS) // 7])
    says = rng.random((len(taste), NUM_ASPECTS)) < 0.05 + 0.5 * (
        taste[:, None] == np.arange(NUM_ASPECTS) // 2
    )
    nodes, words = says.nonzero()
    weights = rng.random(len(nodes)).astype(np.float32)
    return AspectEdges(*map(torch.from_numpy, (nodes, words, weights)), NUM_ASPECTS)


@pytest.fixture(scope="module")
def adjacency(edges):
    return normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, exponent=EXPONENT)


def exact_svd(edges: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    users, items = edges.numpy()
    weights = np.bincount(users)[users] ** -EXPONENT * np.bincount(items)[items] ** -EXPONENT
    u, s, vt = svds(csr_matrix((weights, (users, items)), shape=(NUM_USERS, NUM_ITEMS)), k=RANK)
    order = np.argsort(-s)
    return u[:, order], s[order], vt[order].T


def decompose(function: Any, matrix: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    partition = Partition.whole(matrix.shape[0])
    found: tuple[Tensor, Tensor] = function(
        matrix, NUM_USERS, RANK, seed=seed, partition=partition, num_iterations=MANY
    )
    return found


def test_truncated_svd_equals_scipy_with_the_largest_entry_of_each_item_vector_positive(
    edges, adjacency
):
    vectors, values = decompose(truncated_svd, adjacency)
    u, s, v = exact_svd(edges)
    signs = np.sign(np.take_along_axis(v, np.abs(v).argmax(axis=0)[None], axis=0))
    np.testing.assert_allclose(values, s, rtol=1e-4)
    np.testing.assert_allclose(vectors, np.concatenate([u, v]) * signs, atol=2e-3)
    other, _ = decompose(truncated_svd, adjacency, seed=1)
    torch.testing.assert_close(vectors, other, atol=2e-3, rtol=0)


def test_truncated_eigenvectors_are_numpys_and_without_aspects_the_singular_vectors(
    edges, aspects, adjacency
):
    matrix = normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, exponent=0.25, aspects=aspects)
    vectors, values = decompose(truncated_eigenvectors, matrix)
    exact_values, exact = np.linalg.eigh(matrix.to_dense().double().numpy())
    np.testing.assert_allclose(values, exact_values[::-1][:RANK], rtol=1e-4)
    expected = exact[:, ::-1][:, :RANK]
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-3)

    vectors, values = decompose(truncated_eigenvectors, adjacency)
    singular, singular_values = decompose(truncated_svd, adjacency)
    torch.testing.assert_close(values, singular_values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vectors * 2**0.5, singular, rtol=1e-2, atol=2e-3)


def test_spectral_embeddings_are_weighted_svd_with_standard_deviation(edges, adjacency):
    embeddings = spectral_embeddings(adjacency, NUM_USERS, RANK, num_iterations=MANY)
    _, s, _ = exact_svd(edges)
    connected = torch.ones(NUM_USERS + NUM_ITEMS, dtype=torch.bool)
    connected[[11, NUM_USERS + 13]] = False
    squared_lengths = embeddings[:NUM_USERS][connected[:NUM_USERS]].square().sum(dim=0)
    np.testing.assert_allclose(squared_lengths / squared_lengths[0], (s / s[0]) ** 1.5, rtol=1e-3)
    known = torch.where(connected.unsqueeze(1), embeddings, 0)
    assert float(known.std()) == pytest.approx(0.1, rel=1e-3)
    # Nodes without edges have no spectral value. They get a small random one, which training moves.
    assert (embeddings[~connected].abs() > 0).all()
    assert embeddings[~connected].abs().max() < 0.05


@pytest.mark.parametrize("dim", [5, 40])
def test_spectral_embeddings_more_dimensions_than_rank_fill_the_rest_at_random(dim):
    # Three blocks of ones: a matrix of rank 3.
    edges = torch.tensor([(u, i) for u in range(20) for i in range(15) if u % 3 == i % 3]).T
    embeddings = spectral_embeddings(normalized_adjacency(edges, 20, 15), 20, dim)
    scales = embeddings.square().mean(dim=0).sqrt()
    assert embeddings.isfinite().all()
    assert (scales[:3] > 0.05).all()
    assert ((scales[3:] > 0.003) & (scales[3:] < 0.03)).all()
    users = embeddings[:20, :3]
    torch.testing.assert_close(users[0], users[3], atol=1e-4, rtol=0)


# Blends

FEW_USERS, FEW_ITEMS, DIM = 23, 17, 4
ALONE = Partition.whole(FEW_USERS + FEW_ITEMS)


def model(seed: int) -> tuple[Tensor, Tensor]:
    rows = torch.randn(FEW_USERS + FEW_ITEMS, DIM, generator=torch.Generator().manual_seed(seed))
    return rows[:FEW_USERS], rows[FEW_USERS:]


def scores(vectors: tuple[Tensor, Tensor]) -> Tensor:
    return vectors[0] @ vectors[1].T


@pytest.mark.parametrize("weight", [0.2, 3.0])
def test_blend_is_the_nearest_matrix_of_the_rank_to_the_weighted_sum(weight):
    trained, start = scores(model(0)).double().numpy(), scores(model(1)).double().numpy()
    u, s, vt = np.linalg.svd(
        trained + weight * np.linalg.norm(trained) / np.linalg.norm(start) * start
    )
    users, items = blend(model(0), model(1), weight, ALONE)
    assert users.shape == (FEW_USERS, DIM)
    assert items.shape == (FEW_ITEMS, DIM)
    np.testing.assert_allclose(
        scores((users, items)).numpy(), (u[:, :DIM] * s[:DIM]) @ vt[:DIM], rtol=1e-4, atol=1e-4
    )
    # Both sides get the square root of each singular value.
    np.testing.assert_allclose(torch.linalg.norm(users, dim=0).numpy(), s[:DIM] ** 0.5, rtol=1e-4)
    assert (items.gather(0, items.abs().argmax(dim=0, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("num_users", "num_items"), [(9, 3), (3, 9), (2, 2)])
def test_blend_of_fewer_users_or_items_than_dimensions_keeps_the_dimensions(num_users, num_items):
    trained, start = (
        (users[:num_users], items[:num_items]) for users, items in (model(0), model(1))
    )
    found = blend(trained, start, 0.2, ALONE)
    assert [table.shape for table in found] == [(num_users, DIM), (num_items, DIM)]
    weight = 0.2 * score_norm(trained, ALONE) / score_norm(start, ALONE)
    expected = scores(trained) + weight * scores(start)
    torch.testing.assert_close(scores(found), expected, rtol=1e-3, atol=1e-4)


def test_settled_keeps_what_moved_little_after_the_rotation_and_moves_the_others():
    generator = torch.Generator().manual_seed(0)
    earlier = torch.randn(400, 6, generator=generator)
    earlier[7] = 0  # without a vector then
    moves = torch.randn(400, 6, generator=generator) * 1e-3
    moves[[3, 5, 7]] = 2.0
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    found = settled((earlier + moves) @ rotation, earlier, 0.05)
    assert (found != earlier).any(dim=1).nonzero().flatten().tolist() == [3, 5, 7]
    assert torch.allclose(found, earlier + moves, atol=0.15)
    assert not (settled(earlier @ rotation, earlier, 0.0) == earlier).all()


def test_turned_onto_undoes_a_rotation_and_changes_no_score():
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(40, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    other = whole @ rotation + 0.01 * torch.randn(40, 8, generator=generator)
    turned = turned_onto(other, whole)
    assert torch.allclose(turned, whole, atol=0.1)
    assert torch.allclose(turned @ turned.T, other @ other.T, atol=1e-4)
