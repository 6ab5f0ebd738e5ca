"""Negatives are never positives, uniform over the rest and fresh; epochs are the same for any number of workers."""

import pytest
import torch

from xrec.errors import DataError
from xrec.graph import NegativeSampler, epoch_triples

NUM_USERS, NUM_ITEMS = 40, 30


@pytest.fixture
def edges() -> torch.Tensor:
    """User 0 has all items but number 17, user 1 the first half, user 2 the last item; the rest at random; user 39 none."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator) < 0.3
    dense[0], dense[0, 17] = True, False
    dense[1], dense[1, :15] = False, True
    dense[2], dense[2, -1] = False, True
    dense[-1] = False
    users, items = dense.nonzero(as_tuple=True)
    shuffled = torch.randperm(len(users), generator=generator)
    return torch.stack([users, items])[:, shuffled]


def test_negatives_are_never_positives(edges: torch.Tensor) -> None:
    sampler = NegativeSampler(edges, NUM_USERS, NUM_ITEMS)
    users = torch.arange(NUM_USERS).repeat(200)
    negatives = sampler.sample(users, torch.Generator().manual_seed(1))
    known = set(map(tuple, edges.T.tolist()))
    drawn = set(zip(users.tolist(), negatives.tolist(), strict=True))
    assert not known & drawn
    assert {item for user, item in drawn if user == 0} == {17}
    assert {item for user, item in drawn if user == 1} == set(range(15, 30))
    assert {item for user, item in drawn if user == 2} == set(range(29))


def test_negatives_are_uniform_over_the_other_items(edges: torch.Tensor) -> None:
    sampler = NegativeSampler(edges, NUM_USERS, NUM_ITEMS)
    negatives = sampler.sample(torch.full((15_000,), 1), torch.Generator().manual_seed(2))
    counts = torch.bincount(negatives, minlength=NUM_ITEMS)[15:].double()
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_square < 36.1  # 99.9 % quantile of 14 degrees of freedom


def test_sampler_user_with_all_items_raises_data_error() -> None:
    edges = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]])
    with pytest.raises(DataError, match="user_index 1 has interacted with all 3 items"):
        NegativeSampler(edges, 2, 3)


def test_epoch_covers_each_interaction_once_with_fresh_order_and_negatives(edges: torch.Tensor) -> None:
    sampler = NegativeSampler(edges, NUM_USERS, NUM_ITEMS)
    first, second = (epoch_triples(edges, sampler, seed=5, epoch=epoch) for epoch in (1, 2))
    for epoch in (first, second):
        pairs = sorted(zip(epoch.users.tolist(), epoch.pos_items.tolist(), strict=True))
        assert pairs == sorted(map(tuple, edges.T.tolist()))
    assert not torch.equal(first.users, second.users)
    negatives = [dict(zip(zip(e.users.tolist(), e.pos_items.tolist(), strict=True), e.neg_items.tolist(), strict=True)) for e in (first, second)]
    changed = sum(negatives[0][pair] != negatives[1][pair] for pair in negatives[0])
    assert changed > len(first) / 2


def test_epoch_same_seed_is_equal_and_slices_of_workers_make_up_the_batch(edges: torch.Tensor) -> None:
    sampler = NegativeSampler(edges, NUM_USERS, NUM_ITEMS)
    one, again, other = (epoch_triples(edges, sampler, seed, epoch=3) for seed in (7, 7, 8))
    assert torch.equal(one.neg_items, again.neg_items)
    assert not torch.equal(one.users, other.users)
    batch = next(one.split(4))
    parts = list(batch.split(3))
    assert torch.equal(torch.cat([part.neg_items for part in parts]), batch.neg_items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
