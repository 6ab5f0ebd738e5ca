"""A project file for one job, as a test writes it."""

from pathlib import Path
from typing import Any

import yaml

from xrec.config.jobs import JOBS
from xrec.config.shared import JobConfig


def write_project(path: Path, config: JobConfig, **changes: Any) -> Path:
    """Write a file whose one section gives `config`, with `changes` of its keys; returns `path`.

    Secrets are masked, as in any dump of a config; a test that needs them gives `storage`.
    """
    (job,) = [name for name, each in JOBS.items() if each is type(config)]
    values = config.model_dump(
        mode="json", exclude={"storage": {"access_key_id", "secret_access_key"}}
    )
    path.write_text(yaml.safe_dump({job: {**values, **changes}}), encoding="utf-8")
    return path
