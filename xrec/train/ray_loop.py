"""What every training job shares on the driver's side: one `fit` on Ray Train v2, its progress, its outcome, its errors.

    driver: fit(loop, {...}) ── Ray Train controller ── workers: loop({...}), see xrec.train.worker_loop
                ^──────── report queue ─────┘

Ray must be initialised by the job. Checkpoints lie below `storage`, and a run goes on from the last one that is there; who calls
`fit` sees to it that they are of this run (xrec.train.checkpoint), and deletes them when they are used.
"""

import logging
import os
import queue
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.train
from ray.train import TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xrec.config.shared import ScalingConfig
from xrec.errors import StorageError, TrainingError, XRecError
from xrec.storage import Location
from xrec.train.errors_loop import as_xrec_error, own_cause
from xrec.train.scaling_loop import MINUTES_TO_GROW, check_cpus, elastic_range, uses_gpu
from xrec.train.worker_loop import (
    initialize_engine,
    prepare_worker,
    rank,
    report,
    worker_device,
    world_size,
)

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
OnReport = Callable[[Metrics], None]

# Ray Train looks after its workers every 2 s; a report and the end of a loop each wait for that look.
_POLL_SECONDS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


@dataclass(frozen=True)
class TrainingOutcome:
    """What a finished `fit` leaves: the last checkpoint, and the metrics that were reported with it."""

    metrics: Metrics
    checkpoint: Location

    def read_checkpoint_file(self, name: str) -> bytes:
        """The file `name` of the last checkpoint; raises StorageNotFoundError."""
        return (self.checkpoint / name).read_bytes()


def fit(
    train_loop_per_worker: TrainLoop,
    loop_config: dict[str, Any],
    *,
    scaling: ScalingConfig,
    storage: Location,
    name: str,
    on_report: OnReport | None = None,
) -> TrainingOutcome:
    """Run the loop on the workers of `scaling` and return when all of them have ended.

    The loop's metrics (`xrec.train.worker_loop.report`) reach `on_report`, which runs here, in the driver, one by one as they
    arrive; what replaced workers do again, they report again. Checkpoints lie in `storage`/`name`: the loop finds the last one
    by `last_checkpoint`, be it of the workers before or of an earlier run.

    Raises ClusterError if the workers find no place, TrainingError with the worker's own message if one fails; an XRecError of a
    worker is raised as it is, at once, without replacing workers.
    """
    # On the driver's own node: with another node it might be lost.
    reports = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": _here()})
    try:
        with _fast_polling():
            result = _fit_and_listen(
                _trainer(train_loop_per_worker, loop_config, scaling, storage, name, reports),
                reports,
                on_report,
            )
    except TrainingFailedError as error:
        raise as_xrec_error(error) from error
    finally:
        reports.shutdown(force=True)
    if result.checkpoint is None:
        raise TrainingError(
            "training ended without reporting any files; the loop must call report(metrics, files) at least once"
        )
    path = result.checkpoint.path
    return TrainingOutcome(
        result.metrics, replace(storage, uri=f"{storage.uri} ({path})", path=path)
    )


def _here() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _trainer(
    train_loop_per_worker: TrainLoop,
    loop_config: dict[str, Any],
    scaling: ScalingConfig,
    storage: Location,
    name: str,
    reports: Queue,
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
            num_workers=elastic_range(scaling),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker, "GPU": int(use_gpu)},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage.path,
            storage_filesystem=storage.arrow_filesystem(),
            failure_config=ray.train.FailureConfig(
                max_failures=scaling.max_failures, controller_failure_limit=MINUTES_TO_GROW
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
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


def _fit_and_listen(
    trainer: TorchTrainer, reports: Queue, on_report: OnReport | None
) -> ray.train.Result:
    # fit() runs in a thread: in the main thread it would take Ctrl-C for itself and exit with status 0.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xrec-fit")
    future = executor.submit(trainer.fit)
    executor.shutdown(wait=False)
    for message in _received(reports, future):
        if "note" in message:
            logger.info("%s", message["note"])
        elif on_report is not None:
            on_report(message)
    return future.result()


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
    added: Mapping[str, str] = {
        name: value for name, value in _POLL_SECONDS.items() if name not in os.environ
    }
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
