"""Figures of training for an experiment tracker, by accelerate's interface to them.

Where a run goes is said by the tracker's own variables, such as MLFLOW_TRACKING_URI or
WANDB_PROJECT. TensorBoard's files are in the workspace.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from xrec.config.shared import TrainingJobConfig
from xrec.errors import ConfigError
from xrec.train.ray_driver import Metrics, OnReport

_PACKAGES = {"tensorboard": "tensorboardX"}


@contextmanager
def tracked(config: TrainingJobConfig, name: str, on_report: OnReport) -> Iterator[OnReport]:
    """Open a run of job `name` at `config.tracker`, if there is one; yields an `on_report`.

    It does what the given one does, and logs the numbers of an epoch's row at its `epoch`. Raises
    ConfigError if the tracker's package is missing, or TensorBoard has no folder on a disk.
    """
    if config.tracker is None:
        yield on_report
        return
    _check(config)
    PartialState()
    project = os.path.basename(config.workspace.rstrip("/")) or "xrec"
    kind = LOGGER_TYPE_TO_CLASS[config.tracker]
    folder = os.path.join(config.workspace, "tensorboard")
    tracker = kind(name, folder) if kind.requires_logging_directory else kind(project)
    tracker.start()
    try:
        tracker.store_init_configuration(_flat(config.model_dump(mode="json")))

        def report(row: Metrics) -> None:
            on_report(row)
            tracker.log(_numbers(row), step=row["epoch"])

        yield report
    finally:
        tracker.finish()


def _check(config: TrainingJobConfig) -> None:
    tracker = str(config.tracker)
    package = _PACKAGES.get(tracker, tracker)
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"tracker: {tracker} needs the package {package}, which is not installed; "
            f"pip install {package}, or take the key out"
        )
    if tracker == "tensorboard" and "://" in config.workspace:
        raise ConfigError(
            f"tracker: tensorboard writes to a disk, and the workspace is {config.workspace}; "
            "take mlflow or wandb"
        )


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row; MLflow allows no "@" in a name."""
    return {
        name.replace("@", "_at_"): value
        for name, value in row.items()
        if isinstance(value, int | float) and name not in ("epoch", "time")
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """The settings with dotted names, as trackers want them; nulls are left out."""
    flat: dict[str, str | int | float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = value if isinstance(value, int | float) else str(value)
    return flat
