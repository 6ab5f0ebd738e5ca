"""Vectors of new users and items: against numpy, against training, and with bad input."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xrec.config.data import SampleSource
from xrec.errors import DataError
from xrec.graph import (
    LightGCN,
    SampledSoftmax,
    batch_loss,
    epoch_batches,
    normalized_adjacency,
    spectral_embeddings,
)
from xrec.graph import fold_in as module
from xrec.graph.fold_in import FoldIn
from xrec.sample import generate_town

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


def test_fold_in_users_are_the_closed_form() -> None:
    users, items, edges = random_graph()
    # The first has fewer items than any trained user, the last has more.
    new = [[0], [3, 5, 7], list(range(NUM_ITEMS))]
    np.testing.assert_allclose(
        FoldIn.fit(users, items, edges).users(new),
        by_hand(users, items, lists_of(edges), new),
        rtol=2e-5,
        atol=2e-6,
    )


def test_fold_in_items_are_the_closed_form() -> None:
    users, items, edges = random_graph(1)
    new = [[1, 2], [4]]
    np.testing.assert_allclose(
        FoldIn.fit(users, items, edges).items(new),
        by_hand(items, users, lists_of(edges.flip(0)), new),
        rtol=2e-5,
        atol=2e-6,
    )


def test_fold_in_edges_and_lists_in_any_order_with_repeats_are_the_same() -> None:
    fold_in = FoldIn.fit(*random_graph())
    from_lists = fold_in.users([[2, 9, 4], [7]])
    assert torch.equal(from_lists, fold_in.users(torch.tensor([[1, 0, 0, 0, 1], [7, 4, 2, 9, 7]])))
    assert torch.equal(from_lists, fold_in.users([[9, 9, 4, 2], [7, 7]]))


def test_fold_in_unit_table_gives_unit_vectors() -> None:
    users, items, edges = random_graph()
    vectors = FoldIn.fit(F.normalize(users, dim=1), F.normalize(items, dim=1), edges).users(
        [[0], [1, 2, 3]]
    )
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_fold_in_recovers_a_planted_rule() -> None:
    """Each trained user is a rotation of its items' mean direction; so is a new user, nearly."""
    _, items, edges = random_graph()
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(5)))[0]

    def planted(indices: list[int]) -> Tensor:
        return F.normalize(F.normalize(items[indices], dim=1).mean(dim=0), dim=0) @ rotation

    users = torch.stack([planted(lists_of(edges).get(user, [0])) for user in range(NUM_USERS)])
    expected = torch.stack([planted([1, 2, 3]), planted([8])])
    assert (
        F.cosine_similarity(FoldIn.fit(users, items, edges).users([[1, 2, 3], [8]]), expected).min()
        > 0.9999
    )


def test_fold_in_fitted_on_a_part_is_fitted_on_evenly_spread_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, items, edges = random_graph()
    monkeypatch.setattr(module, "_MOST_FITTED", 10)
    lists = lists_of(edges)
    every_third = {row: lists[row] for row in list(lists)[::3]}
    np.testing.assert_allclose(
        FoldIn.fit(users, items, edges).users([[3, 5, 7]]),
        by_hand(users, items, every_third, [[3, 5, 7]]),
        rtol=2e-5,
        atol=2e-6,
    )


def test_fold_in_of_a_user_left_out_of_training_is_near_the_one_trained_with_it() -> None:
    """Two trainings end in tables that differ by a rotation, so the items are aligned first."""
    visits = torch.from_numpy(
        generate_town(
            SampleSource(kind="sample", num_users=300, num_items=80, interactions_per_user=20)
        ).visits
    )
    num_users, num_left_out = len(visits), 30
    edges = torch.stack([torch.arange(num_users).repeat_interleave(20), visits.flatten()])
    users, items = train(edges, num_users, 80)
    trained_without = train(edges[:, edges[0] >= num_left_out], num_users, 80)
    folded = FoldIn.fit(*trained_without, edges[:, edges[0] >= num_left_out]).users(
        visits[:num_left_out].tolist()
    )
    left, _, right = torch.linalg.svd(trained_without[1].T @ items)
    similarity = (
        F.normalize(folded @ left @ right, dim=1) @ F.normalize(users, dim=1).T
    )  # (30, 300)
    own = similarity[torch.arange(num_left_out), torch.arange(num_left_out)]
    kept = F.cosine_similarity(
        trained_without[0][num_left_out:] @ left @ right, users[num_left_out:]
    )
    # A user that is trained both times does not get equal vectors either. The bound is how much the
    # two trainings agree on those users.
    assert own.mean() > kept.mean() - 0.05
    # It is this user's vector: for most, at most 1 % of the other users are nearer.
    assert (similarity > own[:, None]).sum(dim=1).float().median() <= 3


def train(edges: Tensor, num_users: int, num_items: int) -> tuple[Tensor, Tensor]:
    """Return unit vectors after a spectral start and four epochs of sampled softmax, D = 16."""
    objective = SampledSoftmax(
        edges,
        num_items,
        temperature=0.15,
        similarity="cosine",
        num_negatives=64,
        in_batch_negatives=True,
    )
    start = spectral_embeddings(
        normalized_adjacency(edges, num_users, num_items, exponent=0.35), num_users, 16
    )
    model, adjacency = (
        LightGCN(start, num_users, 2),
        normalized_adjacency(edges, num_users, num_items),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(4):
        for batch in epoch_batches(
            edges, objective.negatives, steps_per_epoch=8, micro_batch_size=256, seed=0, epoch=epoch
        ):
            optimizer.zero_grad()
            batch_loss(*model(adjacency), batch, objective).backward()
            optimizer.step()
    with torch.no_grad():
        return objective.vectors(*model(adjacency))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fold_in: fold_in.users([[1], []]), "list 1 of 2 is empty"),
        (lambda fold_in: fold_in.users(torch.tensor([[0, 2], [1, 1]])), "user 1 of 3 has no item"),
        (
            lambda fold_in: fold_in.users([[1], [NUM_ITEMS]]),
            "item index 20 is out of range; expected 0 to 19",
        ),
        (lambda fold_in: fold_in.items([[-1]]), "user index -1 is out of range; expected 0 to 29"),
    ],
)
def test_fold_in_of_nothing_or_out_of_range_raises(
    call: Callable[[FoldIn], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(FoldIn.fit(*random_graph()))


def test_fold_in_of_a_broken_graph_raises() -> None:
    users, items, edges = random_graph()
    broken = users.clone()
    broken[7, 1] = torch.nan
    with pytest.raises(
        DataError, match="graph's users have 1 vectors with NaN or infinity, the first in row 7"
    ):
        FoldIn.fit(broken, items, edges)
    with pytest.raises(DataError, match="no training interactions"):
        FoldIn.fit(users, items, edges[:, :0])
    with pytest.raises(
        DataError, match="1 training interactions have a item_index out of range, the first is 20"
    ):
        FoldIn.fit(users, items, torch.cat([edges, torch.tensor([[0], [NUM_ITEMS]])], dim=1))
    with pytest.raises(DataError, match="no trained vector"):
        FoldIn.fit(torch.zeros(NUM_USERS, D), items, edges)
    with pytest.raises(ValueError, match="one length, saw 4 and 3"):
        FoldIn.fit(users, items[:, :3], edges)
