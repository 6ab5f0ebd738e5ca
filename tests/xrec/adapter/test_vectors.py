"""The vectors that adapters read: the graph's, or substitutes that do not depend on the graph."""

import pytest
import torch

from xrec.adapter.moe import MoEAdapter
from xrec.adapter.vectors import input_vectors
from xrec.config.adapter import AdapterModelConfig

D, H = 6, 16
USERS, ITEMS = (
    torch.randn(40, D, generator=torch.Generator().manual_seed(1)) * 3 + 1,
    torch.randn(30, D),
)


def vectors(
    kind: str, users: torch.Tensor = USERS, items: torch.Tensor = ITEMS, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    return input_vectors(AdapterModelConfig(vectors=kind, vectors_seed=seed), users, items)  # type: ignore[arg-type]


def test_graph_vectors_are_the_graphs() -> None:
    users, items = vectors("graph")
    assert users is USERS
    assert items is ITEMS


@pytest.mark.parametrize("kind", ["random", "constant"])
def test_stand_ins_have_the_graphs_shape_and_nothing_of_it(kind: str) -> None:
    users, items = vectors(kind)
    assert (users.shape, items.shape, users.dtype) == (USERS.shape, ITEMS.shape, torch.float32)
    others = vectors(kind, USERS.flip(0) * 2, ITEMS - 1)
    assert torch.equal(users, others[0])
    assert torch.equal(items, others[1])


def test_random_rows_are_standard_normal_distinct_and_of_their_seed() -> None:
    users, items = vectors("random", torch.zeros(4000, D), torch.zeros(4000, D))
    assert users.mean().item() == pytest.approx(0, abs=0.03)
    assert users.std().item() == pytest.approx(1, abs=0.03)
    assert len(users.unique(dim=0)) == len(users)
    assert not torch.equal(users, items)
    assert not torch.equal(
        users, vectors("random", torch.zeros(4000, D), torch.zeros(4000, D), seed=1)[0]
    )


@pytest.mark.parametrize("kind", ["random", "constant"])
def test_stand_ins_of_known_users_stay_when_a_cold_start_appends_others(kind: str) -> None:
    users, items = vectors(kind)
    more_users, more_items = vectors(
        kind, torch.cat([USERS, USERS[:7]]), torch.cat([ITEMS, ITEMS[:3]])
    )
    assert torch.equal(more_users[: len(USERS)], users)
    assert torch.equal(more_items[: len(ITEMS)], items)


def adapted(kind: str) -> tuple[MoEAdapter, torch.Tensor]:
    torch.manual_seed(0)
    adapter, table = MoEAdapter(D, H, 4, gating_noise=False), vectors(kind)[0]
    adapter.fit_input(table, 0.3)
    return adapter, table


def test_constant_gives_everybody_the_same_vector_of_a_words_size() -> None:
    adapter, table = adapted("constant")
    output = adapter(table)
    assert torch.equal(output, output[:1].expand_as(output))
    assert output[0].square().mean().sqrt().item() == pytest.approx(0.3, rel=0.6)


def test_constant_moves_under_adam_as_fast_as_graph_vectors_do() -> None:
    """One Adam step moves a user's output about as far with ones as with graph vectors.

    With zeros as the constant the output would hardly move.
    """
    moves = {}
    for kind in ("graph", "constant"):
        adapter, table = adapted(kind)
        before = adapter(table[:1]).detach()
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3, weight_decay=0.0)
        (
            adapter(table[:1]) * torch.randn(1, H, generator=torch.Generator().manual_seed(2))
        ).sum().backward()
        optimizer.step()
        moves[kind] = (adapter(table[:1]) - before).norm().item()
    assert moves["constant"] > 0.7 * moves["graph"]
