"""The series that a training run exports through Ray, for Prometheus. The driver sets them.

All have the label `job`:

    xrec_train_running      xrec_train_loss{split="train" | "validation"}
    xrec_train_epoch        xrec_train_score{metric="ndcg@20" | ...}
    xrec_train_step         xrec_train_epoch_seconds
                            xrec_train_reported_timestamp_seconds
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.util.metrics import Gauge

_GAUGES = {
    "running": "1 while the driver trains, 0 after it has ended in any way.",
    "epoch": "Last epoch that was reported.",
    "step": "Optimizer steps up to the last report; of adapters only.",
    "loss": "Mean loss of the last epoch; of adapters in nats a token.",
    "score": "Validation ranking metrics of the last evaluation; of graphs only.",
    "epoch_seconds": "Seconds that the last epoch took.",
    "reported_timestamp_seconds": "When the last epoch was reported, in seconds since 1970.",
}
_LABELS = {"loss": "split", "score": "metric"}
_SPLITS = {"loss": "train", "train_loss": "train", "validation_loss": "validation"}


class TrainingMetrics:
    """The series of one job's driver, for instance `train-adapter`. Ray must be initialised."""

    def __init__(self, job: str):
        self._job = job
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
        self._set("reported_timestamp_seconds", time.time())
        try:
            yield
        finally:
            self._set("running", 0)

    def record(self, row: Mapping[str, Any]) -> None:
        """Export an epoch's row.

        It has `epoch` and `seconds`, and may have `step`, `loss` or `train_loss`,
        `validation_loss`, and scores such as `ndcg@20`.
        """
        self._set("epoch", row["epoch"])
        self._set("epoch_seconds", row["seconds"])
        self._set("reported_timestamp_seconds", time.time())
        if "step" in row:
            self._set("step", row["step"])
        for name, value in row.items():
            if name in _SPLITS:
                self._set("loss", value, split=_SPLITS[name])
            elif "@" in name:
                self._set("score", value, metric=name)

    def _set(self, name: str, value: float, **label: str) -> None:
        self._gauges[name].set(value, {"job": self._job, **label})
