"""What every training job shares on the driver's side: one `fit` on Ray Train v2, its progress, its outcome, its errors.

    driver: fit(loop, {...}) ── Ray Train controller ── workers: loop({...}), see xrec.train.worker_loop
                ^──────── report queue ─────┘

Ray must be initialised by the job. Checkpoints lie below `storage`; who calls `fit` deletes them when they are used.
"""

import logging
import os
import queue
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray
import ray.train
from ray.train import TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue

from xrec.config import ScalingConfig
from xrec.errors import StorageError, TrainingError, XRecError
from xrec.storage import Location
from xrec.train.errors_loop import as_xrec_error, own_cause
from xrec.train.scaling_loop import MINUTES_TO_GROW, check_cpus, uses_gpu
from xrec.train.worker_loop import initialize_engine, prepare_worker, rank, report, worker_device, world_size

__all__ = [
    "TrainingOutcome",
    "fit",
    "initialize_engine",
    "rank",
    "report",
    "uses_gpu",
    "worker_device",
    "world_size",
]

logger = logging.getLogger("xrec")

Metrics = dict[str, Any]
TrainLoop = Callable[[dict[str, Any]], None]
OnReport = Callable[[int, Metrics], None]

# Ray Train looks after its workers every 2 s; a report and the end of a loop each wait for that look.
_POLL_SECONDS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


@dataclass(frozen=True)
class TrainingOutcome:
    """What a finished `fit` leaves: all reports, and the files of the best one (of the last one, if there is no score)."""

    history: list[Metrics]
    best: Metrics
    best_checkpoint: Location

    def read_checkpoint_file(self, name: str) -> bytes:
        """The file `name` that was reported with `best`; raises StorageNotFoundError."""
        return (self.best_checkpoint / name).read_bytes()


@dataclass(frozen=True)
class _Checkpoints:
    """Where the checkpoints lie, `storage`/`name`, and which is the best: the last one if there is no `score`."""

    storage: Location
    name: str
    score: str | None
    mode: Literal["max", "min"]

    @property
    def location(self) -> Location:
        return self.storage / self.name

    def kept(self) -> ray.train.CheckpointConfig:
        """The best and the last one; two last ones, if there is no score."""
        return ray.train.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=self.score, checkpoint_score_order=self.mode)

    def best(self, result: ray.train.Result) -> tuple[ray.train.Checkpoint, Metrics]:
        if not result.best_checkpoints:
            raise TrainingError("training ended without reporting any files; the loop must call report(metrics, files) at least once")
        if self.score is None:
            return result.checkpoint, result.metrics
        choose = max if self.mode == "max" else min
        best: tuple[ray.train.Checkpoint, Metrics] = choose(result.best_checkpoints, key=lambda pair: pair[1][self.score])
        return best


def fit(
    train_loop_per_worker: TrainLoop,
    loop_config: dict[str, Any],
    *,
    scaling: ScalingConfig,
    storage: Location,
    name: str,
    score: str | None = None,
    mode: Literal["max", "min"] = "max",
    resume: bool = False,
    on_report: OnReport | None = None,
) -> TrainingOutcome:
    """Run the loop on `scaling.num_workers` workers and return when all of them have ended.

    Each report of the loop (`xrec.train.worker_loop.report`) must hold `epoch`, an int, and `score`, a float, if there is
    one. `history` has one entry an epoch: workers that were replaced report some epochs again, and the later report counts. `best`
    is the first of the best `score` among the reports with files, the last of them without a score. `on_report(n, metrics)` runs
    here, in the driver, for each report as it arrives, n = 1, 2, ... Checkpoints lie in `storage`/`name`. With `resume` the
    loop finds the last one of an earlier run there by `last_checkpoint`, as replaced workers do; without, that run's are deleted.

    Raises ClusterError if the workers find no place, TrainingError with the worker's own message if one fails; an XRecError of a
    worker is raised as it is, at once, without replacing workers.
    """
    checkpoints = _Checkpoints(storage, name, score, mode)
    if not resume:
        checkpoints.location.delete()
    reports = Queue(actor_options={"num_cpus": 0})
    try:
        with _fast_polling():
            trainer = _trainer(train_loop_per_worker, loop_config, scaling, checkpoints, reports)
            result, history = _fit_and_listen(trainer, reports, on_report)
    except TrainingFailedError as error:
        raise as_xrec_error(error) from error
    finally:
        reports.shutdown(force=True)
    checkpoint, best = checkpoints.best(result)
    return TrainingOutcome(history, best, Location(f"{storage.uri} ({checkpoint.path})", checkpoint.path, storage.fs))


def _trainer(
    train_loop_per_worker: TrainLoop, loop_config: dict[str, Any], scaling: ScalingConfig, checkpoints: _Checkpoints, reports: Queue
) -> TorchTrainer:
    check_cpus(scaling)
    use_gpu = uses_gpu(scaling)
    num_threads = scaling.cpus_per_worker

    def run_worker(config: dict[str, Any]) -> None:
        prepare_worker(num_threads, reports)
        train_loop_per_worker(config)

    return TorchTrainer(
        run_worker,
        train_loop_config=loop_config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": scaling.cpus_per_worker, "GPU": int(use_gpu)}
        ),
        run_config=ray.train.RunConfig(
            name=checkpoints.name,
            storage_path=checkpoints.storage.path,
            storage_filesystem=checkpoints.storage.arrow_filesystem(),
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures, controller_failure_limit=MINUTES_TO_GROW),
            checkpoint_config=checkpoints.kept(),
            callbacks=[_ReportCallback(reports)],
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )


class _ReportCallback(UserCallback):  # type: ignore[misc]  # Ray has no types
    """In Ray Train's controller: sends each report to the driver, and ends the run at an error that a retry cannot heal."""

    def __init__(self, reports: Queue) -> None:
        self._reports = reports

    def after_report(self, run_context: Any, metrics: list[Metrics], checkpoint: Any) -> None:
        self._reports.put(metrics[0])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = own_cause(error)
            # A store that stumbled may be back at the next try; wrong data or a NaN loss would only be seen again.
            if isinstance(cause, XRecError) and not isinstance(cause, StorageError):
                raise cause


def _fit_and_listen(trainer: TorchTrainer, reports: Queue, on_report: OnReport | None) -> tuple[ray.train.Result, list[Metrics]]:
    # fit() runs in a thread: in the main thread it would take Ctrl-C for itself and exit with status 0.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xrec-fit")
    future = executor.submit(trainer.fit)
    executor.shutdown(wait=False)
    by_epoch: dict[int, Metrics] = {}
    number = 0
    for message in _received(reports, future):
        if "note" in message:
            logger.info("%s", message["note"])
            continue
        number += 1
        by_epoch[message["epoch"]] = message
        if on_report is not None:
            on_report(number, message)
    return future.result(), [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _received(reports: Queue, future: "Future[ray.train.Result]") -> Iterator[Metrics]:
    """The reports as they come, until the run has ended and the queue is empty."""
    while True:
        ended = future.done()
        try:
            yield reports.get(timeout=0.2) if not ended else reports.get_nowait()
        except (Empty, queue.Empty):
            if ended:
                return


@contextmanager
def _fast_polling() -> Iterator[None]:
    """Ray Train takes these settings from the driver's environment only; what the user has set stays."""
    added: Mapping[str, str] = {name: value for name, value in _POLL_SECONDS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
