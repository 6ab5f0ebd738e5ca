"""What a worker of graph pretraining starts with, as the config says: its part of the graph, the loss, the layer-0 embeddings."""

from typing import Literal

from torch import Tensor

from xrec.config.graph import (
    BPRLossConfig,
    GraphModelConfig,
    PretrainGraphConfig,
    SampledSoftmaxConfig,
)
from xrec.graph import (
    BPR,
    NegativeSampler,
    Objective,
    Partition,
    RowBlocks,
    SampledSoftmax,
    node_degrees,
    normalized_adjacency,
    random_embeddings,
    spectral_embeddings,
)


def build_partition(
    parallelism: Literal["replicated", "partitioned"],
    edges: Tensor,
    num_users: int,
    num_items: int,
    *,
    rank: int,
    world_size: int,
) -> Partition:
    """The rows of worker `rank`: all of them, or its block with about the same share of `edges` (2, E) int64 as the others'."""
    if parallelism == "replicated":
        return Partition.whole(num_users + num_items)
    return Partition(RowBlocks.deal(node_degrees(edges, num_users, num_items), world_size), rank)


def build_objective(
    loss: BPRLossConfig | SampledSoftmaxConfig, edges: Tensor, num_users: int, num_items: int
) -> Objective:
    """The loss with its negatives; `edges` (2, E) int64 are the training interactions."""
    if isinstance(loss, BPRLossConfig):
        return BPR(NegativeSampler(edges, num_users, num_items))
    return SampledSoftmax(edges, num_items, **loss.model_dump(exclude={"kind"}))


def blend_weight(model: GraphModelConfig) -> float:
    """Weight of the start in the final vectors: a random start knows nothing and has none."""
    return model.spectral.blend_weight if model.initialization == "spectral" else 0.0


def start_embeddings(
    config: PretrainGraphConfig, edges: Tensor, num_users: int, num_items: int, partition: Partition
) -> Tensor:
    """Layer-0 embeddings of this worker's rows, (n, D) float32, equal for any number of workers. Collective."""
    model, seed = config.model, config.training.seed
    if model.initialization == "random":
        return random_embeddings(partition, model.embedding_dim, seed)
    spectral = model.spectral
    matrix = normalized_adjacency(
        edges, num_users, num_items, partition, exponent=spectral.exponent
    )
    settings = spectral.model_dump(exclude={"exponent", "blend_weight"})
    return spectral_embeddings(
        matrix, num_users, model.embedding_dim, **settings, seed=seed, partition=partition
    )
