"""The worker's side of a training job on Ray Train: device, rank, reports, checkpoints, notices.

A training loop runs in a worker process and uses these functions and its own argument only.
"""

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

from xrec.progress import Pace
from xrec.train.checkpoint import ReadFile

if TYPE_CHECKING:
    from ray.util.queue import Queue


_SECONDS_BETWEEN_NOTES = 10.0
_notes: "Queue | None" = None
_last_note = 0.0
_pace: Pace | None = None

# Ray itself looks for notices every 5 s. One call takes 2 to 3 ms on each worker, so it is not made
# at each step.
_SECONDS_BETWEEN_LOOKS = 5.0


def prepare_worker(
    num_threads: int, notes: "Queue | None", device: torch.device | None = None
) -> None:
    """Set up this process before the loop: torch's threads, DeepSpeed's device, the way to log.

    device: of this worker; by default the one that Ray gave it.
    """
    global _notes, _last_note, _pace
    _notes, _last_note, _pace = notes, 0.0, None
    torch.set_num_threads(num_threads)
    device = device or worker_device()
    if device.type == "cpu":
        # Otherwise DeepSpeed takes a GPU that it sees, whatever Ray gave this worker.
        os.environ["DS_ACCELERATOR"] = "cpu"
    else:
        # DeepSpeed takes the GPU of this number among those that the process sees. Ray counts the
        # workers of the node here, which is another number where each sees its own GPU only.
        os.environ["LOCAL_RANK"] = str(device.index or 0)
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


def local_world_size() -> int:
    """Number of workers on this worker's node."""
    return int(ray.train.get_context().get_local_world_size())


def local_rank() -> int:
    """This worker's number on its node, from 0 on."""
    return int(ray.train.get_context().get_local_rank())


def wait_for_workers() -> None:
    """Return when every worker has called it."""
    least_of_workers(0.0)


def least_of_workers(value: float) -> float:
    """The least `value` of all workers; every worker must call it."""
    if world_size() == 1:
        return value
    values = torch.tensor(value, dtype=torch.float64, device=worker_device())
    torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MIN)
    return float(values)


def any_worker(flag: bool) -> bool:
    """Whether `flag` is set on any worker; every worker must call it."""
    return least_of_workers(-float(flag)) < 0


def note(text: str) -> None:
    """Have the driver log `text` of rank 0; calls of other ranks do nothing."""
    if rank() == 0 and _notes is not None:
        _notes.put({"note": text})


def note_step(epoch: int, step: int, num_steps: int, loss: float | torch.Tensor) -> None:
    """Have the driver log the loss of step `step` of the whole training, and what is to go of it.

    It does so at most once in ten seconds. num_steps: of all epochs; patience may end it earlier.
    A `loss` on a device is read only if it is logged: to read it is to wait for the device.
    """
    global _last_note, _pace
    _pace = _pace or Pace(num_steps)
    to_go = _pace.to_go(step)
    if time.monotonic() - _last_note > _SECONDS_BETWEEN_NOTES:
        _last_note = time.monotonic()
        note(f"step {step} of {num_steps}{to_go}; epoch {epoch}, loss {float(loss):.3f}")


def report(
    metrics: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    *,
    every_worker: bool = False,
) -> None:
    """Report metrics to the driver, and with them the files of a checkpoint.

    Every worker must call it. The metrics of rank 0 count, and its files. With `every_worker` the
    files of all workers, whose names must differ, form one checkpoint. Metrics of the form
    {"note": ...} are only logged. When this function returns, the checkpoint is committed: a crash
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


@contextmanager
def checkpoint_folder() -> Iterator[Path | None]:
    """Give this node's copy of the last committed checkpoint, as long as the context lasts.

    Earlier workers of this run may have written it, or an earlier run (`ray_driver.fit`). Without
    a checkpoint the result is None.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


@contextmanager
def last_checkpoint() -> Iterator[ReadFile | None]:
    """Give a function that reads the files of `checkpoint_folder`, or None without a checkpoint."""
    with checkpoint_folder() as folder:
        yield None if folder is None else lambda name: (folder / name).read_bytes()


class PreemptionWatch:
    """Watches for Ray's notice that nodes of this run will be taken away (its drain notice)."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._looked_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether this worker's last look was some seconds ago; the workers' clocks may differ."""
        return time.monotonic() - self._looked_at > _SECONDS_BETWEEN_LOOKS

    def has_new_notice(self) -> bool:
        """Look; return whether a notice came since the last look. Every worker must call it."""
        notice = ray.train.get_preemption_info()
        nodes = frozenset(notice.preempted_node_ids if notice else ())
        is_new = bool(nodes - self._known)
        self._known, self._looked_at = nodes, time.monotonic()
        return is_new
