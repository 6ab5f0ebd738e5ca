"""Negatives are never positives, uniform over the other items, and drawn anew for each epoch.

An epoch is the same for any number of workers.
"""

import pytest
import torch

from tests.errors import raises
from xrec.errors import DataError
from xrec.graph.sampling import Batch, NegativeSampler, epoch_batches

NUM_USERS, NUM_ITEMS = 40, 30


@pytest.fixture
def edges():
    """User 0 has all items but number 17, user 1 has the first half, user 2 has the last item.

    User 39 has none; the others have random items.
    """
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator) < 0.3
    dense[0], dense[0, 17] = True, False
    dense[1], dense[1, :15] = False, True
    dense[2], dense[2, -1] = False, True
    dense[-1] = False
    return dense.nonzero().T.contiguous()


def test_negatives_are_never_positives(edges):
    sampler = NegativeSampler(edges, NUM_USERS, NUM_ITEMS)
    users = torch.arange(NUM_USERS).repeat(200)
    negatives = sampler.sample(users, torch.Generator().manual_seed(1))
    known = set(map(tuple, edges.T.tolist()))
    drawn = set(zip(users.tolist(), negatives.tolist(), strict=True))
    assert not known & drawn
    assert {item for user, item in drawn if user == 0} == {17}
    assert {item for user, item in drawn if user == 1} == set(range(15, 30))
    assert {item for user, item in drawn if user == 2} == set(range(29))


def test_negatives_are_uniform_over_the_other_items(edges):
    sampler = NegativeSampler(edges, NUM_USERS, NUM_ITEMS)
    negatives = sampler.sample(torch.full((15_000,), 1), torch.Generator().manual_seed(2))
    counts = torch.bincount(negatives, minlength=NUM_ITEMS)[15:].double()
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_square < 36.1  # 99.9 % quantile of 14 degrees of freedom


def test_sampler_user_with_all_items_raises_data_error():
    edges = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]])
    with raises(DataError, "no_negative_item", "user_index", 1):
        NegativeSampler(edges, 2, 3)


def batches_of(
    edges: torch.Tensor, seed: int = 5, epoch: int = 1, name: str | None = None
) -> list[Batch]:
    draw = NegativeSampler(edges, NUM_USERS, NUM_ITEMS).sample
    sizes = {"steps_per_epoch": 7, "micro_batch_size": 20}
    return list(epoch_batches(edges, draw, seed=seed, epoch=epoch, name=name, **sizes))


def triples(batches: list[Batch]) -> list[tuple[int, int, int]]:
    parts = [part for batch in batches for part in batch.micro_batches]
    return [
        triple
        for part in parts
        for triple in zip(
            part.users.tolist(), part.pos_items.tolist(), part.negatives.tolist(), strict=True
        )
    ]


def test_epoch_covers_each_interaction_once_with_fresh_order_and_negatives(edges):
    first, second = (triples(batches_of(edges, epoch=epoch)) for epoch in (1, 2))
    assert triples(batches_of(edges)) == first != triples(batches_of(edges, seed=6))
    for epoch in (first, second):
        assert sorted(triple[:2] for triple in epoch) == sorted(map(tuple, edges.T.tolist()))
    assert [triple[:2] for triple in first] != [triple[:2] for triple in second]
    negatives = [{triple[:2]: triple[2] for triple in epoch} for epoch in (first, second)]
    assert sum(negatives[0][pair] != negatives[1][pair] for pair in negatives[0]) > len(first) / 2


def test_epoch_by_a_file_is_the_same_and_leaves_none(edges, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert triples(batches_of(edges, name="edges")) == triples(batches_of(edges))
    assert [path.suffix for path in tmp_path.glob("*/*/*")] == [".lock"]


def test_epoch_has_equal_batches_of_micro_batches_of_at_most_their_size(edges):
    batches = batches_of(edges)
    sizes = [len(batch) for batch in batches]
    assert len(batches) == 7
    assert sum(sizes) == edges.shape[1]
    assert max(sizes) - min(sizes) <= 1
    assert {len(part) for batch in batches for part in batch.micro_batches[:-1]} == {20}
    assert all(1 <= len(batch.micro_batches[-1]) <= 20 for batch in batches)


def test_epoch_shared_negatives_differ_between_micro_batches_steps_and_epochs(edges):
    def draw(users: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(10**9, (4,), generator=generator)

    drawn = [
        tuple(part.negatives.tolist())
        for epoch in (1, 2)
        for batch in epoch_batches(
            edges, draw, steps_per_epoch=3, micro_batch_size=20, seed=0, epoch=epoch
        )
        for part in batch.micro_batches
    ]
    assert len(set(drawn)) == len(drawn) > 12


def test_epoch_of_fewer_interactions_than_steps_has_a_step_each(edges):
    assert [len(batch) for batch in batches_of(edges[:, :3])] == [1, 1, 1]
