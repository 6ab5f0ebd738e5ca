"""How s3:// is reached by a command that takes a URI and no project file."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from xrec.config.base import Config, parse_config
from xrec.config.shared import StorageConfig
from xrec.config.values import parse_overrides


class _StorageAlone(Config):
    storage: StorageConfig = Field(default_factory=StorageConfig, description="See StorageConfig.")


def storage_of(arguments: Sequence[str]) -> StorageConfig:
    """The storage section of `storage.key=value` arguments; without any, its defaults.

    Raises ConfigError for any other argument, and for a wrong value.
    """
    values: Mapping[str, Any] = functools.reduce(
        lambda values, override: override.applied_to(values),
        parse_overrides(arguments, ("storage",)),
        {},
    )
    return parse_config(_StorageAlone, values, "storage.key=value").storage
