"""What a worker of the graph trains on: edges, held-out pairs, initial vectors, and losses."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from xrec.config import (
    GraphLoss,
    GraphTrainingConfig,
    PretrainGraphConfig,
    Split,
)
from xrec.data import Dataset
from xrec.graph.adjacency import distinct_edges, node_degrees, normalized_adjacency, with_halo
from xrec.graph.artifact import read_vectors
from xrec.graph.aspects import NO_ASPECTS, AspectEdges, dataset_aspect_edges
from xrec.graph.identity import LAYER0
from xrec.graph.leave_out import without_fold
from xrec.graph.lightgcn import LightGCN, random_embeddings
from xrec.graph.loss import BPR, Objective, SampledSoftmax
from xrec.graph.partition import Partition, RowBlocks
from xrec.graph.ranking import SeenItems, metrics_of, top_k_of_blocks, users_with_items
from xrec.graph.sampling import Batch, NegativeSampler, epoch_batches
from xrec.graph.spectral import spectral_embeddings
from xrec.graph.step import Scored
from xrec.storage import Arrays, delete_mapped, mapped_arrays, open_location, read_manifest
from xrec.train.deepspeed_engine import initialize_engine

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

K = 20
RECALL, SCORE = f"recall@{K}", f"ndcg@{K}"

SPECTRAL_EXPONENT = 0.35
"""a in D_u^-a R D_i^-a, whose SVD is the initialization. 0.5 is LightGCN's normalization; lower
values give popularity more weight."""

BLEND_WEIGHT = 0.2
"""Weight of the spectral initialization's scores in the final vectors; the trained scores have
weight 1. On Yelp it raises the validation Recall@20 from 0.1425 to 0.1474."""

VALIDATION_USERS = 10_000
"""Maximum number of users ranked after an epoch. For that many, the standard error of a Recall@20
of 0.14 is at most 0.0035."""

TEMPERATURE, NUM_NEGATIVES = 0.15, 1024
"""For the sampled softmax: the divisor of the cosines, and the number of uniformly drawn negatives
that the interactions of a micro-batch share."""

ASPECT_LOSS_WEIGHT = 0.1
"""Weight of the aspects' loss; that of the interactions is 1."""
_FILES_VERSION = 2
_ASPECT_SEED = 1_000_003  # so that the batches of interactions do not depend on aspects


def split_edges(dataset: Dataset, split: Split) -> Tensor:
    """Return the split's interactions (2, E) int64: user indices, then item indices."""
    return torch.from_numpy(dataset.interaction_edges(split))


@dataclass(frozen=True)
class GraphData:
    """What a graph is trained on: the training interactions, and aspects if the graph uses them.

    `edges` (2, E) int64 are user indices, then item indices, in ascending order, each pair once. If
    the dataset was read from disk, they are mapped from a file on this node, and the names of all
    files derived from them begin with `name`.
    """

    edges: Tensor
    num_users: int
    num_items: int
    aspects: AspectEdges = NO_ASPECTS
    name: str | None = None

    @classmethod
    def of(
        cls, dataset: Dataset, *, with_aspects: bool, fold: tuple[int, int] | None = None
    ) -> "GraphData":
        """Return those of `dataset`, or without fold `fold[0]` of `fold[1]` (`without_fold`).

        Raises DataError if `with_aspects` is true and the dataset has none.
        """

        def make() -> Arrays:
            part = dataset if fold is None else without_fold(dataset, *fold)
            aspects = dataset_aspect_edges(part) if with_aspects else NO_ASPECTS
            arrays = {name: np.asarray(each) for name, each in vars(aspects).items()}
            return {"edges": split_edges(part, "train").numpy(), **arrays}

        what = f"graph-{_FILES_VERSION}-{with_aspects}-" + "of".join(map(str, fold or ["whole"]))
        is_read = dataset.interactions is dataset.on_disk
        name = f"{dataset.manifest.fingerprint}.{what}" if is_read else None
        is_stored = name is None or (fold is None and not with_aspects)
        arrays = make() if is_stored else mapped_arrays(f"{name}.edges", make)
        edges, nodes, named, weights, number = map(torch.from_numpy, arrays.values())
        aspects = AspectEdges(nodes, named, weights, int(number))
        return cls(edges, dataset.num_users, dataset.num_items, aspects, name)

    def adjacency(self, partition: Partition, exponent: float = 0.5) -> Tensor:
        """Return this worker's rows of the matrix (`normalized_adjacency`)."""
        edges, name = (self.edges, self.num_users, self.num_items), self.name
        return normalized_adjacency(*edges, partition, exponent, self.aspects, name)

    def delete_files(self) -> None:
        """Delete this node's training files."""
        if self.name is not None:
            delete_mapped(self.name)

    @property
    def num_nodes(self) -> int:
        """Number of users, items and aspects."""
        return self.num_users + self.num_items + self.aspects.num_aspects

    def rows_of(self, users: Tensor, items: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows (n, D) of `nodes` (n,) int64, and which nodes are known, (n,) bool.

        users (U', D), items (I', D): of an earlier dataset, which this one extends. The rows of
        unknown nodes are zero.
        """
        rows, known = users.new_zeros(len(nodes), users.shape[1]), torch.zeros(len(nodes)).bool()
        for first, table in ((0, users), (self.num_users, items)):
            of_table = (nodes >= first) & (nodes < first + len(table))
            rows[of_table] = table[nodes[of_table] - first]
            known |= of_table
        return rows, known

    def degrees(self) -> Tensor:
        """Return each node's degree (N,): users, then items, then aspects."""
        return node_degrees(self.edges, self.num_users, self.num_items, self.aspects)


@dataclass(frozen=True)
class HeldOut:
    """The validation interactions, for ranking; each of `users` (N,) int64 has at least one."""

    seen: SeenItems
    held_out: SeenItems
    users: Tensor

    @classmethod
    def of(
        cls, dataset: Dataset, data: GraphData, seed: int, most_users: int = VALIDATION_USERS
    ) -> "HeldOut":
        """Return those of at most `most_users` validation users, drawn with `seed`."""
        held_out = split_edges(dataset, "validation")
        users = users_with_items(held_out, most_users, seed=seed)
        lost = torch.from_numpy(dataset.lost_items)
        return cls(SeenItems(data.edges, lost=lost), SeenItems(held_out), users)

    def score(
        self, vectors: Tensor, partition: Partition, sizes: tuple[int, int]
    ) -> dict[str, float]:
        """Return the means over `self.users` of the metrics at 20 (`metrics_of`).

        `vectors` (n, D) are this worker's rows of the vectors that rank; `sizes` are U and I.
        Collective: all workers have the same `self.users`.
        """
        k = min(K, sizes[1])
        ranked = top_k_of_blocks(vectors, partition, sizes, self.seen, self.users, k)
        return metrics_of(ranked, self.held_out, sizes[1], (K,))[0]


def build_partition(data: GraphData, rank: int, world_size: int, device: torch.device) -> Partition:
    """Return the rows of worker `rank`, a block with about its share of the edges. Collective.

    The process group must be able to send from `device`.
    """
    if world_size == 1:
        return Partition.whole(data.num_nodes)
    partition = Partition(RowBlocks.deal(data.degrees(), world_size), rank)
    edges = (data.edges, data.num_users, data.num_items, data.aspects)
    return with_halo(partition, *edges, device)


def start_embeddings(
    config: PretrainGraphConfig, data: GraphData, partition: Partition, device: torch.device
) -> Tensor:
    """Return the initial layer-0 embeddings of this worker's rows, (n, D) float32. Collective.

    They are the same for any number of workers. The process group must be able to send from
    `device`; NCCL only sends from GPUs.
    """
    model, seed = config.model, config.training.seed
    if model.initialization == "random":
        return random_embeddings(partition, model.embedding_dim, seed).to(device)
    return spectral_embeddings(
        data.adjacency(partition, SPECTRAL_EXPONENT).to(device),
        data.num_users,
        model.embedding_dim,
        num_aspects=data.aspects.num_aspects,
        seed=seed,
        partition=partition,
    )


def later_embeddings(
    config: PretrainGraphConfig,
    data: GraphData,
    partition: Partition,
    adjacency: Tensor,
    start: Tensor,
) -> Tensor:
    """Return this worker's initial rows (n, D) for a graph with `config.start_from`. Collective.

    Known users and items keep their embeddings. New ones start in the direction of their neighbors,
    or at their row of `start` (n, D) if all neighbors are new too.
    """
    location = open_location(str(config.start_from), config.storage)
    _, earlier = read_vectors(location, read_manifest(location, "graph"), LAYER0)
    rows, is_known = data.rows_of(earlier["users"], earlier["items"], partition.node_ids)
    rows, is_known = rows.to(start.device), (is_known & rows.any(dim=1)).to(start.device)
    lengths = torch.linalg.vector_norm(rows, dim=1).double()
    total, count = partition.all_reduce(torch.stack([lengths.sum(), (lengths > 0).double().sum()]))
    near = normalize(partition.product(adjacency, rows)) * (total / count).to(rows.dtype)
    new = torch.where((near == 0).all(dim=1, keepdim=True), start, near)
    return torch.where(is_known[:, None], rows, new)


def build_objective(loss: GraphLoss, edges: Tensor, num_users: int, num_items: int) -> Objective:
    """Return the loss; `edges` (2, E) int64 are sorted by user and item, each once."""
    if loss == "bpr":
        return BPR(NegativeSampler(edges, num_users, num_items))
    return SampledSoftmax(edges, num_items, temperature=TEMPERATURE, num_negatives=NUM_NEGATIVES)


class AspectLoss:
    """The loss of the edges between aspects and users or items, of the same kind as the main loss.

    Each epoch draws as many of these edges as it has interactions, or takes all if there are fewer.
    A user or item with every aspect has no negative one, and is left out.
    """

    def __init__(self, data: GraphData, config: PretrainGraphConfig) -> None:
        aspects, num_nodes = data.aspects, data.num_users + data.num_items
        has_all = torch.bincount(aspects.nodes, minlength=num_nodes) == aspects.num_aspects
        self._edges = aspects.pairs[:, ~has_all[aspects.nodes]]
        self._training = config.training
        self._num_nodes = num_nodes
        self._objective = build_objective(
            config.training.loss,
            distinct_edges(self._edges, aspects.num_aspects),
            num_nodes,
            aspects.num_aspects,
        )

    def batches(self, epoch: int, most: int) -> Iterator[Batch]:
        """Yield a batch for each step, with at most `most` edges in total."""
        seed = self._training.seed + _ASPECT_SEED
        generator = torch.Generator().manual_seed(seed + epoch)
        drawn = torch.randperm(self._edges.shape[1], generator=generator)[:most]
        if not len(drawn):
            return iter(())
        return epoch_batches(
            self._edges[:, drawn],
            self._objective.negatives,
            epoch=epoch,
            steps_per_epoch=self._training.steps_per_epoch,
            micro_batch_size=self._training.micro_batch_size,
            seed=seed,
        )

    def scored(self, batch: Batch, share: tuple[int, int]) -> Scored:
        """Return what `batch_losses` scores; the loss has the weight `ASPECT_LOSS_WEIGHT`."""
        return Scored(batch, self._objective, self._num_nodes, share)


def build_engine(model: LightGCN, training: GraphTrainingConfig) -> "DeepSpeedEngine":
    """Return a DeepSpeed engine with Adam; each worker's part of the model is its own."""
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    settings = {
        # DeepSpeed requires a size, but it is unused: the input is the whole graph.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # DeepSpeed's default is 1
        "zero_optimization": {"stage": 1},
    }
    mpu = _rows_apart() if model.partition.blocks.num_blocks > 1 else None
    return initialize_engine(model, optimizer, settings, schedule, mpu)


def _rows_apart() -> SimpleNamespace:
    """Return an `mpu` for DeepSpeed in which each worker alone holds its part of the model."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    alone = [dist.new_group([each]) for each in range(world_size)]  # all processes create all
    return SimpleNamespace(
        get_model_parallel_group=lambda: dist.group.WORLD,
        get_model_parallel_world_size=lambda: world_size,
        get_model_parallel_rank=lambda: rank,
        get_data_parallel_group=lambda: alone[rank],
        get_data_parallel_group_ranks=lambda: [rank],
        get_data_parallel_world_size=lambda: 1,
        get_data_parallel_rank=lambda: 0,
    )
