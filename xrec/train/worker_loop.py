"""What every training job shares on the worker's side: device, threads, DeepSpeed engine, reports."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import nn

from xrec.train.checkpoint import ReadFile

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from ray.util.queue import Queue


_SECONDS_BETWEEN_NOTES = 10.0
_notes: "Queue | None" = None
_last_note = 0.0


def prepare_worker(num_threads: int, notes: "Queue") -> None:
    """Settings of this process before the loop runs: torch threads, DeepSpeed's accelerator and log level, the way to the driver."""
    global _notes
    _notes = notes
    torch.set_num_threads(num_threads)
    if worker_device().type == "cpu":
        os.environ["DS_ACCELERATOR"] = (
            "cpu"  # else DeepSpeed takes a GPU that it sees, whatever Ray gave this worker
        )
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def worker_device() -> torch.device:
    """The device that Ray gave this worker."""
    device: torch.device = ray.train.torch.get_device()
    return device


def rank() -> int:
    """This worker's number, from 0 to world_size() - 1."""
    return int(ray.train.get_context().get_world_rank())


def world_size() -> int:
    """Number of workers."""
    return int(ray.train.get_context().get_world_size())


def any_worker(flag: bool) -> bool:
    """Whether `flag` is set on any worker; every worker must call it."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(float(flag), device=worker_device())
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags)


def init_deepspeed() -> None:
    """DeepSpeed's communication, over the process group that Ray Train has set up; once, before weights are sharded or an engine is made."""
    import deepspeed  # takes seconds to import; the driver, which imports this module too, does without

    on_cpu = worker_device().type == "cpu"
    if on_cpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
            False  # else it is compiled: needs g++ and a minute
        )
    deepspeed.logger.setLevel(logging.WARNING)
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl", verbose=False)


def initialize_engine(
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    deepspeed_config: Mapping[str, Any],
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    mpu: Any = None,
) -> "DeepSpeedEngine":
    """A DeepSpeed engine over `module` on this worker's device.

    The engine steps `lr_scheduler` after each optimizer step. `deepspeed_config` needs `train_micro_batch_size_per_gpu`;
    give torch's own optimizer (DeepSpeed's compile C++ at first use). `mpu` (Megatron's name for it) tells the workers that
    hold different parts of the model from those that hold the same one; none: all hold the same, and gradients are averaged.
    """
    import deepspeed

    init_deepspeed()
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        config=dict(deepspeed_config),
        dist_init_required=False,
        mpu=mpu,
    )
    return engine


def note(text: str) -> None:
    """Have the driver log `text`; rank 0 speaks, the others' calls do nothing."""
    if rank() == 0 and _notes is not None:
        _notes.put({"note": text})


def note_step(epoch: int, step: int, num_steps: int, loss: float) -> None:
    """Tell the driver, now and then, how far a long epoch is."""
    global _last_note
    if time.monotonic() - _last_note > _SECONDS_BETWEEN_NOTES:
        _last_note = time.monotonic()
        note(f"epoch {epoch}: step {step} of {num_steps}, loss {loss:.3f}")


def report(
    metrics: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    *,
    every_worker: bool = False,
) -> None:
    """Report an evaluation, and with it the files of a checkpoint; every worker must call it.

    Metrics of rank 0 count, and its files; with `every_worker` the files of all, under names that differ, are one
    checkpoint. Metrics that are only {"note": ...} are logged by the driver. Returns when the report is committed: a crash
    afterwards does not lose it.
    """
    if files is not None and (rank() == 0 or every_worker):
        with tempfile.TemporaryDirectory(prefix="xrec-report-") as folder:
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(folder))
    else:
        ray.train.report(dict(metrics))
    ray.train.get_all_reported_checkpoints()  # waits for the commit


def preempted_nodes() -> frozenset[str]:
    """Ids of nodes with workers of this run that will be taken away (Ray's drain notice), the same on every worker; each must call it."""
    notice = ray.train.get_preemption_info()
    return frozenset(notice.preempted_node_ids if notice else ())


@contextmanager
def last_checkpoint() -> Iterator[ReadFile | None]:
    """Reads the last committed checkpoint's files: of the workers before this one, or of the driver before (`fit`); None without one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield lambda name: Path(folder, name).read_bytes()
