"""What a user could install instead: PyTorch Geometric's LightGCN, and implicit's ALS and BPR."""

import itertools
from collections.abc import Iterator

import torch
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from torch import Tensor
from torch_geometric.nn.models import LightGCN

from benchmarks.graph_data import BenchmarkData, Snapshot, Stopwatch, Vectors

PYG_NUM_LAYERS, PYG_BATCH_SIZE, PYG_LEARNING_RATE = 2, 8192, 1e-3


def train_pyg(
    data: BenchmarkData,
    *,
    embedding_dim: int,
    seed: int,
    budget_seconds: float,
    epochs_per_snapshot: int,
) -> Iterator[Snapshot]:
    """Train PyG's LightGCN with its `recommendation_loss` until `budget_seconds` are over.

    The settings are those of PyG's examples/lightgcn.py: 2 layers, batches of 8,192, learning rate
    1e-3. As there, negatives are uniform over all items and drawn anew for each batch, and a batch
    propagates over all edges with one message for each edge.
    """
    watch = Stopwatch()
    with watch.running():
        torch.manual_seed(seed)
        pairs = torch.stack([data.train[0], data.train[1] + data.num_users])  # (2, E) node ids
        edge_index = torch.cat([pairs, pairs.flip(0)], dim=1)
        model = LightGCN(data.num_users + data.num_items, embedding_dim, PYG_NUM_LAYERS)
        optimizer = torch.optim.Adam(model.parameters(), lr=PYG_LEARNING_RATE)
    for epoch in itertools.count(1):
        with watch.running():
            for batch in torch.randperm(pairs.shape[1]).split(PYG_BATCH_SIZE):
                _pyg_step(model, optimizer, edge_index, pairs[:, batch], data)
        if epoch == 1 or epoch % epochs_per_snapshot == 0 or watch.seconds >= budget_seconds:
            with watch.running(), torch.no_grad():
                table = model.get_embedding(edge_index)
            yield watch.snapshot(epoch, Vectors(table[: data.num_users], table[data.num_users :]))
        if watch.seconds >= budget_seconds:
            return


def _pyg_step(
    model: LightGCN,
    optimizer: torch.optim.Optimizer,
    edge_index: Tensor,
    positives: Tensor,
    data: BenchmarkData,
) -> None:
    items = torch.randint(data.num_users, data.num_users + data.num_items, (positives.shape[1],))
    labels = torch.cat([positives, torch.stack([positives[0], items])], dim=1)
    optimizer.zero_grad()
    pos_rank, neg_rank = model(edge_index, labels).chunk(2)
    model.recommendation_loss(pos_rank, neg_rank, node_id=labels.unique()).backward()
    optimizer.step()


def fit_als(
    data: BenchmarkData,
    *,
    embedding_dim: int,
    seed: int,
    num_threads: int,
    regularization: float,
    alpha: float,
    num_iterations: int,
) -> Iterator[Snapshot]:
    """Fit alternating least squares on implicit feedback, by conjugate gradients.

    See Hu, Koren and Volinsky, ICDM 2008.
    """
    watch = Stopwatch()
    with watch.running():
        model = AlternatingLeastSquares(
            factors=embedding_dim,
            regularization=regularization,
            alpha=alpha,
            iterations=num_iterations,
            num_threads=num_threads,
            random_state=seed,
        )
        model.fit(data.interactions(), show_progress=False)
    yield watch.snapshot(num_iterations, _factors(model))


def fit_implicit_bpr(
    data: BenchmarkData,
    *,
    embedding_dim: int,
    seed: int,
    num_threads: int,
    learning_rate: float,
    regularization: float,
    num_iterations: int,
) -> Iterator[Snapshot]:
    """Fit matrix factorization with Bayesian personalized ranking (arXiv 1205.2618), by SGD.

    The last factor is the item's bias.
    """
    watch = Stopwatch()
    with watch.running():
        model = BayesianPersonalizedRanking(
            factors=embedding_dim,
            learning_rate=learning_rate,
            regularization=regularization,
            iterations=num_iterations,
            num_threads=num_threads,
            random_state=seed,
        )
        model.fit(data.interactions(), show_progress=False)
    yield watch.snapshot(num_iterations, _factors(model))


def _factors(model: AlternatingLeastSquares | BayesianPersonalizedRanking) -> Vectors:
    return Vectors(torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors))
