"""Training by row blocks equals training by one worker.

The workers are threads with the collectives of a real process group.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.multi_threaded_pg import (
    ProcessLocalGroup,
    _install_threaded_pg,
    _uninstall_threaded_pg,
)

from xrec.graph.adjacency import node_degrees, normalized_adjacency, with_halo
from xrec.graph.blend import blend
from xrec.graph.lightgcn import LightGCN, random_embeddings, symmetric_product
from xrec.graph.loss import SampledSoftmax
from xrec.graph.partition import Halo, Partition, RowBlocks
from xrec.graph.ranking import SeenItems, top_k_items, top_k_of_blocks
from xrec.graph.sampling import epoch_batches
from xrec.graph.spectral import spectral_embeddings
from xrec.graph.step import Scored, batch_losses, layer0_penalty

NUM_USERS, NUM_ITEMS, DIM = 23, 18, 6
WORLD_SIZE = 3  # 41 nodes: the blocks need an empty row; some micro-batches have two rows


def small_edges() -> torch.Tensor:
    """Return 120 random pairs, less those of user 5."""
    pairs = torch.randperm(NUM_USERS * NUM_ITEMS, generator=torch.Generator().manual_seed(3))[:120]
    pairs = pairs[pairs // NUM_ITEMS != 5]
    return torch.stack([pairs // NUM_ITEMS, pairs % NUM_ITEMS])


def table(partition: Partition, block: torch.Tensor) -> torch.Tensor:
    """Return the rows of all nodes, (N, D)."""
    return partition.rows(block, torch.arange(NUM_USERS + NUM_ITEMS))


def train(partition: Partition) -> dict[str, torch.Tensor]:
    """Train for 12 steps; return starts, losses, the table at the end, and best items."""
    edges = small_edges()
    partition = with_halo(partition, edges, NUM_USERS, NUM_ITEMS)
    start = spectral_embeddings(
        normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, partition, exponent=0.35),
        NUM_USERS,
        DIM,
        partition=partition,
    )
    random = random_embeddings(partition, DIM, seed=4)
    adjacency = normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, partition)
    model = LightGCN(start.clone(), NUM_USERS, 2, partition)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    objective = SampledSoftmax(edges, NUM_ITEMS, temperature=0.15, num_negatives=8)
    losses = []
    for epoch in range(3):
        for batch in epoch_batches(
            edges, objective.negatives, steps_per_epoch=4, micro_batch_size=9, seed=0, epoch=epoch
        ):
            optimizer.zero_grad()
            share = partition.rank, partition.blocks.num_blocks
            scored = Scored(batch, objective, NUM_USERS, share)
            (loss,) = batch_losses(model(adjacency), partition, [scored])
            (loss + 0.1 * layer0_penalty(model, batch, objective)).backward()
            optimizer.step()
            losses.append(loss.detach())
    end, num_own = model.embeddings.detach(), partition.num_own(NUM_USERS)
    sides = ((rows[:num_own], rows[num_own:]) for rows in (end, random))
    blended = torch.cat(blend(*sides, 0.3, partition))
    seen, users = SeenItems(edges, lost=torch.tensor([4])), torch.tensor([5, 0, 22, 7, 7])
    sizes = NUM_USERS, NUM_ITEMS
    ((_, best, scores),) = top_k_of_blocks(blended, partition, sizes, seen, users, 16)
    return {
        "spectral": table(partition, start),
        "random": table(partition, random),
        "losses": partition.all_reduce(torch.stack(losses)),
        "end": table(partition, end),
        "blended": table(partition, blended),
        "best": best,
        "scores": scores,
    }


Outcome = TypeVar("Outcome")


def in_threads(num_workers: int, work: Callable[[int], Outcome]) -> list[Outcome]:
    """Do the `work` of each rank in a thread, with torch's process group of threads.

    Its collectives wait for all ranks and move what they send.
    """
    store, world = dist.HashStore(), _install_threaded_pg()

    def run(rank: int) -> Outcome:
        dist.init_process_group("threaded", rank=rank, world_size=num_workers, store=store)
        try:
            return work(rank)
        except BaseException as error:
            ProcessLocalGroup.exception_handle(error)  # the others do not wait for this rank
            raise
        finally:
            dist.destroy_process_group()

    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    try:
        with ThreadPoolExecutor(num_workers) as threads:
            return list(threads.map(run, range(num_workers)))
    finally:
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        _uninstall_threaded_pg()
        del world


def test_training_by_blocks_equals_that_of_one_worker():
    one, blocks = (
        train(Partition.whole(NUM_USERS + NUM_ITEMS)),
        RowBlocks.deal(node_degrees(small_edges(), NUM_USERS, NUM_ITEMS), WORLD_SIZE),
    )
    several, *_ = in_threads(WORLD_SIZE, lambda rank: train(Partition(blocks, rank)))
    assert torch.equal(one["random"], several["random"])
    assert 0.08 < float(one["random"].std()) < 0.12
    torch.testing.assert_close(one["spectral"], several["spectral"], rtol=1e-4, atol=1e-5)
    assert one["losses"][-1] < one["losses"][0]
    torch.testing.assert_close(several["losses"], one["losses"], rtol=1e-4, atol=0)
    # Adam divides by the size of the gradient, so rounding counts where that is near its epsilon.
    torch.testing.assert_close(several["end"], one["end"], rtol=1e-3, atol=1e-4)
    assert (one["end"] - one["spectral"]).abs().max() > 1e-2
    torch.testing.assert_close(several["blended"], one["blended"], rtol=1e-2, atol=1e-3)
    assert torch.equal(several["best"], one["best"])
    users, items = one["blended"].split([NUM_USERS, NUM_ITEMS])
    seen = SeenItems(small_edges(), lost=torch.tensor([4]))
    ((_, best, scores),) = top_k_items(users, items, seen, torch.tensor([5, 0, 22, 7, 7]), 16)
    assert torch.equal(one["best"], best)
    assert torch.equal(one["scores"], scores)


@pytest.mark.parametrize("num_blocks", [1, 4, 30])
def test_products_with_a_halo_and_their_gradients_are_those_of_the_dense_matrix(num_blocks):
    edges, generator = small_edges(), torch.Generator().manual_seed(0)
    blocks = RowBlocks.deal(node_degrees(edges, NUM_USERS, NUM_ITEMS), num_blocks)
    num_nodes = NUM_USERS + NUM_ITEMS
    table, plus, weights = torch.randn(3, num_nodes, 13, generator=generator)
    nodes = [torch.randint(num_nodes, (7,), generator=generator) for _ in range(num_blocks)]
    dense = normalized_adjacency(edges, NUM_USERS, NUM_ITEMS).to_dense()

    def loss(product: torch.Tensor, rows: list[torch.Tensor], of: torch.Tensor) -> torch.Tensor:
        of_nodes = sum(each.square().sum() for each in rows)
        return (product * of).sum() + of_nodes

    def rows_of(each: torch.Tensor, rank: int) -> torch.Tensor:
        padded = torch.cat([each, torch.zeros(1, 13)])  # node -1 is an empty row
        return padded[blocks.node_ids(rank)]

    def work(rank: int) -> tuple[torch.Tensor, ...]:
        partition = with_halo(Partition(blocks, rank), edges, NUM_USERS, NUM_ITEMS)
        matrix = normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, partition)
        x, y = (rows_of(each, rank).requires_grad_() for each in (table, plus))
        product = symmetric_product(matrix, x, partition, y)
        halo = Halo(blocks, rank, blocks.rows[nodes[rank]], torch.device("cpu"))
        rows = halo.gather(product)[halo.find(nodes[rank])]
        loss(product, [rows], rows_of(weights, rank)).backward()
        assert partition.halo is not None
        return product.detach(), x.grad, y.grad, rows.detach(), partition.halo.rows

    x, y = table.clone().requires_grad_(), plus.clone().requires_grad_()
    product = dense @ x + y
    loss(product, [product[each] for each in nodes], weights).backward()
    for rank, (of_block, x_grad, y_grad, rows, halo_rows) in enumerate(
        in_threads(num_blocks, work)
    ):
        torch.testing.assert_close(of_block, rows_of(product.detach(), rank))
        torch.testing.assert_close(x_grad, rows_of(x.grad, rank))
        torch.testing.assert_close(y_grad, rows_of(y.grad, rank))
        torch.testing.assert_close(rows, product.detach()[nodes[rank]])
        own = blocks.node_ids(rank)
        own = own[own >= 0]
        neighbors = dense[own].any(dim=0).nonzero().flatten().tolist()
        assert sorted(blocks.nodes[halo_rows].tolist()) == sorted({*neighbors} - {*own.tolist()})
