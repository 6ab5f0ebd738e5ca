"""Vectors of new users and items: against numpy, against training, and with bad input.

A dataset with new users and items keeps its known vectors bit-equal.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tests.xrec.data.test_dataset import write_small_dataset
from xrec.data.cold_start import ColdStartTables
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.fold_in import FoldIn, extend_with_new
from xrec.graph.ranking import SeenItems, top_k_items
from xrec.storage import open_location

NUM_USERS, NUM_ITEMS, D = 30, 20, 4


def random_graph(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return users (30, 4) and items (20, 4) of all lengths, and edges.

    The last user and the last item have no edges.
    """
    generator = torch.Generator().manual_seed(seed)
    edges = (torch.rand(NUM_USERS - 1, NUM_ITEMS - 1, generator=generator) < 0.3).nonzero().T
    return (
        torch.randn(NUM_USERS, D, generator=generator),
        torch.randn(NUM_ITEMS, D, generator=generator),
        edges,
    )


USERS, ITEMS, EDGES = random_graph()


def unit(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(
    table: Tensor, neighbours: Tensor, lists: dict[int, list[int]], new: list[list[int]]
) -> npt.NDArray[np.float64]:
    """The module's equations, one entity at a time.

    The ridge is least squares with added rows for the penalty; the length comes from polyfit.
    """
    t, n = table.numpy().astype(float), unit(neighbours.numpy().astype(float))
    z = np.stack([unit(n[list_].mean(axis=0)) for list_ in lists.values()])
    target = unit(t[list(lists)])
    penalty = np.sqrt(1e-3 * np.trace(z.T @ z) / D) * np.eye(D)
    weight = np.linalg.lstsq(
        np.vstack([z, penalty]), np.vstack([target, np.zeros((D, D))]), rcond=None
    )[0]
    degrees = np.log([len(list_) for list_ in lists.values()])
    slope, intercept = np.polyfit(degrees, np.log(np.linalg.norm(t[list(lists)], axis=1)), 1)
    lengths = [
        np.exp(intercept + slope * np.clip(np.log(len(list_)), degrees.min(), degrees.max()))
        for list_ in new
    ]
    return np.stack(
        [
            length * unit(unit(n[list_].mean(axis=0)) @ weight)
            for list_, length in zip(new, lengths, strict=True)
        ]
    )


def lists_of(edges: Tensor) -> dict[int, list[int]]:
    return {row: edges[1][edges[0] == row].tolist() for row in edges[0].unique().tolist()}


def edges_of(lists: list[list[int]]) -> Tensor:
    """Return edges from the number of each list to what is in it."""
    return torch.tensor([(row, other) for row, list_ in enumerate(lists) for other in list_]).T


@pytest.mark.parametrize("side", ["users", "items"])
def test_fold_in_is_the_closed_form(side):
    users, items, edges = random_graph()
    fold_in = getattr(FoldIn, f"of_{side}")(users, items, edges)
    if side == "items":
        users, items, edges = items, users, edges.flip(0)
    # The first has fewer neighbours than any trained one, the last has more.
    new = [[0], [3, 5, 7], list(range(NUM_ITEMS))]
    found = fold_in.vectors(edges_of(new))
    expected = by_hand(users, items, lists_of(edges), new)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_fold_in_edges_in_any_order_with_repeats_are_the_same():
    fold_in = FoldIn.of_users(*random_graph())
    expected = fold_in.vectors(edges_of([[2, 4, 9], [7]]))
    for edges in (torch.tensor([[1, 0, 0, 0, 1], [7, 4, 2, 9, 7]]), edges_of([[9, 9, 4, 2], [7]])):
        assert torch.equal(fold_in.vectors(edges), expected)


def test_fold_in_fitted_on_a_part_is_fitted_on_evenly_spread_rows(monkeypatch):
    users, items, edges = random_graph()
    monkeypatch.setattr("xrec.graph.fold_in._MOST_FITTED", 10)
    lists = lists_of(edges)
    every_third = {row: lists[row] for row in list(lists)[::3]}
    np.testing.assert_allclose(
        FoldIn.of_users(users, items, edges).vectors(edges_of([[3, 5, 7]])),
        by_hand(users, items, every_third, [[3, 5, 7]]),
        rtol=2e-5,
        atol=2e-6,
    )


@pytest.mark.parametrize(
    ("users", "edges", "message"),
    [
        (USERS.index_put((torch.tensor(7),), torch.tensor(torch.nan)), EDGES, "user_index 7"),
        (USERS, EDGES[:, :0], "no training interactions"),
        (USERS, torch.tensor([[0], [NUM_ITEMS]]), "item_index out of range, the first is 20"),
        (USERS * 0, EDGES, "no trained vector"),
    ],
)
def test_fold_in_of_a_broken_graph_is_refused(users, edges, message):
    with pytest.raises(DataError, match=message):
        FoldIn.of_users(users, ITEMS, edges)


# New users and items of a dataset


@pytest.fixture
def town(tmp_path):
    """3 users, 2 items; train: ann-x, anna-lena-y."""
    dataset = write_small_dataset(open_location(str(tmp_path / "dataset")))
    users, items, _ = random_graph()
    return dataset, GraphEmbeddings(users[:3], items[:2], dataset.manifest)


def tables(*pairs: tuple[str, str]) -> ColdStartTables:
    names = ("user_id", "item_id", "title", "profile")
    empty = pa.table({name: pa.array([], pa.string()) for name in names})
    columns = zip(("user_id", "item_id"), zip(*pairs, strict=True), strict=True)
    interactions = pa.table({name: pa.array(values, pa.string()) for name, values in columns})
    return ColdStartTables(
        interactions,
        empty.select(["user_id", "profile"]),
        empty.select(["item_id", "title", "profile"]),
        {},
    )


def test_extend_keeps_known_vectors_and_indices_and_folds_new_ones_in(town):
    dataset, graph = town
    extended, vectors = extend_with_new(
        dataset, graph, tables(("zoe", "y"), ("eve", "x"), ("eve", "y"), ("anna-lena", "new"))
    )
    assert (extended.num_users, extended.num_items) == (5, 3)
    assert torch.equal(vectors.users[:3], graph.users)
    assert torch.equal(vectors.items[:2], graph.items)
    trained = (graph.users, graph.items, torch.tensor([[0, 2], [0, 1]]))
    of_users, of_items = FoldIn.of_users(*trained), FoldIn.of_items(*trained)
    new = {extended.user_index("eve"): [0, 1], extended.user_index("zoe"): [1]}
    for user, items in new.items():
        torch.testing.assert_close(vectors.users[[user]], of_users.vectors(edges_of([items])))
    new_item = vectors.items[[extended.item_index("new")]]
    torch.testing.assert_close(new_item, of_items.vectors(edges_of([[2]])))
    assert vectors.manifest == graph.manifest
    for user_id in ("ann", "bob", "anna-lena"):
        assert extended.user_index(user_id) == dataset.user_index(user_id)
    for item_id in ("x", "y"):
        assert extended.item_index(item_id) == dataset.item_index(item_id)


def test_extend_histories_are_not_recommended(town):
    """eve has x and the new item, so only y is left for her; zoe has y."""
    extended, vectors = extend_with_new(
        *town, tables(("eve", "x"), ("eve", "new"), ("ann", "new"), ("zoe", "y"))
    )
    users = torch.tensor([extended.user_index(name) for name in ("eve", "zoe", "ann")])
    seen = SeenItems(torch.from_numpy(extended.interaction_edges("train")))
    ((_, items, _),) = top_k_items(vectors.users, vectors.items, seen, users, 3)
    assert items[0].tolist() == [1, -1, -1]
    assert sorted(items[1].tolist()) == [-1, 0, 2]
    assert items[2].tolist() == [1, -1, -1]


def test_extend_by_items_only_or_by_nothing_usable_leaves_the_users(town):
    _, vectors = extend_with_new(*town, tables(("ann", "new")))
    assert torch.equal(vectors.users, town[1].users)
    assert len(vectors.items) == 3
    extended, vectors = extend_with_new(*town, tables(("eve", "new")))
    assert vectors is town[1]
    assert extended.users.equals(town[0].users)
