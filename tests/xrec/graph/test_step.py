"""The step's loss and gradient against autograd over the whole batch at once.

The step goes micro-batch by micro-batch and worker by worker.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xrec.graph import (
    BPR,
    Batch,
    LightGCN,
    NegativeSampler,
    Objective,
    Partition,
    RowBlocks,
    SampledSoftmax,
    batch_loss,
    epoch_batches,
    layer0_penalty,
    node_degrees,
    random_embeddings,
)

NUM_USERS, NUM_ITEMS, DIM = 6, 9, 4


@pytest.fixture
def edges() -> Tensor:
    pairs = torch.randperm(NUM_USERS * NUM_ITEMS, generator=torch.Generator().manual_seed(3))[:25]
    return torch.stack([pairs // NUM_ITEMS, pairs % NUM_ITEMS])


def tables() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(NUM_USERS, DIM, generator=generator),
        torch.randn(NUM_ITEMS, DIM, generator=generator),
    )
    return users.requires_grad_(), items.requires_grad_()


def first_batch(edges: Tensor, objective: Objective) -> Batch:
    return next(
        epoch_batches(
            edges, objective.negatives, steps_per_epoch=2, micro_batch_size=5, seed=0, epoch=1
        )
    )


def softmax(
    edges: Tensor, similarity: str = "cosine", num_negatives: int = 6, in_batch: bool = True
) -> SampledSoftmax:
    return SampledSoftmax(
        edges,
        NUM_ITEMS,
        temperature=0.3,
        similarity=similarity,
        num_negatives=num_negatives,
        in_batch_negatives=in_batch,
    )


def dense_softmax(
    users: Tensor,
    items: Tensor,
    edges: Tensor,
    batch: Batch,
    similarity: str,
    num_negatives: int,
    in_batch: bool,
) -> Tensor:
    """Return the mean loss of the batch from the whole score matrix (U, I).

    An item counts as often as it stands among the candidates of a micro-batch.
    """
    scores = (
        F.normalize(users) @ F.normalize(items).T if similarity == "cosine" else users @ items.T
    ) / 0.3
    popularity = torch.bincount(edges[1], minlength=NUM_ITEMS) / edges.shape[1]
    total = torch.zeros(())
    for part in batch.micro_batches:
        candidates = torch.cat([part.pos_items, part.negatives]) if in_batch else part.negatives
        times = torch.bincount(candidates, minlength=NUM_ITEMS)
        expected = in_batch * len(part) * popularity + num_negatives / NUM_ITEMS
        for user, pos in zip(part.users.tolist(), part.pos_items.tolist(), strict=True):
            weights = torch.where(times > 0, times / expected, 0.0)
            weights[pos] = 1.0
            total = total + torch.log((weights * scores[user].exp()).sum()) - scores[user, pos]
    return total / len(batch)


@pytest.mark.parametrize(
    ("similarity", "num_negatives", "in_batch"),
    [("cosine", 6, True), ("dot", 6, False), ("dot", 0, True)],
)
def test_batch_loss_sampled_softmax_equals_whole_score_matrix(
    edges: Tensor, similarity: str, num_negatives: int, in_batch: bool
) -> None:
    objective = softmax(edges, similarity, num_negatives, in_batch)
    batch = first_batch(edges, objective)
    users, items = tables()
    loss = batch_loss(users, items, batch, objective)
    loss.backward()
    expected_users, expected_items = tables()
    expected = dense_softmax(
        expected_users, expected_items, edges, batch, similarity, num_negatives, in_batch
    )
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(users.grad, expected_users.grad)
    torch.testing.assert_close(items.grad, expected_items.grad)


def test_batch_loss_bpr_equals_autograd_over_all_triples(edges: Tensor) -> None:
    objective = BPR(NegativeSampler(edges, NUM_USERS, NUM_ITEMS))
    batch = first_batch(edges, objective)
    users, items = tables()
    (2 * batch_loss(users, items, batch, objective)).backward()
    expected_users, expected_items = tables()
    u, i, j = (
        torch.cat([getattr(part, name) for part in batch.micro_batches])
        for name in ("users", "pos_items", "negatives")
    )
    margins = (expected_users[u] * (expected_items[i] - expected_items[j])).sum(dim=1)
    (-2 * torch.log(torch.sigmoid(margins)).mean()).backward()
    torch.testing.assert_close(users.grad, expected_users.grad)
    torch.testing.assert_close(items.grad, expected_items.grad)


@pytest.mark.parametrize("world_size", [2, 4, 7])
def test_batch_loss_of_all_workers_adds_up_to_that_of_one(edges: Tensor, world_size: int) -> None:
    objective = softmax(edges)
    # Micro-batches have at most 5 rows, so with 7 workers some workers have no row.
    batch = first_batch(edges, objective)
    users, items = tables()
    whole = batch_loss(users, items, batch, objective)
    whole.backward()
    their_users, their_items = tables()
    parts = [
        batch_loss(their_users, their_items, batch, objective, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    torch.stack(parts).sum().backward()
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    torch.testing.assert_close(their_users.grad, users.grad)
    torch.testing.assert_close(their_items.grad, items.grad)


def test_layer0_penalty_counts_users_positives_and_the_negatives_of_bpr(edges: Tensor) -> None:
    model = LightGCN(
        random_embeddings(Partition.whole(NUM_USERS + NUM_ITEMS), DIM, seed=1), NUM_USERS, 1
    )
    bpr = BPR(NegativeSampler(edges, NUM_USERS, NUM_ITEMS))
    for objective, columns in (
        (bpr, ("users", "pos_items", "negatives")),
        (softmax(edges), ("users", "pos_items")),
    ):
        batch = first_batch(edges, objective)
        rows = [
            torch.cat([getattr(part, name) for part in batch.micro_batches])
            + NUM_USERS * (name != "users")
            for name in columns
        ]
        expected = sum(model.embeddings[row].square().sum() for row in rows) / 2 / len(batch)
        torch.testing.assert_close(layer0_penalty(model, batch, objective), expected)


def test_layer0_penalty_of_two_blocks_adds_up_to_the_whole(edges: Tensor) -> None:
    whole = random_embeddings(Partition.whole(NUM_USERS + NUM_ITEMS), DIM, seed=1)
    batch = first_batch(edges, softmax(edges))
    blocks = RowBlocks.deal(node_degrees(edges, NUM_USERS, NUM_ITEMS), 2)
    models = [
        LightGCN(
            random_embeddings(Partition(blocks, rank), DIM, seed=1),
            NUM_USERS,
            1,
            Partition(blocks, rank),
        )
        for rank in (0, 1)
    ]
    expected = layer0_penalty(LightGCN(whole, NUM_USERS, 1), batch, softmax(edges))
    torch.testing.assert_close(
        sum(layer0_penalty(model, batch, softmax(edges)) for model in models), expected
    )
    assert float(expected) > 0
