"""The DeepSpeed engine of graph pretraining, and Adam's state in it, for both modes.

replicated   Each worker holds the whole layer-0 table and a part of the batch. ZeRO stage 1: the gradients are averaged, and each
             worker keeps Adam's moments of its share. Not 2 or 3: every step reads the whole table and makes a dense gradient
             of it, so sharding those would add traffic and save no peak memory.
partitioned  Each worker holds its rows of the table, and so their gradients and moments. ZeRO stage 0: nothing is held twice that
             could be sharded. For DeepSpeed the workers are one model-parallel group, each a data-parallel group of its own:
             gradients of different rows must never be averaged, nor one worker's rows be sent to the others at the start.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from xrec.config.graph import GraphTrainingConfig
from xrec.graph import LightGCN
from xrec.train.optimizer_loop import WholeState, restore_states, whole_state
from xrec.train.worker_loop import initialize_engine

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def build_engine(model: LightGCN, training: GraphTrainingConfig) -> "DeepSpeedEngine":
    """An engine with Adam and a linear warm-up over `model`, in the mode that its partition says."""
    partitioned = model.partition.blocks.num_blocks > 1
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (training.warmup_steps + 1))
    )
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # only a name for DeepSpeed: its input here is the whole graph
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # DeepSpeed's default is 1, and stage 0 would take the norm of one worker's rows
        "zero_optimization": {"stage": 0 if partitioned else 1},
    }
    return initialize_engine(
        model, optimizer, settings, schedule, _RowsApart() if partitioned else None
    )


def adam_moments(engine: "DeepSpeedEngine") -> tuple[Tensor, Tensor]:
    """Adam's first and second moment of this worker's layer-0 rows, (n, D) float32 each; zero before the first step. Collective."""
    table = engine.module.embeddings
    if engine.global_steps == 0:
        return torch.zeros_like(table), torch.zeros_like(table)
    state = whole_state(engine, table)
    return state.exp_avg, state.exp_avg_sq


def restore_optimizer(
    engine: "DeepSpeedEngine", exp_avg: Tensor, exp_avg_sq: Tensor, step: int
) -> None:
    """Put a fresh engine where it was after `step` steps; the layer-0 table itself is given to the model. Collective."""
    table = engine.module.embeddings
    state = WholeState(table.detach().clone(), exp_avg, exp_avg_sq)
    engine.backward((table * 0).sum())
    engine.step()
    restore_states(engine, {table: state}, step)


class _RowsApart:
    """What DeepSpeed asks of an `mpu`: all workers hold parts of one model, each is the only one with its part."""

    def __init__(self) -> None:
        alone: list[dist.ProcessGroup] = [
            dist.new_group([rank]) for rank in range(dist.get_world_size())
        ]  # every process must make all groups
        self._alone: dist.ProcessGroup = alone[dist.get_rank()]

    def get_model_parallel_group(self) -> Any:
        return dist.group.WORLD

    def get_model_parallel_world_size(self) -> int:
        return dist.get_world_size()

    def get_model_parallel_rank(self) -> int:
        return dist.get_rank()

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._alone

    def get_data_parallel_group_ranks(self) -> list[int]:
        return [dist.get_rank()]

    def get_data_parallel_world_size(self) -> int:
        return 1

    def get_data_parallel_rank(self) -> int:
        return 0
