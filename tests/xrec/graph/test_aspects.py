"""Aspects as nodes: their edges, the adjacency and its eigenvectors, against dense matrices."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from xrec import schemas
from xrec.config.graph import AspectNodesConfig
from xrec.data import Dataset
from xrec.errors import DataError
from xrec.graph import (
    NO_ASPECTS,
    AspectCounts,
    AspectEdges,
    Partition,
    RowBlocks,
    aspect_edges,
    dataset_aspect_edges,
    node_degrees,
    normalized_adjacency,
    spectral_embeddings,
    truncated_eigenvectors,
    truncated_svd,
)
from xrec.storage import Manifest

NUM_USERS, NUM_ITEMS, NUM_ASPECTS = 4, 3, 5
EDGES = torch.tensor([[0, 0, 1, 0, 3], [1, 0, 1, 1, 2]])


def counts(rows: list[tuple[int, int, int]]) -> AspectCounts:
    return AspectCounts(*torch.tensor(rows).T)


@pytest.fixture
def edges() -> AspectEdges:
    """Item 0 and 1 have aspect 0; item 1 has aspect 4 too; user 3 mentions aspect 4 twice."""
    return aspect_edges(
        counts([(3, 4, 2), (0, 0, 1)]),
        counts([(0, 0, 1), (1, 0, 3), (1, 4, 1)]),
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        num_aspects=NUM_ASPECTS,
        user_factor=0.5,
        item_factor=2.0,
    )


def dense(edges: AspectEdges, exponent: float) -> Tensor:
    num_nodes = NUM_USERS + NUM_ITEMS + NUM_ASPECTS
    a = torch.zeros(num_nodes, num_nodes)
    for user, item in EDGES.T.tolist():
        a[user, NUM_USERS + item] = a[NUM_USERS + item, user] = 1.0
    for node, aspect, weight in zip(
        edges.nodes.tolist(), edges.aspects.tolist(), edges.weights.tolist(), strict=True
    ):
        column = NUM_USERS + NUM_ITEMS + aspect
        a[node, column] = a[column, node] = weight
    scale = torch.diag(
        torch.tensor([d**-exponent if d else 0.0 for d in a.sum(dim=1).double().tolist()])
    )
    return (scale.double() @ a.double() @ scale.double()).float()


def test_aspect_edges_weigh_counts_by_how_few_items_have_the_aspect(edges: AspectEdges) -> None:
    found = {
        (node, aspect): weight
        for node, aspect, weight in zip(
            edges.nodes.tolist(), edges.aspects.tolist(), edges.weights.tolist(), strict=True
        )
    }
    common, rare = math.log(4 / 3), math.log(4 / 2)  # of 3 items, 2 have aspect 0 and 1 aspect 4
    assert found == pytest.approx(
        {
            (3, 4): 0.5 * math.log(3) * rare,
            (0, 0): 0.5 * math.log(2) * common,
            (NUM_USERS + 0, 0): 2 * math.log(2) * common,
            (NUM_USERS + 1, 0): 2 * math.log(4) * common,
            (NUM_USERS + 1, 4): 2 * math.log(2) * rare,
        },
        rel=1e-6,
    )


def test_aspect_edges_without_users_words_have_items_only() -> None:
    found = aspect_edges(
        counts([(3, 4, 2)]),
        counts([(0, 0, 1)]),
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        num_aspects=NUM_ASPECTS,
        user_factor=0.0,
        item_factor=1.0,
    )
    assert found.nodes.tolist() == [NUM_USERS]


@pytest.mark.parametrize("exponent", [0.25, 0.5])
def test_adjacency_with_aspects_equals_dense(edges: AspectEdges, exponent: float) -> None:
    found = normalized_adjacency(EDGES, NUM_USERS, NUM_ITEMS, exponent=exponent, aspects=edges)
    torch.testing.assert_close(found.to_dense(), dense(edges, exponent))


def test_adjacency_of_blocks_with_aspects_is_the_whole_one_dealt(edges: AspectEdges) -> None:
    degrees = node_degrees(EDGES, NUM_USERS, NUM_ITEMS, edges)
    assert degrees.tolist() == [3, 1, 0, 2, 2, 4, 1, 3, 0, 0, 0, 2]
    blocks, whole = RowBlocks.deal(degrees, 2), dense(edges, 0.5)
    nodes = blocks.nodes.clamp(min=0)
    expected = whole[nodes][:, nodes]
    found = torch.cat(
        [
            normalized_adjacency(
                EDGES, NUM_USERS, NUM_ITEMS, Partition(blocks, rank), aspects=edges
            ).to_dense()
            for rank in range(2)
        ]
    )
    torch.testing.assert_close(found, expected)


def _random_town() -> tuple[Tensor, AspectEdges, int, int]:
    rng = np.random.default_rng(0)
    num_users, num_items, num_aspects = 60, 40, 20
    # Groups of nodes that belong together, so that the leading eigenvalues are apart.
    likes = rng.random((num_users, num_items)) < 0.02 + 0.5 * (
        np.arange(num_users)[:, None] // 12 == np.arange(num_items) // 8
    )
    says = rng.integers(0, 4, (num_users + num_items, num_aspects)) * (
        rng.random((num_users + num_items, num_aspects)) < 0.15
    )
    nodes, aspects = says.nonzero()
    edges = AspectEdges(
        *map(torch.from_numpy, (nodes, aspects, says[nodes, aspects].astype(np.float32))),
        num_aspects,
    )
    return torch.from_numpy(np.stack(likes.nonzero())), edges, num_users, num_items


def _decompose(function: Any, matrix: Tensor, num_users: int, rank: int) -> tuple[Tensor, Tensor]:
    partition = Partition.whole(matrix.shape[0])
    found: tuple[Tensor, Tensor] = function(
        matrix, num_users, rank, num_iterations=20, oversampling=10, seed=0, partition=partition
    )
    return found


def test_truncated_eigenvectors_equal_numpys_of_the_largest_eigenvalues() -> None:
    edges, aspects, num_users, num_items = _random_town()
    matrix = normalized_adjacency(edges, num_users, num_items, exponent=0.25, aspects=aspects)
    vectors, values = _decompose(truncated_eigenvectors, matrix, num_users, 6)
    exact_values, exact = np.linalg.eigh(matrix.to_dense().double().numpy())
    np.testing.assert_allclose(values, exact_values[::-1][:6], rtol=1e-4)
    expected = exact[:, ::-1][:, :6]
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-3)


def test_truncated_eigenvectors_without_aspects_are_the_singular_vectors() -> None:
    edges, _, num_users, num_items = _random_town()
    matrix = normalized_adjacency(edges, num_users, num_items, exponent=0.35)
    vectors, values = _decompose(truncated_eigenvectors, matrix, num_users, 5)
    singular, singular_values = _decompose(truncated_svd, matrix, num_users, 5)
    torch.testing.assert_close(values, singular_values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vectors * 2**0.5, singular, rtol=1e-2, atol=1e-3)


def test_spectral_embeddings_with_aspects_have_a_row_for_each_node() -> None:
    edges, aspects, num_users, num_items = _random_town()
    matrix = normalized_adjacency(edges, num_users, num_items, aspects=aspects)
    found = spectral_embeddings(matrix, num_users, 8, num_aspects=aspects.num_aspects)
    assert found.shape == (num_users + num_items + aspects.num_aspects, 8)
    assert float(found.std()) == pytest.approx(0.1, rel=0.2)


def dataset(**tables: pa.Table) -> Dataset:
    empty = pa.table({"user_id": [], "item_id": []})
    return Dataset(
        Manifest.model_construct(),
        users=pa.table({"user_id": ["a", "b"]}),
        items=pa.table({"item_id": ["x", "y", "z"]}),
        interactions=empty,
        explanations=empty,
        **tables,
    )


def counted(first: str, rows: list[tuple[int, int, int, int, int]]) -> pa.Table:
    schema = schemas.USER_ASPECTS if first == "user_index" else schemas.ITEM_ASPECTS
    names = [first, "aspect_index", "num_reviews", "num_positive", "num_negative"]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return pa.table(columns).select(schema.names).cast(schema)


@pytest.mark.parametrize(
    ("sentiment", "expected"),
    [("all", [(0, 1), (1, 0), (2, 1)]), ("positive", [(1, 0)]), ("not_negative", [(0, 1), (1, 0)])],
)
def test_dataset_aspect_edges_count_the_mentions_of_the_sentiment(
    sentiment: str, expected: list[tuple[int, int]]
) -> None:
    aspects = pa.table(
        {
            "aspect_index": [0, 1],
            "aspect": ["tone", "neck"],
            "num_reviews": [3, 3],
            "num_positive": [1, 1],
            "num_negative": [0, 1],
        }
    )
    found = dataset_aspect_edges(
        dataset(
            aspects=aspects,
            user_aspects=counted("user_index", [(0, 1, 1, 0, 0), (1, 0, 2, 2, 0)]),
            item_aspects=counted("item_index", [(0, 1, 2, 0, 2)]),
        ),
        AspectNodesConfig(sentiment=sentiment),  # type: ignore[arg-type]
    )
    assert list(zip(found.nodes.tolist(), found.aspects.tolist(), strict=True)) == expected
    assert found.num_aspects == 2


def test_dataset_whose_counts_name_other_aspects_is_refused() -> None:
    with pytest.raises(DataError, match=r"item_aspects: 1 rows .* the first is 7; expected 0 to 0"):
        dataset_aspect_edges(
            dataset(
                aspects=pa.table({"aspect": ["tone"]}),
                user_aspects=counted("user_index", [(0, 0, 1, 0, 0)]),
                item_aspects=counted("item_index", [(0, 7, 1, 0, 0), (1, 0, 1, 0, 0)]),
            ),
            AspectNodesConfig(),
        )


def test_dataset_without_aspects_is_refused_unless_none_are_wanted() -> None:
    assert dataset_aspect_edges(dataset(), None) is NO_ASPECTS
    with pytest.raises(DataError, match=r"has no aspects.*model\.aspects=null"):
        dataset_aspect_edges(dataset(), AspectNodesConfig())
