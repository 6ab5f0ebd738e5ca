"""A training worker in the test's own process, with the real DeepSpeed.

As the first of several workers, it has torch's fake process group in place of the others, which
send what this one sends and add nothing to sums.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import ray.train
import torch.distributed as dist
from ray.train.v2._internal.execution.train_fn_utils import LocalTrainFnUtils, set_train_fn_utils
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.world.here import Killed
from tests.world.store import copy_files
from xrec.config import PretrainGraphConfig, TrainAdapterConfig, Workers
from xrec.storage import Location, open_location
from xrec.train import adapter_worker, graph_worker
from xrec.train.deepspeed_engine import init_deepspeed
from xrec.train.example_shards import write_examples
from xrec.train.ray_worker import prepare_worker

Row = dict[str, Any]


class WorkerHere(LocalTrainFnUtils):  # type: ignore[misc]  # Ray has no types
    """Ray Train's side of a worker, with its checkpoints in `folder`.

    stop_before: the report that is lost, because the worker is stopped.
    """

    def __init__(self, folder: Path, num_workers: int, num_here: int) -> None:
        super().__init__("here", world_size=num_workers, local_world_size=num_here)
        self.rows, self.notes = list[Row](), list[str]()
        self.stop_before: Callable[[Row], bool] = lambda report: False
        self._folder = folder

    @property
    def checkpoints(self) -> list[Path]:
        return sorted(self._folder.glob("checkpoint-*"))

    def report(self, metrics: Row, checkpoint: Any = None, **_: Any) -> None:
        if self.stop_before(metrics):
            raise Killed
        if "note" in metrics:
            self.put(metrics)
        else:
            self.rows.append(metrics)
        if checkpoint is not None:
            name = f"checkpoint-{len(self.checkpoints):03}"
            shutil.copytree(checkpoint.path, self._folder / name)

    def get_checkpoint(self) -> Any:
        last = self.checkpoints[-1:]
        return ray.train.Checkpoint.from_directory(str(last[0])) if last else None

    def put(self, message: Row) -> None:
        """Take and log a note, as the driver does."""
        self.notes.append(message["note"])
        logging.getLogger("xrec").info(message["note"])


@contextlib.contextmanager
def worker_here(
    folder: Path, num_workers: int = 1, num_here: int | None = None
) -> Iterator[WorkerHere]:
    """Make this process rank 0 of `num_workers`; `num_here` of them are on its node."""
    import deepspeed

    worker = WorkerHere(folder, num_workers, num_here or num_workers)
    backend, store = ("gloo", dist.HashStore()) if num_workers == 1 else ("fake", FakeStore())
    dist.init_process_group(backend, store=store, rank=0, world_size=num_workers)
    set_train_fn_utils(worker)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        patch.setenv("DS_ACCELERATOR", "cpu")
        prepare_worker(1, worker)  # type: ignore[arg-type]
        init_deepspeed()
        try:
            yield worker
        finally:
            prepare_worker(1, None)
            deepspeed.comm.destroy_process_group()
            set_train_fn_utils(None)


@dataclass(frozen=True)
class Trained:
    """history: a row for each epoch. checkpoint: the last one. notes: what the driver logs."""

    history: list[Row]
    checkpoint: Path
    notes: list[str]


def train_here(
    folder: Path,
    config: TrainAdapterConfig | PretrainGraphConfig,
    stop_before: Callable[[Row], bool] | None = None,
    run: str = "run",
) -> Trained:
    """Train from the last checkpoint in `folder` to the end, or to the report `stop_before`."""
    with worker_here(folder, config.workers.num_processes) as worker:
        worker.stop_before = stop_before or worker.stop_before
        with contextlib.suppress(Killed) if stop_before else contextlib.nullcontext():
            if isinstance(config, TrainAdapterConfig):
                write_examples(config, {}, {})
                adapter_worker.train_worker({"config": config, "run": run})
            else:
                graph_worker.train_worker({"config": config, "run": run, "fold": None})
    checkpoint = worker.checkpoints[-1]
    history = json.loads((checkpoint / "progress.json").read_text())["history"]
    return Trained(history, checkpoint, worker.notes)


def fit_here(
    loop: Callable[[dict[str, Any]], None],
    loop_config: dict[str, Any],
    *,
    workers: Workers,
    storage: Location,
    name: str,
    on_report: Callable[[Row], None] | None = None,
) -> Location:
    """Do what `xrec.train.ray_driver.fit` does with one worker, in this process.

    It keeps its last checkpoint, and resumes from it or else from the last one on Ray.
    """
    assert workers.num_processes == 1
    run = storage / name
    with TemporaryDirectory() as folder, worker_here(Path(folder)) as worker:
        if kept := [file for file in run.files() if file.endswith("/progress.json")]:
            last = max(kept).removesuffix("/progress.json")  # Ray's names begin with "checkpoint"
            copy_files(run / last, open_location(folder) / "checkpoint-000")
        loop(loop_config)
        for row in worker.rows:
            if on_report is not None:
                on_report(row)
        return copy_files(open_location(str(worker.checkpoints[-1])), run / "last")
