"""Project files, as a test writes them."""

from pathlib import Path
from typing import Any

import yaml

from xrec.config.jobs import CONFIG_TYPES
from xrec.config.shared import JobConfig

SAMPLE = {
    "kind": "sample",
    "num_users": 20,
    "num_items": 12,
    "interactions_per_user": 6,
    "explanations_per_user": 3,
}
"""A source of `prepare` that is made in no time."""


def write_yaml(path: Path, values: Any) -> Path:
    """Write a file of these values; returns `path`."""
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def write_project(path: Path, config: JobConfig, **changes: Any) -> Path:
    """Write a file whose one section gives `config`, with `changes` of its keys; returns `path`.

    Secrets are masked, as in any dump of a config; a test that needs them gives `storage`.
    """
    (job,) = [name for name, each in CONFIG_TYPES.items() if each is type(config)]
    secrets = {"storage": {"access_key_id", "secret_access_key"}}
    return write_yaml(path, {job: {**config.model_dump(mode="json", exclude=secrets), **changes}})
