"""The driver's side of a training job on Ray Train: its lease, its workers, reports, and errors.

    driver: fit(loop, {...}) ── Ray Train's controller ── workers: loop({...}), see ray_worker.py
                ^──────────── queue of reports ──────────────┘

The job initializes Ray. Checkpoints are in `storage`, and a run resumes from the last one.

While it trains, the driver exports metrics through Ray, for Prometheus, with the label `job`:

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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Literal

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
from xrec.errors import ConfigError, StorageError, TrainingError, XRecError
from xrec.storage import CHECKPOINTS, Location, Manifest, claim, finished, only_driver
from xrec.train.ray_worker import prepare_worker

logger = logging.getLogger("xrec")

Metrics = dict[str, Any]
TrainLoop = Callable[[dict[str, Any]], None]
OnReport = Callable[[Metrics], None]

# By default Ray Train polls its workers every 2 s, and every report waits for a poll.
_POLL_SECONDS = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

# Ray Train waits 60 s for resources per try, so this many tries give an autoscaler that many
# minutes to add nodes.
_MINUTES_TO_GROW = 10

# The metrics by name, the report fields they show, and their labels besides `job`.
_GAUGES = {
    "running": "1 while the driver trains, 0 after it has ended for any reason.",
    "epoch": "Last reported epoch.",
    "step": "Optimizer steps up to the last report; adapters only.",
    "loss": "Mean loss of the last epoch; for adapters in nats per token.",
    "score": "Validation ranking metrics of the last evaluation; graphs only.",
    "epoch_seconds": "Duration of the last epoch in seconds.",
    "reported_timestamp_seconds": "Unix time of the last report.",
}
_FIELDS = {"epoch": "epoch", "step": "step", "seconds": "epoch_seconds"}
_LABELS = {"loss": "split", "score": "metric"}
_SPLITS = {"loss": "train", "train_loss": "train", "validation_loss": "validation"}


class TrainingMetrics:
    """The metrics of one job's driver, such as `train-adapter`. Ray must be initialized.

    gauge: makes a metric, given its name, description and labels.
    """

    def __init__(
        self, job: str, clock: Callable[[], float] = time.time, gauge: type[Gauge] = Gauge
    ):
        self._job, self._clock = job, clock
        self._gauges = {
            name: gauge(f"xrec_train_{name}", text, ("job", *filter(None, [_LABELS.get(name)])))
            for name, text in _GAUGES.items()
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Set `running` to 1 during the block; its start counts as a report."""
        self._set("running", 1)
        self._set("reported_timestamp_seconds", self._clock())
        try:
            yield
        finally:
            self._set("running", 0)

    def record(self, row: Mapping[str, Any]) -> None:
        """Export the known fields of an epoch's row; names with an "@" are scores."""
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


def train_once(
    output: Location,
    kind: Literal["graph", "adapter"],
    identity: tuple[dict[str, Any], dict[str, str]],
    make: Callable[[dict[str, Any], dict[str, str]], Manifest],
    cluster: Callable[[], AbstractContextManager[None]],
) -> Manifest:
    """Return the artifact's manifest, after training with `make` if it is not finished.

    `make` is given the identity: the settings and input fingerprints that the content depends on.
    Meanwhile `cluster` keeps Ray initialized, and this process holds the lease of the checkpoints,
    which are deleted in the end.

    Raises ArtifactMismatchError if another run's artifact or checkpoints are at `output`, and
    LeaseError if another driver is training there.
    """
    if (manifest := finished(output, kind, *identity)) is not None:
        return manifest
    checkpoints = output / CHECKPOINTS
    claim(checkpoints, kind, *identity)
    with cluster(), only_driver(checkpoints):
        manifest = make(*identity)
    checkpoints.delete()
    return manifest


def fit(
    train_loop_per_worker: TrainLoop,
    loop_config: dict[str, Any],
    *,
    workers: Workers,
    storage: Location,
    name: str,
    on_report: OnReport | None = None,
) -> Location:
    """Run the loop on Ray Train workers; return the location of the last checkpoint's files.

    The driver exports each report (`xrec.train.ray_worker.report`) as metrics of the job `name`,
    and passes it to `on_report`. Workers that replace lost ones report repeated work again.
    Checkpoints are in `storage`/`name`. The loop finds the last one with `checkpoint_folder`, no
    matter which driver's workers wrote it.

    An XRecError of a worker is raised unchanged, without a retry; any other error becomes a
    TrainingError. Raises ConfigError if the cluster has GPUs but too few for the workers.
    """
    os.environ.setdefault(*_POLL_SECONDS)
    # On the driver's own node, so that the queue outlives other nodes.
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reports = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": this_node})
    try:
        trainer = _trainer(train_loop_per_worker, loop_config, workers, storage, name, reports)
        exported = TrainingMetrics(name)
        with exported.running():
            result = _fit_and_listen(trainer, reports, exported, on_report)
    except TrainingFailedError as error:
        raise _as_xrec_error(error) from error
    finally:
        reports.shutdown(force=True)
    assert result.checkpoint is not None, "a loop must report files at least once"
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
    # As bytes, so that Ray Train's controller does not import modules that only workers need.
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
    """Return whether each worker gets a GPU; with device=auto, if the cluster has any.

    Raises ConfigError if it has fewer GPUs than workers: they would be left unused.
    """
    if workers.device != "auto" or num_gpus == 0:
        return workers.device == "cuda"
    if num_gpus < workers.fewest:
        raise ConfigError(
            f"workers.device is auto, and the cluster has {num_gpus:g} GPUs for "
            f"{workers.fewest} workers: set workers.num_processes to {num_gpus:g} to use them, "
            "or workers.device to cpu to train without them",
            code="gpus_not_used",
            key="workers.num_processes",
            saw=workers.fewest,
        )
    return True


class _ReportCallback(UserCallback):  # type: ignore[misc]  # Ray has no types
    """Sends reports from Ray Train's controller to the driver, and ends runs that must fail."""

    def __init__(self, reports: Queue) -> None:
        self._reports = reports

    def after_report(self, run_context: Any, metrics: list[Metrics], checkpoint: Any) -> None:
        self._reports.put(metrics[0])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = _own_cause(error)
            # A store may recover before the next try; wrong data or a NaN loss would not.
            if isinstance(cause, XRecError) and not isinstance(cause, StorageError):
                raise cause


def _fit_and_listen(
    trainer: TorchTrainer, reports: Queue, exported: TrainingMetrics, on_report: OnReport | None
) -> ray.train.Result:
    # fit() runs in a thread; in the main thread it would catch Ctrl-C and exit with status 0.
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
    """Yield reports until the run has ended and the queue is empty."""
    while True:
        ended = future.done()
        try:
            yield reports.get(timeout=0.2) if not ended else reports.get_nowait()
        except (Empty, queue.Empty):
            if ended:
                return


def _as_xrec_error(error: TrainingFailedError) -> XRecError:
    """Return the XRecError of the lowest rank that has one, or a TrainingError with the cause."""
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
        f"worker {min(failures)} failed, also after retries (workers.max_failures): {text}",
        code="worker_failed",
        key="workers.max_failures",
        saw=name,
    )


def _own_cause(error: BaseException) -> BaseException:
    """Return the exception inside Ray Train's wrappers."""
    for name in ("_base_exc", "controller_failure"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return _own_cause(inner)
    return error
