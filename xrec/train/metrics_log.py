"""The metrics of a training run while it runs: `metrics.jsonl` and TensorBoard's event file, beside each other.

Both are small and rewritten whole after each epoch, which an object store can do as well as a disk.
To look on: `tensorboard --logdir <graph>/tensorboard`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

from xrec.errors import StorageNotFoundError
from xrec.graph.artifact import METRICS, metrics_lines, read_metrics
from xrec.storage import Location

EVENTS = "tensorboard/events.out.tfevents.xrec"


class MetricsLog:
    """One row an epoch; a row holds `epoch`, `time` (seconds since 1970) and numbers."""

    def __init__(self, location: Location) -> None:
        """The log at `location`; it goes on from the rows that are there."""
        self._location = location
        self.rows = _read(location)

    def add(self, row: Mapping[str, Any]) -> None:
        """Log an epoch; one that comes again (a worker was replaced) takes the place of the first and of all after it."""
        self.rows = [
            *(earlier for earlier in self.rows if earlier["epoch"] < row["epoch"]),
            dict(row),
        ]
        (self._location / METRICS).write_bytes(metrics_lines(self.rows))
        (self._location / EVENTS).write_bytes(event_file(self.rows))


def event_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of a TensorBoard event file with all numbers of `rows`, by epoch."""
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
