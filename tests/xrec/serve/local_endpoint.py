"""The endpoint in this process, over real HTTP. Only Ray Serve and its handles are left out."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import uvicorn

from tests.xrec.serve.town import serve_config
from xrec.config.serve import ServeConfig
from xrec.serve.api import make_api
from xrec.serve.gate import Gate, Limits
from xrec.serve.generator import load_live
from xrec.serve.keys import Keys
from xrec.serve.live import Delta, Failed, LivePair, LiveText
from xrec.serve.live_explainer import LiveExplainer
from xrec.serve.metrics import FRONTEND, Recorder
from xrec.serve.read_through import ReadThrough
from xrec.serve.service import Service
from xrec.serve.state import read_inputs, read_lookup


class LocalModel:
    """A `Model` in this process that remembers the pairs that it is asked for."""

    def __init__(self, live: LiveExplainer):
        self.live = live
        self.asked: list[LivePair] = []

    async def explain(self, pairs: Sequence[LivePair]) -> list[LiveText]:
        self.asked += pairs
        return await self.live.explain(pairs)

    def stream(self, pair: LivePair) -> AsyncGenerator[Delta | LiveText, None]:
        self.asked.append(pair)
        return self.live.stream(pair)

    async def nll(
        self, pair: LivePair, text: str, other_users: Sequence[str]
    ) -> list[float] | Failed:
        return await self.live.nll(pair, text, other_users)

    async def model_fingerprint(self) -> str:
        return self.live.model_fingerprint


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint: its URL and the objects behind it."""

    url: str
    model: LocalModel
    read_through: ReadThrough
    service: Service

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **options)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=60, **options)


@contextmanager
def local_endpoint(town: Path, **values: Any) -> Iterator[Endpoint]:
    """Run the endpoint of `serve_config(town, **values)` on a free port of 127.0.0.1."""
    config = serve_config(town, **values)
    model, recorder = LocalModel(load_live(config)), Recorder(FRONTEND)
    read_through = ReadThrough(model, recorder, int(config.read_through.live_mib * 2**20))
    service = Service(model, model, read_through, recorder, config.http.deadline_seconds)
    inputs = read_inputs(config)
    service.catalogue = read_through.catalogue = inputs.catalogue
    read_through.model_fingerprint = inputs.model_fingerprint
    read_through.lookup = read_lookup(config, inputs.fingerprints)
    with _server(config, service, recorder) as url:
        yield Endpoint(url, model, read_through, service)
    model.live.engine.stop()


@contextmanager
def _server(config: ServeConfig, service: Service, recorder: Recorder) -> Iterator[str]:
    limits = Limits(
        config.http.max_body_kib * 1024,
        config.http.max_concurrent_requests,
        config.security.log_paths,
    )
    app = Gate(make_api(service), Keys(config.security.keys), limits, recorder)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve([listening])), daemon=True
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def sse(response: requests.Response) -> list[tuple[str, Any]]:
    """Return name and data of each server-sent event."""
    blocks = response.text.strip().split("\n\n")
    return [
        (
            block.split("\n")[0].removeprefix("event: "),
            json.loads(block.split("\n")[1].removeprefix("data: ")),
        )
        for block in blocks
    ]
