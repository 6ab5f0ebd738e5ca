"""The worker's side of a training job on Ray Train: device, rank, reports, checkpoints, notices."""

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

if TYPE_CHECKING:
    from ray.util.queue import Queue


_SECONDS_BETWEEN_NOTES = 10.0
_notes: "Queue | None" = None
_last_note = 0.0
_pace: Pace | None = None

# Ray itself polls for notices every 5 s. A call takes 2 to 3 ms, too much for every step.
_SECONDS_BETWEEN_LOOKS = 5.0


def prepare_worker(
    num_threads: int, notes: "Queue | None", device: torch.device | None = None
) -> None:
    """Set up this process before the loop: torch's threads, DeepSpeed's device, the log.

    notes: the queue to the driver. device: by default, the one that Ray assigned.
    """
    global _notes, _last_note, _pace
    _notes, _last_note, _pace = notes, 0.0, None
    torch.set_num_threads(num_threads)
    device = device or worker_device()
    if device.type == "cpu":
        # Otherwise DeepSpeed takes any visible GPU, even if Ray assigned none.
        os.environ["DS_ACCELERATOR"] = "cpu"
    else:
        # DeepSpeed uses this as an index into the visible GPUs. Ray sets it to the worker's number
        # on its node, which differs where each worker sees only its own GPU.
        os.environ["LOCAL_RANK"] = str(device.index or 0)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def worker_device() -> torch.device:
    """Return the device that Ray assigned to this worker."""
    device: torch.device = ray.train.torch.get_device()
    return device


def rank() -> int:
    """Return this worker's number, from 0 to world_size() - 1."""
    return int(ray.train.get_context().get_world_rank())


def world_size() -> int:
    """Return the number of workers."""
    return int(ray.train.get_context().get_world_size())


def local_world_size() -> int:
    """Return the number of workers on this worker's node."""
    return int(ray.train.get_context().get_local_world_size())


def local_rank() -> int:
    """Return this worker's number on its node, from 0."""
    return int(ray.train.get_context().get_local_rank())


def wait_for_workers() -> None:
    """Return once every worker has called this function."""
    least_of_workers(0.0)


def least_of_workers(value: float) -> float:
    """Return the least `value` of all workers. Collective."""
    if world_size() == 1:
        return value
    values = torch.tensor(value, dtype=torch.float64, device=worker_device())
    torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MIN)
    return float(values)


def any_worker(flag: bool) -> bool:
    """Return whether `flag` is set on any worker. Collective."""
    return least_of_workers(-float(flag)) < 0


def note(text: str) -> None:
    """Have the driver log `text`; only rank 0 sends it."""
    if rank() == 0 and _notes is not None:
        _notes.put({"note": text})


def note_step(epoch: int, step: int, num_steps: int, loss: float | torch.Tensor) -> None:
    """Have the driver log a step's loss and the time left, at most every ten seconds.

    step, num_steps: over all epochs; patience may end training earlier. A `loss` on a device is
    read only when it is logged, because reading it waits for the device.
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
    """Report rank 0's metrics to the driver, and its files as a checkpoint. Collective.

    With `every_worker`, the files of all workers, whose names must differ, form the checkpoint.
    Metrics of the form {"note": ...} are only logged. When this function returns, the checkpoint is
    committed and survives a crash.
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
    """Give the folder of the last committed checkpoint on this node, or None if there is none.

    Workers of this driver or of an earlier one of the same run wrote it.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


class PreemptionWatch:
    """Watches for Ray's notice that it will remove nodes of this run (a drain notice)."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._looked_at = time.monotonic()

    def is_due(self) -> bool:
        """Return whether this worker should poll again; workers may disagree."""
        return time.monotonic() - self._looked_at > _SECONDS_BETWEEN_LOOKS

    def has_new_notice(self) -> bool:
        """Poll; return whether there is a notice since the last poll. Collective."""
        notice = ray.train.get_preemption_info()
        nodes = frozenset(notice.preempted_node_ids if notice else ())
        is_new = bool(nodes - self._known)
        self._known, self._looked_at = nodes, time.monotonic()
        return is_new
