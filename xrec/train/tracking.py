"""Training metrics for an experiment tracker, through accelerate.

Trackers read their own environment variables, such as MLFLOW_TRACKING_URI and WANDB_PROJECT.
TensorBoard's files are in the workspace.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from xrec.config import TrainingJobConfig
from xrec.errors import ConfigError
from xrec.train.ray_driver import Metrics, OnReport

_PACKAGES = {"tensorboard": "tensorboardX"}


@contextmanager
def tracked(config: TrainingJobConfig, name: str, on_report: OnReport) -> Iterator[OnReport]:
    """Give an `on_report` that also sends the numbers of each epoch's row to `config.tracker`.

    Raises ConfigError if the tracker's package is missing, or if the workspace of TensorBoard is
    not on a disk.
    """
    if config.tracker is None:
        yield on_report
        return
    package = _PACKAGES.get(config.tracker, config.tracker)
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"tracker: {config.tracker} requires the package {package}, which is not installed; "
            f"run pip install {package}, or remove the key",
            code="package_missing",
            key="tracker",
            saw=config.tracker,
        )
    if config.tracker == "tensorboard" and "://" in config.workspace:
        raise ConfigError(
            f"tracker: tensorboard writes to a local disk, but the workspace is "
            f"{config.workspace}; use mlflow or wandb",
            code="workspace_not_local",
            key="workspace",
            saw=config.workspace,
        )
    import pandas as pd
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()
    project = os.path.basename(config.workspace.rstrip("/")) or "xrec"
    kind = LOGGER_TYPE_TO_CLASS[config.tracker]
    folder = os.path.join(config.workspace, "tensorboard")
    tracker = kind(name, folder) if kind.requires_logging_directory else kind(project)
    tracker.start()
    try:
        settings = pd.json_normalize(config.model_dump(mode="json", exclude_none=True))
        (named,) = settings.to_dict("records")  # by dotted names
        tracker.store_init_configuration(
            {name: v if isinstance(v, int | float) else str(v) for name, v in named.items()}
        )

        def report(row: Metrics) -> None:
            on_report(row)
            numbers = {
                name.replace("@", "_at_"): value  # MLflow allows no "@" in a name
                for name, value in row.items()
                if isinstance(value, int | float) and name not in ("epoch", "time")
            }
            tracker.log(numbers, step=row["epoch"])

        yield report
    finally:
        tracker.finish()
