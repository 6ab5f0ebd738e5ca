"""The inputs of a frontend, read from its artifacts, and the watch for a new backfill."""

import asyncio
import logging
from dataclasses import dataclass

from xrec.adapter.artifact import read_adapter
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.bulk.run import Base, base_of
from xrec.config.serve import ServeConfig
from xrec.data.cold_start import read_cold_start
from xrec.data.dataset import read_dataset
from xrec.errors import ArtifactNotFoundError, XRecError
from xrec.generate.loading import model_fingerprint_of, model_inputs
from xrec.graph.artifact import check_graph_of_dataset, read_graph
from xrec.graph.cold_start import extend_with_new
from xrec.serve import metrics
from xrec.serve.catalogue import Catalogue
from xrec.serve.metrics import Recorder
from xrec.serve.read_through import ReadThrough
from xrec.storage import Location, differing_fields, location_of
from xrec.storage.delta import open_log

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class Inputs:
    """The catalogue and the fingerprints of language model, adapter and graph, by name.

    Only explanations with these fingerprints are served.
    """

    catalogue: Catalogue
    fingerprints: dict[str, str]

    @property
    def model_fingerprint(self) -> str:
        """The same as `Explainer.model_fingerprint`."""
        return model_fingerprint_of(self.fingerprints)


def read_inputs(config: ServeConfig) -> Inputs:
    """Read dataset and graph and the fingerprints of the model, without loading a language model.

    Raises ArtifactNotFoundError or ArtifactMismatchError if the artifacts are missing or do not fit
    each other, DataError if a vector of the graph is not finite.
    """
    dataset = read_dataset(location_of(config, "dataset"))
    graph = read_graph(location_of(config, "graph"))
    check_graph_of_dataset(
        graph.manifest, dataset.manifest, config.artifact("graph"), config.artifact("dataset")
    )
    adapter = read_adapter(location_of(config, "adapter"))
    adapter.check_graph(graph.manifest.fingerprint)
    if config.cold_start is not None:
        dataset, graph = extend_with_new(
            dataset, graph, read_cold_start(config.cold_start, config.storage)
        )
    catalogue = Catalogue(dataset, graph)
    catalogue.build()
    return Inputs(catalogue, model_inputs(adapter, graph.manifest))


def read_lookup(config: ServeConfig, fingerprints: dict[str, str]) -> ExplanationLookup | None:
    """Open the backfill that the config names; return None if none is published yet.

    Raises ArtifactMismatchError if another model wrote it.
    """
    max_bytes = int(config.read_through.backfill_mib * 2**20)
    try:
        lookup = open_lookup(
            _explanations(config).shared_uri, fingerprints, max_bytes, config.storage
        )
    except ArtifactNotFoundError as error:
        logger.warning("%s; until it is there, all texts are generated", error)
        return None
    ours = {"decoding": config.decoding.model_dump(mode="json"), "dtype": config.llm.dtype}
    for line in differing_fields({name: lookup.manifest.config[name] for name in ours}, ours):
        logger.warning("the settings of the backfill differ from those of the endpoint: %s", line)
    return lookup


class BackfillWatch:
    """Gives each new version of the backfill to `read_through`.

    It looks at the table's log every `refresh_seconds`, which is a few small requests.
    """

    def __init__(
        self,
        config: ServeConfig,
        fingerprints: dict[str, str],
        read_through: ReadThrough,
        recorder: Recorder,
    ):
        self._config, self._fingerprints, self._read_through, self._recorder = (
            config,
            fingerprints,
            read_through,
            recorder,
        )
        self._seen = self._newest()

    async def watch(self) -> None:
        """Look again and again until cancelled."""
        await self._read_ahead()
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
        self._seen = seen
        self._read_through.lookup = lookup
        self._recorder.increase(metrics.REFRESHES, {"outcome": "taken"})
        self._recorder.set(metrics.BACKFILL_ROWS, lookup.num_rows if lookup else 0)
        if lookup is None:
            logger.info("the backfill is gone")
        else:
            version, num_rows = lookup.manifest.version, lookup.num_rows
            logger.info("version %d of the backfill: %d explanations", version, num_rows)
            await self._read_ahead()

    async def _read_ahead(self) -> None:
        """Read the footers of the backfill's files, so that the first look-ups are fast too."""
        lookup = self._read_through.lookup
        if lookup is None:
            return
        try:
            num_files = await asyncio.to_thread(lookup.read_ahead)
        except XRecError as error:
            logger.warning("the footers of the backfill are not read ahead: %s", error)
            return
        logger.info("the footers of %d files of the backfill are in memory", num_files)

    def _newest(self) -> Base:
        return base_of(open_log(_explanations(self._config)))


def _explanations(config: ServeConfig) -> Location:
    return location_of(config, "explanations")
