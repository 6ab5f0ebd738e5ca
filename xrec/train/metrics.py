"""The metrics of a training run while it runs: files, and series for Prometheus.

The driver writes them.

`MetricsLog` writes `metrics.jsonl` and TensorBoard's event file beside each other. Both are small
and are rewritten whole after each epoch, which an object store can do as well as a disk. To see
them: `tensorboard --logdir <graph>/tensorboard`.

`TrainingMetrics` exports these series through Ray, all with the label `job`:

    xrec_train_running      xrec_train_loss{split="train" | "validation"}
    xrec_train_epoch        xrec_train_score{metric="ndcg@20" | ...}
    xrec_train_step         xrec_train_epoch_seconds
                            xrec_train_reported_timestamp_seconds
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.util.metrics import Gauge
from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

from xrec.errors import StorageNotFoundError
from xrec.graph.artifact import METRICS, metrics_lines, read_metrics
from xrec.storage import Location

EVENTS = "tensorboard/events.out.tfevents.xrec"


class MetricsLog:
    """One row for each epoch; a row holds `epoch`, `time` (seconds since 1970) and numbers."""

    def __init__(self, location: Location) -> None:
        """Open the log at `location`; rows that are there are kept."""
        self._location = location
        self.rows = _read(location)

    def add(self, row: Mapping[str, Any]) -> None:
        """Log an epoch.

        An epoch that is trained a second time, because a worker was replaced, takes the place of
        the first one and of all after it.
        """
        self.rows = [
            *(earlier for earlier in self.rows if earlier["epoch"] < row["epoch"]),
            dict(row),
        ]
        (self._location / METRICS).write_bytes(metrics_lines(self.rows))
        (self._location / EVENTS).write_bytes(event_file(self.rows))


def event_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the content of a TensorBoard event file with all numbers of `rows`, by epoch."""
    with tempfile.TemporaryDirectory(prefix="xrec-tensorboard-") as folder:
        with SummaryWriter(folder) as writer:
            for row in rows:
                for name in sorted(row.keys() - {"epoch", "time"}):
                    writer.add_scalar(
                        name.replace("@", "_"),
                        row[name],
                        global_step=row["epoch"],
                        walltime=row["time"],
                    )
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


def _read(location: Location) -> list[dict[str, Any]]:
    try:
        return read_metrics(location)
    except StorageNotFoundError:
        return []


class TrainingMetrics:
    """The series of one job's driver, for instance `train-adapter`. Ray must be initialised."""

    def __init__(self, job: str):
        self._tags = {"job": job}
        self._running = _gauge(
            "xrec_train_running", "1 while the driver trains, 0 after it has ended in any way."
        )
        self._epoch = _gauge("xrec_train_epoch", "Last epoch that was reported.")
        self._step = _gauge(
            "xrec_train_step", "Optimizer steps up to the last report; of adapters only."
        )
        self._loss = _gauge(
            "xrec_train_loss", "Mean loss of the last epoch; of adapters in nats a token.", "split"
        )
        self._score = _gauge(
            "xrec_train_score",
            "Validation ranking metrics of the last evaluation; of graphs only.",
            "metric",
        )
        self._seconds = _gauge("xrec_train_epoch_seconds", "Seconds that the last epoch took.")
        self._reported = _gauge(
            "xrec_train_reported_timestamp_seconds",
            "When the last epoch was reported, in seconds since 1970.",
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Mark the time in which the job trains.

        Its start counts as a report, so that the time without reports can be measured from there.
        """
        self._running.set(1, self._tags)
        self._reported.set(time.time(), self._tags)
        try:
            yield
        finally:
            self._running.set(0, self._tags)

    def record(self, row: Mapping[str, Any]) -> None:
        """Export an epoch's row.

        It has `epoch` and `seconds`, and may have `step`, `loss` or `train_loss`,
        `validation_loss`, and scores such as `ndcg@20`.
        """
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


def _gauge(name: str, description: str, *labels: str) -> Gauge:
    return Gauge(name, description, ("job", *labels))
