"""Workers of the graph: what they hold and send in a step, and that W equal one."""

import time
import warnings
from collections.abc import Sequence
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.report import Record
from xrec.graph.adjacency import distinct_edges
from xrec.graph.lightgcn import LightGCN, random_embeddings
from xrec.graph.partition import Halo
from xrec.graph.sampling import Batch, epoch_batches
from xrec.graph.step import Scored, batch_losses
from xrec.train.graph_model import GraphData, build_objective, build_partition

OPTIMIZERS: dict[str, Any] = {
    "adam": lambda rows: torch.optim.Adam(rows, lr=5e-3),
    "adam-eps-1e-4": lambda rows: torch.optim.Adam(rows, lr=5e-3, eps=1e-4),
    "sgd": lambda rows: torch.optim.SGD(rows, lr=1.0),
}


class Setting(NamedTuple):
    """A drawn graph and its training."""

    num_users: int
    num_items: int
    num_edges: int
    embedding_dim: int = 64
    num_layers: int = 2
    steps_per_epoch: int = 16
    num_steps: int = 20
    micro_batch_size: int = 1024
    optimizer: str = "adam"

    def data(self) -> GraphData:
        """The graph: uniform users, and items by popularity rank^-0.8, with seed 0."""
        generator = torch.Generator().manual_seed(0)
        users = torch.randint(self.num_users, (self.num_edges,), generator=generator)
        popularity = torch.arange(1, self.num_items + 1).double().pow(-0.8)
        items = torch.multinomial(popularity, self.num_edges, True, generator=generator)
        edges = distinct_edges(torch.stack([users, items]), self.num_items)
        return GraphData(edges, self.num_users, self.num_items)


class Part(NamedTuple):
    """What one worker counted, and its rows at the end."""

    collectives: int  # of all steps
    num_bytes: int  # that it sent
    seconds: float
    own: int
    halo: int
    of_batch: int  # rows of others that the first step's loss needs
    losses: Tensor
    nodes: Tensor
    table: Tensor


class _Traffic(TorchDispatchMode):
    """Counts collectives, and the bytes that this worker puts into them."""

    collectives = num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.collectives += 1
            self.num_bytes += args[1].nbytes  # all are all-to-alls: output, input, ...
        return func(*args, **(kwargs or {}))


def measured(setting: Setting, worlds: Sequence[int]) -> list[Record]:
    """A row for each number of workers, which gloo connects, compared with the first row's."""
    rows, first = list[Record](), None
    degrees = setting.data().degrees()
    for num_workers in worlds:
        parts = _in_processes(setting, num_workers)
        losses = sum((part.losses for part in parts), torch.zeros(()))
        table = torch.zeros(len(degrees), setting.embedding_dim)
        for part in parts:
            table[part.nodes[part.nodes >= 0]] = part.table[part.nodes >= 0]
        first = first or (losses, table)
        differences = [
            float((a - b).abs().max()) for a, b in zip(first, (losses, table), strict=True)
        ]
        steps = setting.num_steps
        rows.append(
            {
                "W": num_workers,
                "collectives": max(part.collectives for part in parts) / steps,
                "MB sent": round(max(part.num_bytes for part in parts) / steps / 1e6, 3),
                "own rows": parts[0].own,
                "halo": round(sum(part.halo for part in parts) / num_workers),
                "reckoned halo": round(reckoned_halo(degrees, num_workers)),
                "batch's": round(sum(part.of_batch for part in parts) / num_workers),
                "s a step": round(max(part.seconds for part in parts) / steps, 3),
                "losses differ": f"{differences[0]:.1e}",
                "tables differ": f"{differences[1]:.1e}",
            }
        )
    return rows


def reckoned_halo(degrees: Tensor, num_workers: int) -> float:
    """The mean number of rows that a worker's edges need from others, without any locality.

    A node v of another block is needed unless none of its d_v neighbors is in this one:
    (1 - 1/W) sum_v (1 - (1 - 1/W)^d_v), at most 2 E / W.
    """
    elsewhere = 1 - 1 / num_workers
    return float(elsewhere * (1 - elsewhere ** degrees.double()).sum())


def reckoned(setting: Setting, num_workers: int) -> Record:
    """The row that the formulas give for `num_workers`, without the rows of a batch."""
    degrees = setting.data().degrees()
    halo = reckoned_halo(degrees, num_workers)
    num_bytes = 2 * setting.num_layers * halo * setting.embedding_dim * 4
    return {
        "W": num_workers,
        "own rows": -(-len(degrees) // num_workers),
        "halo": round(halo),
        "halo of all": round(halo / len(degrees), 4),
        "MB sent by layers": round(num_bytes / 1e6, 3),
    }


def _in_processes(setting: Setting, num_workers: int) -> list[Part]:
    context = get_context("spawn")
    with TemporaryDirectory() as folder, context.Pool(num_workers) as pool:
        workers = [(setting, rank, num_workers, f"{folder}/store") for rank in range(num_workers)]
        return [Part(*map(_tensor, part)) for part in pool.starmap(_work, workers, chunksize=1)]


def _tensor(value: Any) -> Any:
    return value if isinstance(value, int | float) else torch.from_numpy(value)


def _work(setting: Setting, rank: int, num_workers: int, store: str) -> list[Any]:
    """Train as worker `rank`; return its `Part`, with NumPy's arrays."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sparse (invariant checks|CSR tensor support)")
    method = f"file://{store}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=num_workers)
    data, device = setting.data(), torch.device("cpu")
    partition = build_partition(data, rank, num_workers, device)
    adjacency = data.adjacency(partition)
    start = random_embeddings(partition, setting.embedding_dim, 0)
    model = LightGCN(start, data.num_users, setting.num_layers, partition)
    optimizer = OPTIMIZERS[setting.optimizer](model.parameters())
    objective = build_objective("sampled_softmax", data.edges, data.num_users, data.num_items)
    batches: list[Batch] = []
    for epoch in range(-(-setting.num_steps // setting.steps_per_epoch)):
        batches += epoch_batches(
            data.edges,
            objective.negatives,
            steps_per_epoch=setting.steps_per_epoch,
            micro_batch_size=setting.micro_batch_size,
            seed=0,
            epoch=epoch,
        )
    losses, seconds = [], 0.0
    share = rank, num_workers
    with _Traffic() as traffic:  # type: ignore[no-untyped-call]
        for batch in batches[: setting.num_steps]:
            began = time.perf_counter()
            optimizer.zero_grad()
            scored = Scored(batch, objective, data.num_users, share)
            (loss,) = batch_losses(model(adjacency), partition, [scored])
            loss.backward()
            optimizer.step()
            seconds += time.perf_counter() - began
            losses.append(loss.detach())
    blocks, first = partition.blocks, Scored(batches[0], objective, data.num_users, share)
    nodes = torch.cat([nodes for *_, nodes in first.parts()])
    of_batch = Halo(blocks, rank, blocks.rows[nodes], device)
    halo = partition.halo
    assert halo is not None
    sizes_of = len(partition.node_ids), len(halo.rows), len(of_batch.rows)
    ends = torch.stack(losses), partition.node_ids, model.embeddings.detach()
    dist.destroy_process_group()
    counted = traffic.collectives, traffic.num_bytes, seconds
    return [*counted, *sizes_of, *(each.numpy() for each in ends)]
