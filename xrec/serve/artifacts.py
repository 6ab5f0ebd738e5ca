"""Which artifacts the endpoint uses, how they change while it runs, and the newest backfill.

The choice of artifacts is the part of the config that may change while the endpoint runs. It is
Ray Serve's `user_config` of both deployments.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.bulk import read_takedowns
from xrec.bulk.runs.run import Base
from xrec.config.serve import ServeConfig
from xrec.errors import ArtifactNotFoundError, ConfigError, XRecError
from xrec.generate.loading import model_fingerprint_of
from xrec.serve.metrics import Metrics
from xrec.storage import differing_fields, location_of
from xrec.storage.delta import open_log

logger = logging.getLogger("xrec")

REFRESH_SECONDS = 5.0
"""From one look for a new version of the backfill to the next."""
_LIST_SECONDS = 2.0
"""The same for what was taken down, which must be kept within five seconds."""
_KEPT_BYTES = 128 * 2**20
"""For explanations of users who were asked for; the least recently used ones go first."""
CHOICE = ("dataset", "graph", "adapter", "explanations")
"""The artifacts whose URIs are the choice."""


def choice_of(config: ServeConfig) -> dict[str, str]:
    """Return the URIs of the artifacts of `config`, by the names in `CHOICE`."""
    return {name: config.artifact(name) for name in CHOICE}


def chosen(config: ServeConfig, choice: Mapping[str, str]) -> ServeConfig:
    """Return `config` with the artifacts of `choice`; raise ConfigError if it has another key."""
    if others := sorted(choice.keys() - set(CHOICE)):
        raise ConfigError(
            f"user_config: {', '.join(others)}: unknown key; only {', '.join(CHOICE)} can change "
            "while the endpoint runs"
        )
    return config.model_copy(update=dict(choice))


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
        metrics: Metrics,
    ):
        self._deployment, self._config, self._take = deployment, config, take
        self._metrics = metrics
        self._latest: ServeConfig | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def to(self, choice: Mapping[str, str]) -> None:
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
            self._metrics.swaps.inc(1, {"deployment": self._deployment, "outcome": outcome})


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

    `lookup` is of the newest version that can be used, and None as long as there is none.
    `takedowns` are those of its table. Raises what `read_lookup` raises.
    """

    def __init__(self, config: ServeConfig, fingerprints: dict[str, str], metrics: Metrics):
        self._config, self._fingerprints, self._metrics = config, fingerprints, metrics
        self.model_fingerprint = model_fingerprint_of(fingerprints)
        # It looks before it reads: a version that comes in between is read again, and not missed.
        self._seen = self._newest()
        self.lookup = self._read()
        self.takedowns = read_takedowns(location_of(config, "explanations"))
        self._looking = asyncio.Lock()

    async def watch(self) -> None:
        """Look for new versions and takedowns again and again until cancelled."""
        await asyncio.gather(
            _again_and_again(self.look, REFRESH_SECONDS),
            _again_and_again(self.look_at_takedowns, _LIST_SECONDS),
        )

    async def look_at_takedowns(self) -> None:
        """Read what was taken down or lifted since; if it cannot be read, what is known stays."""
        output = location_of(self._config, "explanations")
        try:
            self.takedowns = await asyncio.to_thread(read_takedowns, output, self.takedowns)
        except XRecError as error:
            logger.error("the list of takedowns cannot be read, new ones are not kept: %s", error)

    async def look(self) -> None:
        """Look once. A backfill that cannot be read, or is another model's, is only logged."""
        async with self._looking:
            try:
                seen = await asyncio.to_thread(self._newest)
                if seen == self._seen:
                    return
                self.lookup, self._seen = await asyncio.to_thread(self._read), seen
            except XRecError as error:
                logger.error("the new version of the backfill is not used: %s", error)
                self._metrics.refreshes.inc(1, {"outcome": "refused"})
            else:
                self._metrics.refreshes.inc(1, {"outcome": "taken"})

    def _read(self) -> ExplanationLookup | None:
        """Open what is published, with the footers of its files: first look-ups are fast too."""
        lookup = read_lookup(self._config, self._fingerprints)
        self._metrics.backfill_rows.set(lookup.num_rows if lookup else 0)
        if lookup is not None:
            version, num_rows = lookup.manifest.version, lookup.num_rows
            logger.info("version %d of the backfill: %d explanations", version, num_rows)
            self._metrics.reads(lookup.manifest)
            try:
                lookup.read_ahead()
            except XRecError as error:
                logger.warning("the footers of the backfill are not read ahead: %s", error)
        return lookup

    def _newest(self) -> Base:
        return Base.of(open_log(location_of(self._config, "explanations")))


async def _again_and_again(look: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await look()
