"""The public XRec recipe for the graph's vectors, written anew.

It follows the folder encoder/ of github.com/HKUDS/XRec (commit 32d8697): LightGCN with the SUM of
the layers, xavier-uniform tables, and the loss -mean ln sigmoid(s(u, i) - s(u, j))
+ 1e-6 (||e_u||^2 + ||e_i||^2 + ||e_j||^2), summed over the batch's propagated vectors. Adam has the
rate 1e-3; batches have 1,024 interactions; there are four layers, D = 64, and no dropout. Each
interaction has one negative, drawn once for the whole run among the training items that its user
does not have. Every batch propagates the whole graph. The run ends at 300 epochs, or after ten
epochs without a better validation recall.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.graph_data import BenchmarkData, Snapshot, Stopwatch, Vectors
from xrec.graph import NegativeSampler, normalized_adjacency
from xrec.graph.lightgcn import symmetric_product
from xrec.graph.partition import Partition

NUM_LAYERS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 4, 1024, 1e-3, 1e-6
NUM_EPOCHS, PATIENCE = 300, 10

Product = Callable[[Tensor], Tensor]


class RecipeModel(nn.Module):
    """E = sum_{l=0..4} A^l E^(0), users first; `product` maps x to A x."""

    def __init__(
        self, num_users: int, num_items: int, embedding_dim: int, product: Product
    ) -> None:
        super().__init__()
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_users, embedding_dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_items, embedding_dim)))
        self._product = product

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of users (U, D) and items (I, D)."""
        layers = [torch.cat([self.users, self.items])]
        for _ in range(NUM_LAYERS):
            layers.append(self._product(layers[-1]))
        summed = torch.stack(layers).sum(dim=0)
        return summed[: len(self.users)], summed[len(self.users) :]

    def loss(self, users: Tensor, pos_items: Tensor, neg_items: Tensor) -> Tensor:
        """Return the batch's loss; users, pos_items and neg_items are (B,) int64."""
        user_vectors, item_vectors = self()
        user, pos, neg = (
            user_vectors[users],
            item_vectors[pos_items],
            item_vectors[neg_items],
        )  # (B, D)
        ranking = -torch.log(
            torch.sigmoid((user * pos).sum(dim=1) - (user * neg).sum(dim=1))
        ).mean()
        penalty: Tensor = sum(
            (part.norm(2).pow(2) for part in (user, pos, neg)), start=ranking.new_zeros(())
        )
        return ranking + WEIGHT_DECAY * penalty


def original_product(adjacency: Tensor) -> Product:
    """Return the public code's product: torch.spmm with a COO matrix and autograd's backward."""
    coo = adjacency.to_sparse_coo()
    return lambda x: torch.spmm(coo, x)


def fused_product(adjacency: Tensor) -> Product:
    """Return xrec's CSR product, which serves as its own backward."""
    whole = Partition.whole(adjacency.shape[0])
    return lambda x: symmetric_product(adjacency, x, whole)


def recipe_triples(data: BenchmarkData, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return users, pos_items and neg_items (E,) int64; each interaction keeps its one negative."""
    users, pos_items = data.train
    training_items, compact = torch.unique(pos_items, return_inverse=True)
    sampler = NegativeSampler(torch.stack([users, compact]), data.num_users, len(training_items))
    return (
        users,
        pos_items,
        training_items[sampler.sample(users, torch.Generator().manual_seed(seed))],
    )


def time_original(
    data: BenchmarkData, *, embedding_dim: int, seed: int, num_batches: int
) -> dict[str, float]:
    """Time batches of the recipe in its original form; return seconds of a batch and an epoch.

    The original has the COO product, anomaly detection, and a DataLoader that collates Python
    triples. The first batch is not counted. An epoch is the mean of the others times the number of
    batches.
    """
    torch.manual_seed(seed)
    model = RecipeModel(
        data.num_users,
        data.num_items,
        embedding_dim,
        original_product(normalized_adjacency(data.train, data.num_users, data.num_items)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    triples = list(zip(*(column.tolist() for column in recipe_triples(data, seed)), strict=True))
    loader: DataLoader[Any] = DataLoader(triples, batch_size=BATCH_SIZE, shuffle=True)  # type: ignore[arg-type]
    batches, total = itertools.chain.from_iterable(itertools.repeat(loader)), len(loader)
    watch = Stopwatch()
    with torch.autograd.set_detect_anomaly(True):
        _step(model, optimizer, next(batches))
        with watch.running():
            for _ in range(num_batches):
                _step(model, optimizer, next(batches))
    wall, cpu = watch.seconds / num_batches, watch.cpu_seconds / num_batches
    return {
        "num_batches_timed": num_batches,
        "num_batches": total,
        "seconds_per_batch": wall,
        "seconds_per_epoch": wall * total,
        "cpu_seconds_per_epoch": cpu * total,
    }


def train_fused(
    data: BenchmarkData,
    *,
    embedding_dim: int,
    seed: int,
    budget_seconds: float,
    epochs_per_snapshot: int,
    checkpoint: Path,
) -> Iterator[Snapshot]:
    """Train the recipe with the fused product for another `budget_seconds`.

    It continues from `checkpoint` if that is there. The public code validates after each epoch, and
    this one every `epochs_per_snapshot`. That only changes when the stopping rule is seen to hold.
    """
    state: dict[str, Any] = (
        torch.load(checkpoint, weights_only=True)
        if checkpoint.exists()
        else {"epoch": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    )
    watch = Stopwatch(state["seconds"], state["cpu_seconds"])
    end = watch.seconds + budget_seconds
    with watch.running():
        torch.manual_seed(seed)
        model = RecipeModel(
            data.num_users,
            data.num_items,
            embedding_dim,
            fused_product(normalized_adjacency(data.train, data.num_users, data.num_items)),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        triples = torch.stack(recipe_triples(data, seed))
    if state["epoch"]:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(state["epoch"] + 1, NUM_EPOCHS + 1):
        with watch.running():
            _epoch(model, optimizer, triples, torch.Generator().manual_seed(seed + epoch))
        out_of_time = watch.seconds >= end
        if epoch == 1 or epoch % epochs_per_snapshot == 0 or out_of_time:
            with watch.running(), torch.no_grad():
                vectors = Vectors(*model())
            yield watch.snapshot(epoch, vectors)
            _save(checkpoint, model, optimizer, epoch, watch)
        if out_of_time:
            return


def _epoch(
    model: RecipeModel,
    optimizer: torch.optim.Optimizer,
    triples: Tensor,
    generator: torch.Generator,
) -> None:
    order = torch.randperm(triples.shape[1], generator=generator)
    for batch in order.split(BATCH_SIZE):
        _step(model, optimizer, triples[:, batch])


def _step(model: RecipeModel, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    optimizer.zero_grad()
    loss = model.loss(*batch)
    loss.backward()
    optimizer.step()
    loss.item()


def _save(
    checkpoint: Path,
    model: RecipeModel,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    watch: Stopwatch,
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "epoch": epoch,
        "seconds": watch.seconds,
        "cpu_seconds": watch.cpu_seconds,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = checkpoint.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(checkpoint)
