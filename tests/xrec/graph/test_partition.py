"""Row blocks: every node stands once and edges are balanced.

A training by row blocks in real processes gives the same as one in a single process.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

from xrec.graph.adjacency import node_degrees, normalized_adjacency
from xrec.graph.blend import blend
from xrec.graph.lightgcn import LightGCN, random_embeddings
from xrec.graph.loss import SampledSoftmax
from xrec.graph.partition import Partition, RowBlocks
from xrec.graph.ranking import SeenItems, top_k_items, top_k_of_blocks
from xrec.graph.sampling import epoch_batches
from xrec.graph.spectral import spectral_embeddings
from xrec.graph.step import batch_loss, layer0_penalty

NUM_USERS, NUM_ITEMS, DIM = 23, 18, 6
WORLD_SIZE = 3  # 41 nodes: the blocks need an empty row; some micro-batches have two rows


@pytest.mark.parametrize("num_blocks", [1, 2, 4, 7])
def test_row_blocks_hold_each_node_once_in_order_with_empty_rows_last(num_blocks):
    degrees = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(1))
    blocks = RowBlocks.deal(degrees, num_blocks)
    assert len(blocks.nodes) == num_blocks * blocks.block_size == num_blocks * -(-30 // num_blocks)
    assert torch.equal(blocks.nodes[blocks.rows], torch.arange(30))
    assert int((blocks.nodes == -1).sum()) == len(blocks.nodes) - 30
    for rank in range(num_blocks):
        ids = blocks.node_ids(rank).tolist()
        real = [node for node in ids if node >= 0]
        assert ids == sorted(real) + [-1] * (len(ids) - len(real))


def test_row_blocks_power_law_degrees_are_balanced():
    degrees = (10_000 / torch.arange(1, 4001)).long()
    blocks = RowBlocks.deal(degrees, 4)
    loads = [int(degrees[blocks.node_ids(rank)].sum()) for rank in range(4)]
    # The node of the highest degree alone has 10,000 of the 86,000 edges.
    assert max(loads) - min(loads) < 10_000
    assert max(loads[1:]) - min(loads[1:]) < 0.1 * sum(loads) / 4


def small_edges() -> torch.Tensor:
    """Return 120 random pairs without those of user 5."""
    pairs = torch.randperm(NUM_USERS * NUM_ITEMS, generator=torch.Generator().manual_seed(3))[:120]
    pairs = pairs[pairs // NUM_ITEMS != 5]
    return torch.stack([pairs // NUM_ITEMS, pairs % NUM_ITEMS])


def table(partition: Partition, block: torch.Tensor) -> torch.Tensor:
    """Return the rows of all nodes, (N, D)."""
    return partition.rows(block, torch.arange(NUM_USERS + NUM_ITEMS))


def train(partition: Partition) -> dict[str, torch.Tensor]:
    """Train for 12 steps; return starts, losses, the table at the end, and best items."""
    edges = small_edges()
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
            loss = batch_loss(
                model(adjacency),
                partition,
                batch,
                objective,
                first_item=NUM_USERS,
                share=(partition.rank, partition.blocks.num_blocks),
            )
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


def work(rank: int, world_size: int, folder: Path) -> None:
    """Train as worker `rank`; rank 0 writes `outcome.pt`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world_size
    )
    degrees = node_degrees(small_edges(), NUM_USERS, NUM_ITEMS)
    outcome = train(Partition(RowBlocks.deal(degrees, world_size), rank))
    if rank == 0:
        torch.save(outcome, folder / "outcome.pt")
    dist.destroy_process_group()


def test_training_by_blocks_has_the_starts_losses_and_embeddings_of_one_worker(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    workers = spawn(work, (WORLD_SIZE, tmp_path), nprocs=WORLD_SIZE, join=False)
    one = train(Partition.whole(NUM_USERS + NUM_ITEMS))
    while not workers.join():
        pass
    several = torch.load(tmp_path / "outcome.pt")
    assert torch.equal(one["random"], several["random"])
    assert 0.08 < float(one["random"].std()) < 0.12
    torch.testing.assert_close(one["spectral"], several["spectral"], rtol=1e-4, atol=1e-5)
    assert one["losses"][-1] < one["losses"][0]
    torch.testing.assert_close(several["losses"], one["losses"], rtol=1e-4, atol=0)
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
def test_products_of_some_columns_at_a_time_have_the_bits_of_the_whole(num_blocks, monkeypatch):
    """Of all workers in turn, where worker r sends r + 1 times what the first one does."""

    def of_all(block: torch.Tensor) -> torch.Tensor:
        return torch.cat([block * (rank + 1) for rank in range(num_blocks)])

    monkeypatch.setattr(dist, "all_gather_into_tensor", lambda all, one: all.copy_(of_all(one)))
    edges, generator = small_edges(), torch.Generator().manual_seed(0)
    blocks = RowBlocks.deal(node_degrees(edges, NUM_USERS, NUM_ITEMS), num_blocks)
    block, plus = torch.randn(2, blocks.block_size, 13, generator=generator)
    for partition in (Partition(blocks, rank) for rank in range(num_blocks)):
        matrix = normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, partition)
        assert torch.equal(partition.product(matrix, block), matrix @ of_all(block))
        expected = torch.addmm(plus, matrix, of_all(block))
        assert torch.equal(partition.product(matrix, block, plus), expected)
