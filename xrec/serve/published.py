"""The backfill that the endpoint answers from: the newest version of its table."""

import asyncio
import logging

from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.bulk.run import Base
from xrec.config.serve import ServeConfig
from xrec.errors import ArtifactNotFoundError, XRecError
from xrec.generate.loading import model_fingerprint_of
from xrec.serve import metrics
from xrec.serve.metrics import Recorder
from xrec.storage import differing_fields, location_of
from xrec.storage.delta import open_log

logger = logging.getLogger("xrec")


def read_lookup(config: ServeConfig, fingerprints: dict[str, str]) -> ExplanationLookup | None:
    """Open the backfill that the config names; return None if none is published yet.

    Raises ArtifactMismatchError if another model than that of `fingerprints` wrote it.
    """
    uri, max_bytes = (
        location_of(config, "explanations").shared_uri,
        config.read_through.backfill_mib,
    )
    try:
        lookup = open_lookup(uri, fingerprints, int(max_bytes * 2**20), config.storage)
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
            await asyncio.sleep(self._config.read_through.refresh_seconds)
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
