"""One worker of a small training by row blocks; test_partition.py runs it as a process.

What all workers have together is: the starts, the loss of each step, the layer-0 table at the end.
"""

from pathlib import Path

import torch
import torch.distributed as dist

from xrec.graph.adjacency import node_degrees, normalized_adjacency
from xrec.graph.lightgcn import LightGCN, random_embeddings
from xrec.graph.loss import SampledSoftmax
from xrec.graph.partition import Partition, RowBlocks
from xrec.graph.sampling import epoch_batches
from xrec.graph.spectral import spectral_embeddings
from xrec.graph.step import batch_loss, layer0_penalty

NUM_USERS, NUM_ITEMS, DIM = 23, 18, 6


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
