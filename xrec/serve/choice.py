"""The part of the config that may change while the endpoint runs: the URIs of its artifacts.

It is Ray Serve's `user_config` of both deployments.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import Field

from xrec.config.base import Config, parse_config
from xrec.config.serve import ServeConfig
from xrec.errors import XRecError
from xrec.serve import metrics
from xrec.serve.metrics import Recorder

logger = logging.getLogger("xrec")


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


class Swaps:
    """Takes the artifacts of one choice after the other.

    `take` reads them and puts them in the place of the earlier ones; `deployment` names in the
    metrics who does that. If several choices come while one is being taken, the last is taken next
    and the others never.
    """

    def __init__(
        self,
        deployment: str,
        config: ServeConfig,
        take: Callable[[ServeConfig], Awaitable[None]],
        recorder: Recorder,
    ):
        self._deployment, self._config, self._take = deployment, config, take
        self._recorder = recorder
        self._latest: ServeConfig | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def to(self, choice: Mapping[str, Any]) -> None:
        """Take `choice`.

        The first call waits for it, and raises what `take` raises. Later ones return at once: the
        earlier artifacts are used until the new ones are read, and stay if these cannot be.
        """
        is_first, config = self._latest is None, chosen(self._config, choice)
        self._latest = config
        if is_first:
            await self._take(config)
            return
        task = asyncio.create_task(self._in_turn(config))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_turn(self, config: ServeConfig) -> None:
        async with self._lock:
            if config is not self._latest:
                return
            try:
                await self._take(config)
            except XRecError as error:
                logger.error("the new artifacts are not used, the earlier ones stay: %s", error)
                outcome = "refused"
            else:
                logger.info("the adapter is %s now", config.artifact("adapter"))
                outcome = "taken"
            labels = {"deployment": self._deployment, "outcome": outcome}
            self._recorder.increase(metrics.SWAPS, labels)
