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
from xrec.serve.api import make_api
from xrec.serve.catalogue import Catalogue, read_catalogue
from xrec.serve.choice import Swaps
from xrec.serve.gate import Gate
from xrec.serve.metrics import Recorder
from xrec.serve.model import ModelHandle
from xrec.serve.published import PublishedTexts
from xrec.serve.read_through import ReadThrough


class Frontend:
    """Answers over HTTP, and calls `generator` for texts that the backfill does not hold."""

    def __init__(self, config: ServeConfig, generator: DeploymentHandle):
        self._config, self._recorder = config, Recorder()
        self._read_through = ReadThrough(
            ModelHandle(generator), self._recorder, config.http.deadline_seconds
        )
        self._swaps = Swaps("frontend", config, self._take, self._recorder)
        self._watch: asyncio.Task[None] | None = None
        _log_to_replica()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the ASGI application; Serve calls this."""
        return asgi_app(self._config, self._read_through, self._recorder)

    async def reconfigure(self, choice: Mapping[str, Any]) -> None:
        """Answer from the artifacts of `choice`; Serve calls this with a new `user_config`."""
        await self._swaps.to(choice)

    async def _take(self, config: ServeConfig) -> None:
        catalogue, published = await asyncio.to_thread(read_contents, config, self._recorder)
        if self._watch is not None:
            self._watch.cancel()
        self._read_through.catalogue, self._read_through.published = catalogue, published
        self._watch = asyncio.create_task(published.watch())


def asgi_app(config: ServeConfig, read_through: ReadThrough, recorder: Recorder) -> ASGIApp:
    """Return the application behind its gate."""
    max_requests = config.http.max_concurrent_requests
    return Gate(make_api(read_through, recorder), config.security.keys, max_requests, recorder)


def read_contents(config: ServeConfig, recorder: Recorder) -> tuple[Catalogue, PublishedTexts]:
    """Return what `config` is answered from; raises what the constructors raise."""
    catalogue = read_catalogue(config)
    return catalogue, PublishedTexts(config, catalogue.fingerprints, recorder)


def _log_to_replica() -> None:
    """Send xrec's own log lines, one for each request, to the output of the replica."""
    own = logging.getLogger("xrec")
    own.setLevel(logging.INFO)
    if not own.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        own.addHandler(handler)
