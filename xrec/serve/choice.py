"""The part of the config that may change while the endpoint runs: the URIs of its artifacts.

It is Ray Serve's `user_config` of both deployments.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from xrec.config.base import Config, parse_config
from xrec.config.serve import ServeConfig


class Choice(Config):
    """The URIs of the artifacts that the endpoint answers from."""

    dataset: str = Field(description="URI of the dataset.")
    graph: str = Field(description="URI of the graph.")
    adapter: str = Field(description="URI of the adapter.")
    explanations: str = Field(description="URI of the backfill.")


def choice_of(config: ServeConfig) -> dict[str, str]:
    """Return the URIs of the artifacts of `config`, by the field names of `Choice`."""
    return {name: config.artifact(name) for name in Choice.model_fields}


def chosen(config: ServeConfig, choice: Mapping[str, Any]) -> ServeConfig:
    """Return `config` with the artifacts of `choice`; raise ConfigError if it has another key."""
    return config.model_copy(update=parse_config(Choice, choice, source="user_config").model_dump())
