"""Which artifacts the endpoint uses, how they change while it runs, and the newest backfill.

The choice of artifacts is the part of the config that may change while the endpoint runs: Ray
Serve's `user_config` of both deployments. What it does not name is what the published version of
the explanations was made from, so a refresh, or a rollback, changes it too.
"""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping

from xrec.adapter.config import model_inputs, read_config
from xrec.backfill import present
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.bulk import Base, read_takedowns
from xrec.config import ArtifactName, ServeConfig, identity_of
from xrec.errors import ArtifactNotFoundError, ConfigError, XRecError
from xrec.generate.loading import model_fingerprint_of
from xrec.serve.metrics import Metrics
from xrec.storage import differing_fields, fingerprint_of, location_of, manifest_of

logger = logging.getLogger("xrec")

REFRESH_SECONDS = 5.0
"""From one look for a new version of the backfill to the next."""
_KEPT_BYTES = 128 * 2**20
"""For explanations of users who were asked for; the least recently used ones go first."""
CHOICE: tuple[ArtifactName, ...] = ("dataset", "graph", "adapter", "explanations")
"""The artifacts whose URIs are the choice."""


def choice_of(config: ServeConfig) -> dict[str, str | None]:
    """Return the URIs that `config` names, by the names in `CHOICE`; None for all others."""
    return {name: config.artifacts.get(name) for name in CHOICE}


def chosen(config: ServeConfig, choice: Mapping[str, str | None]) -> ServeConfig:
    """Return `config` with the artifacts of `choice`; raise ConfigError if it has another key."""
    if others := sorted(choice.keys() - set(CHOICE)):
        raise ConfigError(
            f"user_config: {', '.join(others)}: unknown key; only {', '.join(CHOICE)} can change "
            "while the endpoint runs",
            code="extra_forbidden",
            key=f"user_config.{others[0]}",
        )
    return config.with_artifacts(choice)


def models_of(config: ServeConfig) -> str:
    """Return a fingerprint of dataset, graph, adapter and language model.

    Raises ArtifactNotFoundError or ArtifactMismatchError.
    """
    dataset, graph = manifest_of(config, "dataset"), manifest_of(config, "graph")
    adapter = manifest_of(config, "adapter")
    of_adapter = read_config(location_of(config, "adapter"), adapter)
    model = model_inputs(of_adapter, adapter.fingerprint, graph)
    return fingerprint_of([dataset.fingerprint, model])


class Followed:
    """Which artifacts a replica is to have: those of its choice and, where that names none, those
    of the night whose explanations are published.

    take: gets the config with their URIs, and their `models_of`, after each change of the choice
        and of what is published. It returns whether the replica has them now, and is called again
        until it does. deployment: names in the metrics who does that.
    """

    def __init__(
        self,
        deployment: str,
        config: ServeConfig,
        take: Callable[[ServeConfig, str], Awaitable[bool]],
        metrics: Metrics,
    ):
        self._deployment, self._config, self._take = deployment, config, take
        self._metrics = metrics
        self._given, self._models, self._is_taken = config, "", False
        self._asked: tuple[tuple[ServeConfig, Base], ServeConfig, str] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def to(self, choice: Mapping[str, str | None]) -> None:
        """Take `choice`.

        The first call waits for it, and raises what `take` raises. After later ones, the earlier
        artifacts are used until the new ones are read, and stay if these cannot be.
        """
        self._given = chosen(self._config, choice)
        if self._watch is None:
            await self._look()
            settle()
            self._watch = asyncio.create_task(again_and_again(self.look, REFRESH_SECONDS))

    async def look(self) -> None:
        """Look once; what cannot be used is only logged."""
        before, outcome = self._models, "taken"
        try:
            await self._look()
        except (XRecError, OSError, RuntimeError) as error:  # torch lacks memory: RuntimeError
            logger.error("the new artifacts are not used, the earlier ones stay: %s", error)
            outcome = "refused"
        if outcome == "refused" or self._models != before:
            self._metrics.swaps.inc(1, {"deployment": self._deployment, "outcome": outcome})

    async def _look(self) -> None:
        given = self._given
        newest = await asyncio.to_thread(Base.at, location_of(given, "explanations"))
        seen = (given, newest)
        if self._asked is None or seen != self._asked[0]:
            config = await asyncio.to_thread(present, given)
            self._asked = seen, config, await asyncio.to_thread(models_of, config)
            self._is_taken = False
        if not self._is_taken:
            _, config, models = self._asked
            self._is_taken = await self._take(config, models)
            if self._is_taken and models != self._models:
                logger.info("the adapter is %s now", config.artifact("adapter"))
                self._models = models


def read_lookup(config: ServeConfig, fingerprints: dict[str, str]) -> ExplanationLookup | None:
    """Open the backfill that the config names; return None if none is published yet.

    Raises ArtifactMismatchError if another model than that of `fingerprints` wrote it.
    """
    uri = location_of(config, "explanations").uri
    try:
        lookup = open_lookup(uri, fingerprints, _KEPT_BYTES, config.storage)
    except ArtifactNotFoundError as error:
        logger.warning("%s; until it is there, all texts are generated", error)
        return None
    ours = {"decoding": identity_of(config.decoding), "llm": identity_of(config.llm)}
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
        self.uri = location_of(config, "explanations").uri
        self.model_fingerprint = model_fingerprint_of(fingerprints)
        # It looks before it reads: a version that comes in between is read again, and not missed.
        self._seen = self._newest()
        self.lookup = self._read()
        self.takedowns = read_takedowns(location_of(config, "explanations"))
        self._looking = asyncio.Lock()

    async def look_at_takedowns(self) -> None:
        """Read what was taken down or lifted since; if it cannot be read, what is known stays."""
        output = location_of(self._config, "explanations")
        try:
            self.takedowns = await asyncio.to_thread(read_takedowns, output, self.takedowns)
        except XRecError as error:
            logger.error("the list of takedowns cannot be read, new ones are not kept: %s", error)

    async def look(self) -> bool:
        """Look once for a new version; return whether it is there, if there is one.

        A backfill that cannot be read, or is another model's, is only logged.
        """
        async with self._looking:
            try:
                seen = await asyncio.to_thread(self._newest)
                if seen == self._seen:
                    return True
                self.lookup, self._seen = await asyncio.to_thread(self._read), seen
            except XRecError as error:
                logger.error("the new version of the backfill is not used: %s", error)
                self._metrics.refreshes.inc(1, {"outcome": "refused"})
                return False
            self._metrics.refreshes.inc(1, {"outcome": "taken"})
            return True

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
        return Base.at(location_of(self._config, "explanations"))


def settle() -> None:
    """Leave all that is in memory out of later garbage collections.

    A full collection stops all threads. Among the half a million objects of imported modules it
    takes 0.35 s, and a request with many values can start one.
    """
    gc.collect()
    gc.freeze()


async def again_and_again(look: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Call `look` until canceled; an exception is logged, and the next call comes all the same."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await look()
        except Exception as error:
            logger.error("a look failed: %s", type(error).__name__, exc_info=error)
