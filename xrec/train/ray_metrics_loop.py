"""A training run's epochs as Ray metrics, for Prometheus; the driver records each as it is reported. Every series has `job`.

xrec_train_epoch    xrec_train_step    xrec_train_loss{split="train" | "validation"}    xrec_train_score{metric="ndcg@20" | ...}
xrec_train_epoch_seconds    xrec_train_reported_timestamp_seconds    xrec_train_running
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.util.metrics import Gauge


class TrainingMetrics:
    """Metrics of one driver's job, e.g. `train-adapter`. Ray must be initialised."""

    def __init__(self, job: str):
        self._tags = {"job": job}
        self._running = Gauge(
            "xrec_train_running",
            "1 while the driver trains, 0 when it has ended, by whatever.",
            ("job",),
        )
        self._epoch = Gauge("xrec_train_epoch", "Last epoch that was reported.", ("job",))
        self._step = Gauge(
            "xrec_train_step", "Optimizer steps up to the last report; of adapters only.", ("job",)
        )
        self._loss = Gauge(
            "xrec_train_loss",
            "Mean loss of the last epoch: of adapters in nats a token.",
            ("job", "split"),
        )
        self._score = Gauge(
            "xrec_train_score",
            "Validation ranking metrics of the last evaluation; of graphs only.",
            ("job", "metric"),
        )
        self._seconds = Gauge(
            "xrec_train_epoch_seconds", "Time that the last epoch took, s.", ("job",)
        )
        self._reported = Gauge(
            "xrec_train_reported_timestamp_seconds",
            "When the last epoch was reported, s since 1970.",
            ("job",),
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """The time in which the job trains; its start counts as a report, so that silence can be measured from there."""
        self._running.set(1, self._tags)
        self._reported.set(time.time(), self._tags)
        try:
            yield
        finally:
            self._running.set(0, self._tags)

    def record(self, row: Mapping[str, Any]) -> None:
        """Count an epoch's row: `epoch`, `seconds`, and of `step`, `loss` or `train_loss`, `validation_loss`, `ndcg@20`, ... what it has."""
        self._epoch.set(row["epoch"], self._tags)
        self._seconds.set(row["seconds"], self._tags)
        self._reported.set(time.time(), self._tags)
        if "step" in row:
            self._step.set(row["step"], self._tags)
        for key, split in (
            ("loss", "train"),
            ("train_loss", "train"),
            ("validation_loss", "validation"),
        ):
            if key in row:
                self._loss.set(row[key], {**self._tags, "split": split})
        for metric, value in row.items():
            if "@" in metric:
                self._score.set(value, {**self._tags, "metric": metric})
