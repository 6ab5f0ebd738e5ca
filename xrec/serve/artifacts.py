"""The artifacts that the endpoint answers from: their choice, which may change, and the backfill.

The choice is the part of the config that may change while the endpoint runs. It is Ray Serve's
`user_config` of both deployments.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import Field

from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.bulk.runs.run import Base
from xrec.config.base import Config, parse_config
from xrec.config.serve import ServeConfig
from xrec.errors import ArtifactNotFoundError, XRecError
from xrec.generate.loading import model_fingerprint_of
from xrec.serve import metrics
from xrec.serve.metrics import Recorder
from xrec.storage import differing_fields, location_of
from xrec.storage.delta import open_log

logger = logging.getLogger("xrec")

REFRESH_SECONDS = 5.0
"""From one look for a new version of the backfill to the next."""
_KEPT_BYTES = 128 * 2**20
"""For explanations of users who were asked for; the least recently used ones go first."""


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


def read_lookup(config: ServeConfig, fingerprints: dict[str, str]) -> ExplanationLookup | None:
    """Open the backfill that the config names; return None if none is published yet.

    Raises ArtifactMismatchError if another model than that of `fingerprints` wrote it.
    """
    uri = location_of(config, "explanations").shared_uri
    try:
        lookup = open_lookup(uri, fingerprints, _KEPT_BYTES, config.storage)
    except ArtifactNotFoundError as error:
        logger.warning("%s; until it is there, all texts are generated", error)
        return None
    ours = {"decoding": config.decoding.model_dump(mode="json"), "dtype": config.llm.dtype}
    for line in differing_fields({name: lookup.manifest.config[name] for name in ours}, ours):
        logger.warning("the settings of the backfill differ from those of the endpoint: %s", line)
    return lookup


class PublishedTexts:
    """Explanations of the model that has `fingerprints`: of language model, adapter and graph.

    `lookup` is of the newest version that can be used, and None as long as there is none. Raises
    what `read_lookup` raises.
    """

    def __init__(self, config: ServeConfig, fingerprints: dict[str, str], recorder: Recorder):
        self._config, self._fingerprints, self._recorder = config, fingerprints, recorder
        self.model_fingerprint = model_fingerprint_of(fingerprints)
        # It looks before it reads: a version that comes in between is read again, and not missed.
        self._seen = self._newest()
        self.lookup = read_lookup(config, fingerprints)

    async def watch(self) -> None:
        """Look for new versions again and again until cancelled."""
        await self._begin()
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look once. A backfill that cannot be read, or is another model's, is only logged."""
        try:
            seen = await asyncio.to_thread(self._newest)
            if seen == self._seen:
                return
            lookup = await asyncio.to_thread(read_lookup, self._config, self._fingerprints)
        except XRecError as error:
            logger.error("the new version of the backfill is not used: %s", error)
            self._recorder.increase(metrics.REFRESHES, {"outcome": "refused"})
            return
        self._seen, self.lookup = seen, lookup
        self._recorder.increase(metrics.REFRESHES, {"outcome": "taken"})
        await self._begin()

    async def _begin(self) -> None:
        """Read the footers of the files of `lookup`, so that the first look-ups are fast too."""
        lookup = self.lookup
        self._recorder.set(metrics.BACKFILL_ROWS, lookup.num_rows if lookup else 0)
        if lookup is None:
            logger.info("there is no backfill")
            return
        version, num_rows = lookup.manifest.version, lookup.num_rows
        logger.info("version %d of the backfill: %d explanations", version, num_rows)
        try:
            await asyncio.to_thread(lookup.read_ahead)
        except XRecError as error:
            logger.warning("the footers of the backfill are not read ahead: %s", error)

    def _newest(self) -> Base:
        return Base.of(open_log(location_of(self._config, "explanations")))
