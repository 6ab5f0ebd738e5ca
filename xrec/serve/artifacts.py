"""The endpoint's artifacts: which ones it uses, and the newest version of the backfill.

The choice of artifacts is the part of the config that may change at run time: Ray Serve's
`user_config` of both deployments. An artifact that it does not name is the one that the published
explanations were made from, so a refresh or a rollback changes it too.
"""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping

from xrec.backfill.identity import model_of
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.bulk import newest_entry, read_takedowns
from xrec.config import ArtifactName, ServeConfig, identity_of
from xrec.errors import ArtifactNotFoundError, ConfigError, XRecError
from xrec.generate.loading import model_fingerprint_of
from xrec.serve.metrics import Metrics
from xrec.storage import differing_fields, fingerprint_of, location_of, manifest_of

logger = logging.getLogger("xrec")

_KEPT_BYTES = 128 * 2**20
"""Size of the cache of users' explanations."""
CHOICE: tuple[ArtifactName, ...] = ("dataset", "graph", "adapter", "explanations")
"""The artifacts that may change while the endpoint runs."""


def choice_of(config: ServeConfig) -> dict[str, str | None]:
    """Return the URIs of the artifacts in `CHOICE`; None for those that `config` does not name."""
    return {name: config.artifacts.get(name) for name in CHOICE}


def chosen(config: ServeConfig, choice: Mapping[str, str | None]) -> ServeConfig:
    """Return `config` with the artifacts in `choice`; raise ConfigError for any other key."""
    if unknown := sorted(choice.keys() - set(CHOICE)):
        raise ConfigError(
            f"user_config: {', '.join(unknown)}: unknown key; only {', '.join(CHOICE)} can change "
            "while the endpoint runs",
            code="extra_forbidden",
            key=f"user_config.{unknown[0]}",
        )
    return config.with_artifacts(choice)


def models_of(config: ServeConfig) -> str:
    """Return a fingerprint of the dataset and what writes texts; raise what `model_of` raises."""
    return fingerprint_of([manifest_of(config, "dataset").fingerprint, model_of(config)])


def read_lookup(config: ServeConfig, fingerprints: dict[str, str]) -> ExplanationLookup | None:
    """Open the config's backfill; return None if none is published yet.

    Raises ArtifactMismatchError if a model other than that of `fingerprints` wrote it.
    """
    uri = location_of(config, "explanations").uri
    try:
        lookup = open_lookup(uri, fingerprints, _KEPT_BYTES, config.storage)
    except ArtifactNotFoundError as error:
        is_silent = config.writer == "sentences"
        then = "pairs get the problem not_published" if is_silent else "the model writes all texts"
        logger.warning("%s; until it is published, %s", error, then)
        return None
    if config.writer == "sentences":
        return lookup
    llm = None if config.llm is None else identity_of(config.llm)
    own = {"decoding": identity_of(config.decoding), "llm": llm}
    for line in differing_fields({name: lookup.manifest.config[name] for name in own}, own):
        logger.warning("the backfill was written with other settings than the endpoint's: %s", line)
    return lookup


class PublishedTexts:
    """The published explanations by the model with `fingerprints`, and the table's takedowns.

    fingerprints: those of what writes texts (`model_of`).
    lookup: reads the newest usable version; None until there is one.

    Raises what `read_lookup` raises.
    """

    def __init__(self, config: ServeConfig, fingerprints: dict[str, str], metrics: Metrics):
        self._config, self._fingerprints, self._metrics = config, fingerprints, metrics
        self.uri = location_of(config, "explanations").uri
        self.model_fingerprint = model_fingerprint_of(fingerprints)
        # Checked before reading, so that a version published in between is not missed.
        self._seen = self._newest()
        self.lookup = self._read()
        self.takedowns = read_takedowns(location_of(config, "explanations"))
        self._looking = asyncio.Lock()

    async def look_at_takedowns(self) -> None:
        """Update `takedowns`; if the list cannot be read, keep the known ones and log an error."""
        output = location_of(self._config, "explanations")
        try:
            self.takedowns = await asyncio.to_thread(read_takedowns, output, self.takedowns)
        except XRecError as error:
            logger.error("cannot read the takedowns; new ones have no effect: %s", error)

    async def look(self) -> bool:
        """Check once for a new version; return False if there is one that cannot be used.

        A backfill cannot be used if it is unreadable or another model wrote it; this is logged.
        """
        async with self._looking:
            try:
                newest = await asyncio.to_thread(self._newest)
                if newest == self._seen:
                    return True
                self.lookup, self._seen = await asyncio.to_thread(self._read), newest
            except XRecError as error:
                logger.error("cannot use the new version of the backfill: %s", error)
                self._metrics.refreshes.inc(1, {"outcome": "refused"})
                return False
            self._metrics.refreshes.inc(1, {"outcome": "taken"})
            return True

    def _read(self) -> ExplanationLookup | None:
        """Open what is published, and read the footers of its files so that lookups are fast."""
        lookup = read_lookup(self._config, self._fingerprints)
        self._metrics.backfill_rows.set(lookup.num_rows if lookup else 0)
        if lookup is not None:
            version, num_rows = lookup.manifest.version, lookup.num_rows
            logger.info("opened version %d of the backfill: %d explanations", version, num_rows)
            self._metrics.reads(lookup.manifest)
            try:
                lookup.read_ahead()
            except XRecError as error:
                logger.warning("cannot read the footers of the backfill yet: %s", error)
        return lookup

    def _newest(self) -> str:
        return newest_entry(location_of(self._config, "explanations"))


def settle() -> None:
    """Exclude all current objects from later garbage collections.

    A full collection stops all threads. With the half a million objects of imported modules it
    takes 0.35 s, and a request with many values can trigger one.
    """
    gc.collect()
    gc.freeze()


async def repeat(work: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Call `work` every `seconds` until canceled; an exception is logged and does not end this."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except Exception as error:
            logger.error("a periodic check failed: %s", type(error).__name__, exc_info=error)
