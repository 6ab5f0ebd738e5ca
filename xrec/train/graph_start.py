"""What a worker of the graph begins with: its rows, their layer-0 embeddings, the engine."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from xrec.config.graph import GraphModelConfig, GraphTrainingConfig, PretrainGraphConfig
from xrec.graph import (
    LightGCN,
    Partition,
    RowBlocks,
    normalized_adjacency,
    random_embeddings,
    spectral_embeddings,
)
from xrec.train.data import GraphData
from xrec.train.deepspeed_engine import RowsApart, initialize_engine

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def build_partition(
    parallelism: Literal["replicated", "partitioned"], data: GraphData, rank: int, world_size: int
) -> Partition:
    """Return the rows of worker `rank`: all of them, or its block.

    The blocks have about the same share of the edges.
    """
    if parallelism == "replicated":
        return Partition.whole(data.num_nodes)
    return Partition(RowBlocks.deal(data.degrees(), world_size), rank)


def blend_weight(model: GraphModelConfig) -> float:
    """Return the weight of the start in the final vectors; zero for a random start."""
    return model.spectral.blend_weight if model.initialization == "spectral" else 0.0


def start_embeddings(
    config: PretrainGraphConfig, data: GraphData, partition: Partition, device: torch.device
) -> Tensor:
    """Return the layer-0 embeddings of this worker's rows, (n, D) float32 on `device`. Collective.

    They are the same for any number of workers. `device` must be one that the workers' process
    group can send from: NCCL sends from a GPU only.
    """
    model, seed = config.model, config.training.seed
    if model.initialization == "random":
        return random_embeddings(partition, model.embedding_dim, seed).to(device)
    spectral = model.spectral
    matrix = normalized_adjacency(
        data.edges,
        data.num_users,
        data.num_items,
        partition,
        exponent=spectral.exponent,
        aspects=data.aspects,
    ).to(device)
    return spectral_embeddings(
        matrix,
        data.num_users,
        model.embedding_dim,
        num_aspects=data.aspects.num_aspects,
        **spectral.model_dump(exclude={"exponent", "blend_weight"}),
        seed=seed,
        partition=partition,
    )


def build_engine(model: LightGCN, training: GraphTrainingConfig) -> "DeepSpeedEngine":
    """Return an engine with Adam and a linear warm-up; the model's partition gives the mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (training.warmup_steps + 1))
    )
    settings = {
        # DeepSpeed demands a size, and does not use it: the input here is the whole graph.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # DeepSpeed's default is 1
        "zero_optimization": {"stage": 1},
    }
    mpu = RowsApart() if model.partition.blocks.num_blocks > 1 else None
    return initialize_engine(model, optimizer, settings, schedule, mpu)
