"""The frontend replica: a Ray Serve deployment that answers HTTP requests.

It reads the backfill and calls the model replicas.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from xrec.config.serve import ServeConfig
from xrec.errors import XRecError
from xrec.serve import metrics
from xrec.serve.api import make_api
from xrec.serve.choice import chosen
from xrec.serve.gate import Gate, Limits
from xrec.serve.handle import HandleModel
from xrec.serve.in_turn import InTurn
from xrec.serve.keys import Keys
from xrec.serve.metrics import FRONTEND, Recorder
from xrec.serve.read_through import ReadThrough
from xrec.serve.service import Service
from xrec.serve.state import BackfillWatch, read_inputs, read_lookup

logger = logging.getLogger("xrec")


class Frontend:
    """Answers over HTTP, and calls `generator` for texts that the backfill does not hold."""

    def __init__(self, config: ServeConfig, generator: DeploymentHandle):
        self._config = config
        self._recorder = Recorder(FRONTEND)
        model = HandleModel(generator)
        self._read_through = ReadThrough(
            model, self._recorder, int(config.read_through.live_mib * 2**20)
        )
        self._service = Service(
            model, model, self._read_through, self._recorder, config.http.deadline_seconds
        )
        self._watch: asyncio.Task[None] | None = None
        self._swaps = InTurn()
        _log_to_replica()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the ASGI application; Serve calls this."""
        http, security = self._config.http, self._config.security
        limits = Limits(http.max_body_kib * 1024, http.max_concurrent_requests, security.log_paths)
        return Gate(make_api(self._service), Keys(security.keys), limits, self._recorder)

    async def reconfigure(self, choice: Mapping[str, Any]) -> None:
        """Answer from the artifacts of `choice`; Serve calls this with a new `user_config`.

        The first call waits until they are read. After a later one, the earlier artifacts answer
        until the new ones are read.
        """
        config = chosen(self._config, choice)
        if self._service.catalogue is None:
            await self._take(config)
        else:
            self._swaps.start(lambda: self._swap_to(config))

    async def _take(self, config: ServeConfig) -> None:
        inputs = await asyncio.to_thread(read_inputs, config)
        # The watch looks before the backfill is read. So it notices a version that is published in
        # between, and reads it again; in the other order it would miss it.
        watch = await asyncio.to_thread(
            BackfillWatch, config, inputs.fingerprints, self._read_through, self._recorder
        )
        lookup = await asyncio.to_thread(read_lookup, config, inputs.fingerprints)
        if self._watch is not None:
            self._watch.cancel()
        self._service.catalogue = self._read_through.catalogue = inputs.catalogue
        self._read_through.lookup, self._read_through.model_fingerprint = (
            lookup,
            inputs.model_fingerprint,
        )
        self._watch = asyncio.create_task(watch.watch())
        self._recorder.set(metrics.BACKFILL_ROWS, lookup.num_rows if lookup else 0)

    async def _swap_to(self, config: ServeConfig) -> None:
        try:
            await self._take(config)
        except XRecError as error:
            logger.error("the new artifacts are not used, the earlier ones stay: %s", error)
            self._recorder.increase(metrics.SWAPS, {"deployment": "frontend", "outcome": "refused"})
            return
        logger.info("answering with model %s now", self._read_through.model_fingerprint)
        self._recorder.increase(metrics.SWAPS, {"deployment": "frontend", "outcome": "taken"})


def _log_to_replica() -> None:
    """Send xrec's own log lines, one for each request, to the output of the replica."""
    own = logging.getLogger("xrec")
    own.setLevel(logging.INFO)
    if not own.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        own.addHandler(handler)
