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
from xrec.serve.app import asgi_app, read_contents
from xrec.serve.generator import load_live
from xrec.serve.live_explainer import LiveExplainer
from xrec.serve.messages import PairRequest
from xrec.serve.metrics import Recorder
from xrec.serve.model import Delta, LiveText, ModelHandle, PairError
from xrec.serve.read_through import ReadThrough


class LocalModel(ModelHandle):
    """A model in this process that remembers the pairs that it is asked for."""

    def __init__(self, live: LiveExplainer):
        self.live = live
        self.asked: list[PairRequest] = []

    async def explain(self, pairs: Sequence[PairRequest]) -> list[LiveText | PairError]:
        self.asked += pairs
        return await self.live.explain(pairs)

    def stream(self, pair: PairRequest) -> AsyncGenerator[Delta | LiveText | PairError, None]:
        self.asked.append(pair)
        return self.live.stream(pair)

    async def model_fingerprint(self) -> str:
        return self.live.model_fingerprint


@dataclass(frozen=True)
class Requests:
    url: str

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=120, **options)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, **{"timeout": 120, **options})


@dataclass(frozen=True)
class Endpoint(Requests):
    """An endpoint in this process, and the model behind it."""

    model: LocalModel


@contextmanager
def local_endpoint(town: Path, **values: Any) -> Iterator[Endpoint]:
    """Run the endpoint of `serve_config(town, **values)` on a free port of 127.0.0.1."""
    config, recorder = serve_config(town, **values), Recorder()
    model = LocalModel(load_live(config))
    read_through = ReadThrough(model, recorder, config.http.deadline_seconds)
    read_through.catalogue, read_through.published = read_contents(config, recorder)
    with _server(asgi_app(config, read_through, recorder)) as url:
        yield Endpoint(url, model)
    model.live.engine.stop()


@contextmanager
def _server(app: Any) -> Iterator[str]:
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
    blocks = [block.split("\n") for block in response.text.strip().split("\n\n")]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in blocks
    ]
