"""Row blocks: every node stands once and edges are balanced.

A training by row blocks in two real processes gives the same as one in a single process.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

from xrec.graph.adjacency import node_degrees, normalized_adjacency
from xrec.graph.lightgcn import LightGCN, random_embeddings
from xrec.graph.loss import SampledSoftmax
from xrec.graph.partition import Partition, RowBlocks
from xrec.graph.sampling import epoch_batches
from xrec.graph.spectral import spectral_embeddings
from xrec.graph.step import batch_loss, layer0_penalty

NUM_USERS, NUM_ITEMS, DIM = 23, 18, 6
WORLD_SIZE = 2  # 41 nodes: the blocks need an empty row


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


def train(partition: Partition) -> dict[str, torch.Tensor]:
    """Train for 12 steps; return the starts, the losses and the table at the end."""
    edges = small_edges()
    start = spectral_embeddings(
        normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, partition, exponent=0.35),
        NUM_USERS,
        DIM,
        partition=partition,
    )
    spectral, random = (
        partition.table(start).clone(),
        partition.table(random_embeddings(partition, DIM, seed=4)),
    )
    adjacency = normalized_adjacency(edges, NUM_USERS, NUM_ITEMS, partition)
    model = LightGCN(start, NUM_USERS, 2, partition)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    objective = SampledSoftmax(edges, NUM_ITEMS, temperature=0.15, num_negatives=8)
    losses = []
    for epoch in range(3):
        for batch in epoch_batches(
            edges, objective.negatives, steps_per_epoch=4, micro_batch_size=7, seed=0, epoch=epoch
        ):
            optimizer.zero_grad()
            loss = batch_loss(
                *model(adjacency),
                batch,
                objective,
                rank=partition.rank,
                world_size=partition.blocks.num_blocks,
            )
            (loss + 0.1 * layer0_penalty(model, batch, objective)).backward()
            optimizer.step()
            losses.append(loss.detach())
    end = partition.table(model.embeddings.detach())
    return {
        "spectral": spectral,
        "random": random,
        "losses": partition.all_reduce(torch.stack(losses)),
        "end": end,
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
