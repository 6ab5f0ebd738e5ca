"""The driver's side of a training job on Ray Train: room for workers, their reports and errors.

    driver: fit(loop, {...}) ── Ray Train's controller ── workers: loop({...}), see ray_worker.py
                ^──────────── queue of reports ──────────────┘

The job initialises Ray. Checkpoints lie below `storage`, and a run goes on from the last one that
is there. Whoever calls `fit` makes sure that they are of this run (`xrec.storage.claim`)
and deletes them when they are no longer needed.

While it trains, the driver exports series through Ray, for Prometheus. All have the label `job`:

    xrec_train_running      xrec_train_loss{split="train" | "validation"}
    xrec_train_epoch        xrec_train_score{metric="ndcg@20" | ...}
    xrec_train_step         xrec_train_epoch_seconds
                            xrec_train_reported_timestamp_seconds
"""

import logging
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray import cloudpickle
from ray.train import TrainingFailedError, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import ControllerError
from ray.util.metrics import Gauge
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xrec.config import Workers
from xrec.errors import StorageError, TrainingError, XRecError
from xrec.storage import (
    Location,
    only_driver,
)
from xrec.train.ray_worker import prepare_worker

logger = logging.getLogger("xrec")

Metrics = dict[str, Any]
TrainLoop = Callable[[dict[str, Any]], None]
OnReport = Callable[[Metrics], None]

# Ray Train checks on its workers every 2 s by default, and every report waits for such a check.
_POLL_SECONDS = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

# Ray Train waits 60 s for room for the workers before it tries again. With this many tries an
# autoscaler has that many minutes to bring nodes.
_MINUTES_TO_GROW = 10

# The series by name; which field of a report is in which; their labels beside `job`.
_GAUGES = {
    "running": "1 while the driver trains, 0 after it has ended in any way.",
    "epoch": "Last epoch that was reported.",
    "step": "Optimizer steps up to the last report; of adapters only.",
    "loss": "Mean loss of the last epoch; of adapters in nats a token.",
    "score": "Validation ranking metrics of the last evaluation; of graphs only.",
    "epoch_seconds": "Seconds that the last epoch took.",
    "reported_timestamp_seconds": "When the last epoch was reported, in seconds since 1970.",
}
_FIELDS = {"epoch": "epoch", "step": "step", "seconds": "epoch_seconds"}
_LABELS = {"loss": "split", "score": "metric"}
_SPLITS = {"loss": "train", "train_loss": "train", "validation_loss": "validation"}


class TrainingMetrics:
    """The series of one job's driver, for instance `train-adapter`. Ray must be initialised."""

    def __init__(self, job: str, clock: Callable[[], float] = time.time):
        self._job, self._clock = job, clock
        self._gauges = {
            name: Gauge(f"xrec_train_{name}", text, ("job", *filter(None, [_LABELS.get(name)])))
            for name, text in _GAUGES.items()
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Mark the time in which the job trains.

        Its start counts as a report, so that the time without reports can be measured from there.
        """
        self._set("running", 1)
        self._set("reported_timestamp_seconds", self._clock())
        try:
            yield
        finally:
            self._set("running", 0)

    def record(self, row: Mapping[str, Any]) -> None:
        """Export what there is of an epoch's row.

        It may have `epoch`, `step`, `seconds`, `loss` or `train_loss`, `validation_loss`, and
        scores such as `ndcg@20`.
        """
        self._set("reported_timestamp_seconds", self._clock())
        for name, value in row.items():
            if name in _FIELDS:
                self._set(_FIELDS[name], value)
            elif name in _SPLITS:
                self._set("loss", value, split=_SPLITS[name])
            elif "@" in name:
                self._set("score", value, metric=name)

    def _set(self, name: str, value: float, **label: str) -> None:
        self._gauges[name].set(value, {"job": self._job, **label})


def fit(
    train_loop_per_worker: TrainLoop,
    loop_config: dict[str, Any],
    *,
    workers: Workers,
    storage: Location,
    name: str,
    on_report: OnReport | None = None,
) -> Location:
    """Run the loop on the workers of `workers`; returns where the last checkpoint's files are.

    The metrics of each `xrec.train.ray_worker.report` are exported as they arrive, as series of the
    job `name`, and then given to `on_report`, in the driver; workers that replace lost ones report
    again what they do again. Checkpoints lie in `storage`/`name`. The loop finds the last one by
    `last_checkpoint`, whether workers of this run or of an earlier one have written it.

    Raises LeaseError if another driver trains into `storage`. An XRecError of a worker is raised as
    it is and without replacing workers; any other error becomes a TrainingError.
    """
    os.environ.setdefault(*_POLL_SECONDS)
    # On the driver's own node: another node might be lost, and the queue with it.
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reports = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": this_node})
    try:
        trainer = _trainer(train_loop_per_worker, loop_config, workers, storage, name, reports)
        exported = TrainingMetrics(name)
        with only_driver(storage), exported.running():
            result = _fit_and_listen(trainer, reports, exported, on_report)
    except TrainingFailedError as error:
        raise _as_xrec_error(error) from error
    finally:
        reports.shutdown(force=True)
    assert result.checkpoint is not None, "a loop reports files at least once"
    path = result.checkpoint.path
    return replace(storage, uri=f"{storage.uri} ({path})", path=path)


def _trainer(
    train_loop_per_worker: TrainLoop,
    loop_config: dict[str, Any],
    workers: Workers,
    storage: Location,
    name: str,
    reports: Queue,
) -> TorchTrainer:
    num_gpus = ray.cluster_resources().get("GPU", 0)
    use_gpu, num_threads = uses_gpu(workers, num_gpus), workers.cpus
    fewest, most = workers.fewest, workers.num_processes
    # As bytes, so that Ray Train's controller does not import what only workers need.
    loop = cloudpickle.dumps(train_loop_per_worker)

    def run_worker(config: dict[str, Any]) -> None:
        prepare_worker(num_threads, reports)
        cloudpickle.loads(loop)(config)

    return TorchTrainer(
        run_worker,
        train_loop_config=loop_config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": num_threads, "GPU": int(use_gpu)},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage.path,
            storage_filesystem=storage.arrow_filesystem(),
            failure_config=ray.train.FailureConfig(
                max_failures=workers.max_failures, controller_failure_limit=_MINUTES_TO_GROW
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[_ReportCallback(reports)],
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )


def uses_gpu(workers: Workers, num_gpus: float) -> bool:
    """Whether each worker gets a GPU; with device=auto, if the cluster's are enough."""
    enough = num_gpus >= workers.fewest
    return workers.device == "cuda" or (workers.device == "auto" and enough)


class _ReportCallback(UserCallback):  # type: ignore[misc]  # Ray has no types
    """Runs in Ray Train's controller: sends reports to the driver, and ends a run that is lost."""

    def __init__(self, reports: Queue) -> None:
        self._reports = reports

    def after_report(self, run_context: Any, metrics: list[Metrics], checkpoint: Any) -> None:
        self._reports.put(metrics[0])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = _own_cause(error)
            # A store may answer again at the next try. Wrong data or a NaN loss would come again.
            if isinstance(cause, XRecError) and not isinstance(cause, StorageError):
                raise cause


def _fit_and_listen(
    trainer: TorchTrainer, reports: Queue, exported: TrainingMetrics, on_report: OnReport | None
) -> ray.train.Result:
    # fit() runs in a thread: in the main thread it would catch Ctrl-C and exit with status 0.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xrec-fit")
    future = executor.submit(trainer.fit)
    executor.shutdown(wait=False)
    for message in _received(reports, future):
        if "note" in message:
            logger.info("%s", message["note"])
            continue
        exported.record(message)
        if on_report is not None:
            on_report(message)
    return future.result()


def _received(reports: Queue, future: "Future[ray.train.Result]") -> Iterator[Metrics]:
    """Yield the reports as they come, until the run has ended and the queue is empty."""
    while True:
        ended = future.done()
        try:
            yield reports.get(timeout=0.2) if not ended else reports.get_nowait()
        except (Empty, queue.Empty):
            if ended:
                return


def _as_xrec_error(error: TrainingFailedError) -> XRecError:
    """Return an XRecError of a worker, the lowest rank's, or a TrainingError with the cause."""
    failures = (isinstance(error, WorkerGroupError) and error.worker_failures) or {0: error}
    causes = [_own_cause(failure) for _, failure in sorted(failures.items())]
    for cause in causes:
        if isinstance(cause, XRecError):
            return cause
    first_line = (str(causes[0]).strip().splitlines() or [""])[0][:500]
    name = type(causes[0]).__name__
    text = f"{name}: {first_line}"
    if isinstance(error, ControllerError):
        return TrainingError(f"training stopped: {text}", code="training_stopped", saw=name)
    return TrainingError(
        f"worker {min(failures)} of the training failed, and retries (workers.max_failures) did "
        f"not help: {text}",
        code="worker_failed",
        key="workers.max_failures",
        saw=name,
    )


def _own_cause(error: BaseException) -> BaseException:
    """Return the exception of our own code inside Ray Train's wrappers."""
    for name in ("_base_exc", "controller_failure"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return _own_cause(inner)
    return error
