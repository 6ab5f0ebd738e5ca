"""A step of LightGCN against dense matrices and autograd, and the batches of an epoch.

The step has micro-batches and workers; autograd has the whole batch at once.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.errors import raises
from xrec.errors import DataError
from xrec.graph.adjacency import node_degrees, normalized_adjacency
from xrec.graph.lightgcn import LightGCN, random_embeddings
from xrec.graph.loss import BPR, Objective, SampledSoftmax, bpr_loss, sampled_softmax_loss
from xrec.graph.partition import Partition, RowBlocks
from xrec.graph.sampling import Batch, NegativeSampler, epoch_batches
from xrec.graph.step import Scored, batch_losses, layer0_penalty

NUM_USERS, NUM_ITEMS, DIM = 6, 9, 4
CHANCE = torch.rand(NUM_USERS, NUM_ITEMS, generator=torch.Generator().manual_seed(3))
EDGES = (CHANCE < 0.5).nonzero().T.contiguous()


def tables() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(NUM_USERS, DIM, generator=generator)
    items = torch.randn(NUM_ITEMS, DIM, generator=generator)
    return users.requires_grad_(), items.requires_grad_()


def first_batch(objective: Objective) -> Batch:
    sizes = {"steps_per_epoch": 2, "micro_batch_size": 5}
    return next(epoch_batches(EDGES, objective.negatives, seed=0, epoch=1, **sizes))


def softmax(num_negatives: int = 6) -> SampledSoftmax:
    return SampledSoftmax(EDGES, NUM_ITEMS, temperature=0.3, num_negatives=num_negatives)


def bpr() -> BPR:
    return BPR(NegativeSampler(EDGES, NUM_USERS, NUM_ITEMS))


def rows_of(batch: Batch, name: str) -> Tensor:
    return torch.cat([getattr(part, name) for part in batch.micro_batches])


def dense_softmax(users: Tensor, items: Tensor, batch: Batch, num_negatives: int) -> Tensor:
    """Return the mean loss of the batch from the whole score matrix (U, I).

    An item counts as often as it occurs among the candidates of a micro-batch.
    """
    scores = F.normalize(users) @ F.normalize(items).T / 0.3
    popularity = torch.bincount(EDGES[1], minlength=NUM_ITEMS) / EDGES.shape[1]
    total = torch.zeros(())
    for part in batch.micro_batches:
        candidates = torch.cat([part.pos_items, part.negatives])
        times = torch.bincount(candidates, minlength=NUM_ITEMS)
        expected = len(part) * popularity + num_negatives / NUM_ITEMS
        for user, pos in zip(part.users.tolist(), part.pos_items.tolist(), strict=True):
            weights = torch.where(times > 0, times / expected, 0.0)
            weights[pos] = 1.0
            total = total + torch.log((weights * scores[user].exp()).sum()) - scores[user, pos]
    return total / len(batch)


def dense_bpr(users: Tensor, items: Tensor, batch: Batch, num_negatives: int) -> Tensor:
    u, i, j = (rows_of(batch, name) for name in ("users", "pos_items", "negatives"))
    return -torch.log(torch.sigmoid((users[u] * (items[i] - items[j])).sum(dim=1))).mean()


@pytest.mark.parametrize(
    ("objective", "dense", "num_negatives"),
    [(softmax(6), dense_softmax, 6), (softmax(0), dense_softmax, 0), (bpr(), dense_bpr, 0)],
)
# Micro-batches have at most 5 rows, so some of 7 workers have no row.
@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_batch_loss_of_all_workers_is_that_of_the_whole_batch(
    objective, dense, num_negatives, world_size
):
    batch = first_batch(objective)
    users, items = tables()
    vectors, whole = torch.cat([users, items]), Partition.whole(NUM_USERS + NUM_ITEMS)
    shares = ((rank, world_size) for rank in range(world_size))
    parts = [
        batch_losses(vectors, whole, [Scored(batch, objective, NUM_USERS, share)])[0]
        for share in shares
    ]
    (2 * sum(parts)).backward()
    expected_users, expected_items = tables()
    expected = dense(expected_users, expected_items, batch, num_negatives)
    (2 * expected).backward()
    torch.testing.assert_close(sum(parts), expected)
    torch.testing.assert_close(users.grad, expected_users.grad)
    torch.testing.assert_close(items.grad, expected_items.grad)


@pytest.mark.parametrize(
    ("objective", "columns"),
    [(bpr(), ("users", "pos_items", "negatives")), (softmax(), ("users", "pos_items"))],
)
def test_layer0_penalty_of_all_blocks_counts_users_positives_and_the_negatives_of_bpr(
    objective, columns
):
    batch = first_batch(objective)
    whole = Partition.whole(NUM_USERS + NUM_ITEMS)
    table = random_embeddings(whole, DIM, seed=1)
    rows = [rows_of(batch, name) + NUM_USERS * (name != "users") for name in columns]
    expected = sum(table[row].square().sum() for row in rows) / 2 / len(batch)
    blocks = RowBlocks.deal(node_degrees(EDGES, NUM_USERS, NUM_ITEMS), 2)
    for partitions in ([whole], [Partition(blocks, 0), Partition(blocks, 1)]):
        models = [
            LightGCN(random_embeddings(partition, DIM, seed=1), NUM_USERS, 1, partition)
            for partition in partitions
        ]
        found = sum(layer0_penalty(model, batch, objective) for model in models)
        torch.testing.assert_close(found, expected)


def test_losses_of_hopeless_scores_are_finite_with_gradient():
    assert float(bpr_loss(torch.tensor([-500.0]), torch.tensor([500.0]))) == pytest.approx(1000.0)
    generator = torch.Generator().manual_seed(2)
    users, pos_items, candidates = (
        100 * torch.randn(size, 3, generator=generator) for size in (3, 3, 4)
    )
    is_own = torch.tensor([[True, False, False, False], [False, True, False, True], [True] * 4])
    counts = torch.tensor([0.5, 2.0, 0.1, 1.0]).log()
    users.requires_grad_()
    loss = sampled_softmax_loss(users, pos_items, candidates, is_own, counts, 0.01)
    loss.backward()
    assert loss.isfinite()
    assert users.grad.isfinite().all()


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_lightgcn_forward_and_gradient_equal_dense(num_layers):
    start, weights = (
        random_embeddings(Partition.whole(NUM_USERS + NUM_ITEMS), DIM, seed) for seed in (0, 1)
    )
    model = LightGCN(start, NUM_USERS, num_layers)
    adjacency = normalized_adjacency(EDGES, NUM_USERS, NUM_ITEMS)
    vectors = model(adjacency)
    (vectors * weights).sum().backward()

    table = model.embeddings.detach().clone().requires_grad_()
    a = adjacency.to_dense()
    mean = sum(torch.matrix_power(a, n) @ table for n in range(num_layers + 1)) / (num_layers + 1)
    (mean * weights).sum().backward()

    torch.testing.assert_close(vectors, mean)
    torch.testing.assert_close(model.embeddings.grad, table.grad)


# Batches

MANY_USERS, MANY_ITEMS = 40, 30


@pytest.fixture
def edges():
    """User 0 has all items but 17, user 1 the first half, user 2 the last one, user 39 none.

    The others have random items.
    """
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(MANY_USERS, MANY_ITEMS, generator=generator) < 0.3
    dense[0], dense[0, 17] = True, False
    dense[1], dense[1, :15] = False, True
    dense[2], dense[2, -1] = False, True
    dense[-1] = False
    return dense.nonzero().T.contiguous()


def test_negatives_are_never_positives_and_uniform_over_the_other_items(edges):
    sampler = NegativeSampler(edges, MANY_USERS, MANY_ITEMS)
    users = torch.arange(MANY_USERS).repeat(200)
    negatives = sampler.sample(users, torch.Generator().manual_seed(1))
    known = set(map(tuple, edges.T.tolist()))
    drawn = set(zip(users.tolist(), negatives.tolist(), strict=True))
    assert not known & drawn
    assert {item for user, item in drawn if user == 0} == {17}
    assert {item for user, item in drawn if user == 1} == set(range(15, 30))
    assert {item for user, item in drawn if user == 2} == set(range(29))

    negatives = sampler.sample(torch.full((15_000,), 1), torch.Generator().manual_seed(2))
    counts = torch.bincount(negatives, minlength=MANY_ITEMS)[15:].double()
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_square < 36.1  # 99.9 % quantile of 14 degrees of freedom
    with raises(DataError, "no_negative_item", "user_index", 1):
        NegativeSampler(torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]]), 2, 3)


def batches_of(
    edges: torch.Tensor, seed: int = 5, epoch: int = 1, name: str | None = None
) -> list[Batch]:
    draw = NegativeSampler(edges, MANY_USERS, MANY_ITEMS).sample
    sizes = {"steps_per_epoch": 7, "micro_batch_size": 20}
    return list(epoch_batches(edges, draw, seed=seed, epoch=epoch, name=name, **sizes))


def triples(batches: list[Batch]) -> list[tuple[int, int, int]]:
    names = ("users", "pos_items", "negatives")
    columns = (torch.cat([rows_of(batch, name) for batch in batches]).tolist() for name in names)
    return list(zip(*columns, strict=True))


def test_epoch_covers_each_interaction_once_with_fresh_order_and_negatives(edges):
    first, second = (triples(batches_of(edges, epoch=epoch)) for epoch in (1, 2))
    assert triples(batches_of(edges)) == first != triples(batches_of(edges, seed=6))
    for epoch in (first, second):
        assert sorted(triple[:2] for triple in epoch) == sorted(map(tuple, edges.T.tolist()))
    assert [triple[:2] for triple in first] != [triple[:2] for triple in second]
    negatives = [{triple[:2]: triple[2] for triple in epoch} for epoch in (first, second)]
    assert sum(negatives[0][pair] != negatives[1][pair] for pair in negatives[0]) > len(first) / 2


def test_epoch_sorted_in_a_file_is_the_same_and_leaves_no_file(edges, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert triples(batches_of(edges, name="edges")) == triples(batches_of(edges))
    assert [path.suffix for path in tmp_path.glob("*/*/*")] == [".lock"]


def test_epoch_has_equal_batches_of_micro_batches_of_at_most_their_size(edges):
    batches = batches_of(edges)
    sizes = [len(batch) for batch in batches]
    assert len(batches) == 7
    assert [len(batch) for batch in batches_of(edges[:, :3])] == [1, 1, 1]
    assert sum(sizes) == edges.shape[1]
    assert max(sizes) - min(sizes) <= 1
    assert {len(part) for batch in batches for part in batch.micro_batches[:-1]} == {20}
    assert all(1 <= len(batch.micro_batches[-1]) <= 20 for batch in batches)
