"""Vectors of new users: against numpy, and with bad input."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.graph.fold_in import FoldIn

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
    """The module's equations, one user at a time.

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


def test_fold_in_is_the_closed_form():
    users, items, edges = random_graph()
    fold_in = FoldIn.of(users, items, edges)
    # The first has fewer items than any trained user, the last has more.
    new = [[0], [3, 5, 7], list(range(NUM_ITEMS))]
    found = torch.stack([fold_in.vector(torch.tensor(list_)) for list_ in new])
    expected = by_hand(users, items, lists_of(edges), new)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_fold_in_fitted_on_a_part_is_fitted_on_evenly_spread_rows(monkeypatch):
    users, items, edges = random_graph()
    monkeypatch.setattr("xrec.graph.fold_in._MOST_FITTED", 10)
    lists = lists_of(edges)
    every_third = {row: lists[row] for row in list(lists)[::3]}
    np.testing.assert_allclose(
        FoldIn.of(users, items, edges).vector(torch.tensor([3, 5, 7])),
        by_hand(users, items, every_third, [[3, 5, 7]])[0],
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
        FoldIn.of(users, ITEMS, edges)
