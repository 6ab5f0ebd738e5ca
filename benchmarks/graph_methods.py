"""Ways to get vectors of users and items; each makes snapshots of its model from the same data.

`recipe` is the public one (encoder/ of github.com/HKUDS/XRec, commit 32d8697) with xrec's sparse
product: LightGCN with the SUM of four layers, xavier-uniform tables, and the loss -mean ln
sigmoid(s(u, i) - s(u, j)) + 1e-6 (||e_u||^2 + ||e_i||^2 + ||e_j||^2), summed over the batch's
propagated vectors; Adam at 1e-3; batches of 1,024. Each interaction has one negative, drawn once
for the whole run among the training items that its user does not have.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from xrec.graph.adjacency import normalized_adjacency
from xrec.graph.artifact import METRICS, read_graph
from xrec.graph.lightgcn import symmetric_product
from xrec.graph.partition import Partition
from xrec.graph.ranking import More, SeenItems
from xrec.graph.sampling import NegativeSampler
from xrec.neighbors.build import build, pair_matrix
from xrec.neighbors.scores import RELATIVE_WEIGHTS, NeighborScores, fit
from xrec.storage import open_location

NUM_LAYERS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 4, 1024, 1e-3, 1e-6
NUM_EPOCHS = 300
EASE_REGULARIZATIONS = (100.0, 300.0, 1000.0)
GF_CF_ALPHAS, GF_CF_RANK = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0), 256
ALS_SETTINGS = [(penalty, alpha) for penalty in (1.0, 10.0, 50.0) for alpha in (5.0, 20.0, 40.0)]
ALS_ITERATIONS = 15


@dataclass(frozen=True, eq=False)
class BenchmarkData:
    """Edges of each split between U users and I items.

    They are (2, E) int64, with user indices in row 0 and item indices in row 1.
    """

    num_users: int
    num_items: int
    train: Tensor
    validation: Tensor
    test: Tensor

    def interactions(self) -> scipy.sparse.csr_matrix:
        """Return R, the training interactions (U, I) as ones in float32."""
        users, items = self.train.numpy()
        ones = np.ones(len(users), dtype=np.float32)
        return scipy.sparse.csr_matrix(
            (ones, (users, items)), shape=(self.num_users, self.num_items)
        )


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of users (U, D) and items (I, D), float32; a pair's score is their dot product.

    more: what is added to the scores of users (B,), as `top_k_items` takes it.
    """

    users: Tensor
    items: Tensor
    more: More | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A method's vectors after `seconds` of its own work, with the set-up, without evaluation.

    setting: which epoch it is, or which of the settings that are tried.
    """

    seconds: float
    setting: int
    vectors: Vectors


@dataclass(frozen=True)
class Budget:
    """Time and sizes of a run; `graph` is the URI of the graph artifact of ours."""

    embedding_dim: int
    threads: int
    seconds: float
    graph: str


def read_ours(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    """The vectors of a graph artifact, whose epochs' seconds include their evaluation."""
    location = open_location(budget.graph)
    graph = read_graph(location)
    rows = [json.loads(line) for line in (location / METRICS).read_text().splitlines()]
    seconds = sum(row["seconds"] for row in rows)
    yield Snapshot(seconds, len(rows), Vectors(graph.users, graph.items))


class RecipeModel(nn.Module):
    """E = sum_{l=0..4} A^l E^(0), users first; `product` maps x to A x."""

    def __init__(
        self,
        num_users: int,
        num_items: int,
        embedding_dim: int,
        product: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_users, embedding_dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_items, embedding_dim)))
        self._product = product

    def forward(self) -> tuple[Tensor, Tensor]:
        """The vectors of users (U, D) and items (I, D)."""
        layers = [torch.cat([self.users, self.items])]
        for _ in range(NUM_LAYERS):
            layers.append(self._product(layers[-1]))
        summed = torch.stack(layers).sum(dim=0)
        return summed[: len(self.users)], summed[len(self.users) :]

    def loss(self, users: Tensor, pos_items: Tensor, neg_items: Tensor) -> Tensor:
        """The batch's loss; users, pos_items and neg_items are (B,) int64."""
        of_users, of_items = self()
        user, pos, neg = of_users[users], of_items[pos_items], of_items[neg_items]  # (B, D)
        margins = (user * pos).sum(dim=1) - (user * neg).sum(dim=1)
        penalty = torch.stack([part.norm(2).pow(2) for part in (user, pos, neg)]).sum()
        return -torch.log(torch.sigmoid(margins)).mean() + WEIGHT_DECAY * penalty


def fused_product(adjacency: Tensor) -> Callable[[Tensor], Tensor]:
    """xrec's CSR product, which serves as its own backward."""
    whole = Partition.whole(adjacency.shape[0])
    return lambda x: symmetric_product(adjacency, x, whole)


def recipe_triples(data: BenchmarkData) -> tuple[Tensor, Tensor, Tensor]:
    """users, pos_items and neg_items (E,) int64; each interaction keeps its one negative."""
    users, pos_items = data.train
    training_items, compact = torch.unique(pos_items, return_inverse=True)
    sampler = NegativeSampler(torch.stack([users, compact]), data.num_users, len(training_items))
    drawn = sampler.sample(users, torch.Generator().manual_seed(0))
    return users, pos_items, training_items[drawn]


def train_recipe(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    """Train the public recipe until its last epoch, or until the budget is used up."""
    began, seconds = time.perf_counter(), 0.0
    torch.manual_seed(0)
    adjacency = normalized_adjacency(data.train, data.num_users, data.num_items)
    sizes = data.num_users, data.num_items, budget.embedding_dim
    model = RecipeModel(*sizes, fused_product(adjacency))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    triples = torch.stack(recipe_triples(data))
    for epoch in range(1, NUM_EPOCHS + 1):
        generator = torch.Generator().manual_seed(epoch)
        for batch in torch.randperm(triples.shape[1], generator=generator).split(BATCH_SIZE):
            optimizer.zero_grad()
            model.loss(*triples[:, batch]).backward()
            optimizer.step()
        seconds += time.perf_counter() - began
        with torch.no_grad():
            yield Snapshot(seconds, epoch, Vectors(*model()))
        if seconds >= budget.seconds:
            return
        began = time.perf_counter()


def fit_als(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    """Alternating least squares on implicit feedback (Hu, Koren, Volinsky, ICDM 2008)."""
    from implicit.cpu.als import AlternatingLeastSquares  # an extra

    sizes = {"factors": budget.embedding_dim, "num_threads": budget.threads}
    for number, (penalty, alpha) in enumerate(ALS_SETTINGS):
        began = time.perf_counter()
        model = AlternatingLeastSquares(
            **sizes, regularization=penalty, alpha=alpha, iterations=ALS_ITERATIONS, random_state=0
        )
        model.fit(data.interactions(), show_progress=False)
        seconds = time.perf_counter() - began
        users, items = map(torch.from_numpy, (model.user_factors, model.item_factors))
        yield Snapshot(seconds, number, Vectors(users, items))


def fit_ease(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    """EASE (Steck, WWW 2019, arXiv 1905.03375); scores are R B.

    P = (R^T R + l I)^-1, B_ij = -P_ij / P_jj, B_jj = 0. The matrix (I, I) is dense float32, which
    is 1 GB for 16,000 items, and time is cubic: it does not scale with the catalogue.
    """
    interactions = data.interactions()
    for number, regularization in enumerate(EASE_REGULARIZATIONS):
        began = time.perf_counter()
        gram = (interactions.T @ interactions).toarray()
        gram[np.diag_indices_from(gram)] += np.float32(regularization)
        inverse = scipy.linalg.inv(gram, overwrite_a=True, assume_a="pos")
        weights = np.divide(inverse, -np.diag(inverse).copy(), out=inverse)
        np.fill_diagonal(weights, 0.0)
        seconds = time.perf_counter() - began
        yield Snapshot(seconds, number, _weighted(data, interactions, weights))


def fit_gf_cf(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    """GF-CF (Shen et al., CIKM 2021, arXiv 2108.07567): a linear and an ideal low-pass filter.

    B = R~^T R~ + a D_I^-1/2 V V^T D_I^1/2, R~ = D_U^-1/2 R D_I^-1/2, V its right singular vectors.
    """
    began = time.perf_counter()
    interactions = data.interactions()
    powers = [np.maximum(np.asarray(interactions.sum(axis)).ravel(), 1) for axis in (1, 0)]
    left, right = (scipy.sparse.diags(degrees**-0.5) for degrees in powers)
    normalized = (left @ interactions @ right).astype(np.float32).tocsr()
    rank = min(GF_CF_RANK, *(size - 1 for size in normalized.shape))
    vectors = scipy.sparse.linalg.svds(normalized, k=rank, random_state=0)[2].T
    linear = scipy.sparse.csr_matrix(normalized.T @ normalized)
    users = torch.from_numpy((interactions @ right @ vectors).astype(np.float32))
    items = torch.from_numpy((powers[1][:, None] ** 0.5 * vectors).astype(np.float32))
    seconds = time.perf_counter() - began
    more = _weighted(data, interactions, linear).more
    for number, alpha in enumerate(GF_CF_ALPHAS):
        yield Snapshot(seconds, number, Vectors(alpha * users, items, more))


def _weighted(data: BenchmarkData, interactions: Any, weights: Any) -> Vectors:
    """Return the scores R B of the interactions (U, I) and weights (I, I), sparse or dense."""

    def more(users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = scipy.sparse.coo_array(interactions[users.numpy()] @ weights)
        rows, items = (torch.from_numpy(part).long() for part in scores.coords)
        return rows, items, torch.from_numpy(scores.data.astype(np.float32))

    return Vectors(torch.zeros(data.num_users, 1), torch.zeros(data.num_items, 1), more)


def fit_neighbors(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    """Our neighbors alone."""
    began = time.perf_counter()
    nothing = Vectors(torch.zeros(data.num_users, 1), torch.zeros(data.num_items, 1))
    vectors = _with_neighbors(data, nothing, (1.0,))
    yield Snapshot(time.perf_counter() - began, 0, vectors)


def read_both(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    """Our vectors plus our neighbors, with the weight that ranks the validation pairs best."""
    (ours,) = read_ours(data, budget)
    began = time.perf_counter()
    both = _with_neighbors(data, ours.vectors, RELATIVE_WEIGHTS)
    yield Snapshot(ours.seconds + time.perf_counter() - began, ours.setting, both)


def _with_neighbors(data: BenchmarkData, vectors: Vectors, relative: Sequence[float]) -> Vectors:
    found = build(data.train.numpy(), data.num_users, data.num_items)
    history, num_people = SeenItems(data.train), torch.bincount(data.train[1])
    num_people = torch.nn.functional.pad(num_people, (0, data.num_items - len(num_people)))
    scores = NeighborScores(pair_matrix(found.starts, found.targets, found.weights), history)
    given = vectors.users, vectors.items, scores, num_people, history, data.validation
    best = fit(*given, relative=relative)[0]
    factors = best.weight * num_people.clamp(min=1) ** (0.5 - best.power)

    def more(users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, items, sums = scores.of(users)
        return rows, items, factors[items] * sums

    return Vectors(vectors.users, vectors.items, more)


METHODS: dict[str, Callable[[BenchmarkData, Budget], Iterator[Snapshot]]] = {
    "recipe": train_recipe,
    "als": fit_als,
    "ease": fit_ease,
    "gf-cf": fit_gf_cf,
    "neighbors": fit_neighbors,
    "vectors": read_ours,
    "ours": read_both,
}
