"""What may be changed while the endpoint runs: which artifacts it answers from. Ray Serve's `user_config` of both deployments."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from xrec.config.base import Config, parse_config
from xrec.config.serve import ServeConfig


class Choice(Config):
    """URIs of artifacts."""

    dataset: str = Field(description="URI of the dataset.")
    graph: str = Field(description="URI of the graph.")
    adapter: str = Field(description="URI of the adapter.")
    explanations: str = Field(description="URI of the backfill.")


def choice_of(config: ServeConfig) -> dict[str, str]:
    """The URIs of `config`'s artifacts."""
    return {name: config.artifact(name) for name in Choice.model_fields}


def chosen(config: ServeConfig, choice: Mapping[str, Any]) -> ServeConfig:
    """`config` with the artifacts of `choice`; raises ConfigError for what cannot be chosen."""
    return config.model_copy(update=parse_config(Choice, choice, source="user_config").model_dump())
