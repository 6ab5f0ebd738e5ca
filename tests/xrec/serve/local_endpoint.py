"""The endpoint in this process, over real HTTP. Only Ray Serve and its handles are left out."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
import uvicorn

from tests.xrec.serve.town import serve_config
from xrec.backfill.lookup import Explained
from xrec.serve.api import make_api
from xrec.serve.app import read_contents
from xrec.serve.gate import Gate
from xrec.serve.live_explainer import LiveExplainer, load_live
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.metrics import Metrics
from xrec.serve.model import Event, ModelHandle, PairError
from xrec.serve.read_through import ReadThrough


class NotedMetrics(Metrics):
    """Metrics that keep what is recorded in `values`, by name and labels, and tell Ray nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[str, ...], float] = {}
        for name in [*vars(self)]:
            if name != "values":
                add, keep = partial(self._note, name, True), partial(self._note, name, False)
                setattr(self, name, SimpleNamespace(inc=add, observe=add, set=keep))

    def _note(
        self, name: str, adds: bool, value: float = 1, labels: dict[str, str] | None = None
    ) -> None:
        key = name, *(labels or {}).values()
        self.values[key] = value + (self.values.get(key, 0) if adds else 0)


class LocalModel(ModelHandle):
    """A model in this process that remembers the pairs that it is asked for."""

    def __init__(self, live: LiveExplainer):
        self.live, self.is_ready = live, True
        self.asked: list[PairRequest] = []

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        self.asked += pairs
        return await self.live.explain(pairs, key)

    def stream(self, pair: PairRequest, parts: Parts, key: str = "") -> AsyncGenerator[Event, None]:
        self.asked.append(pair)
        return self.live.stream(pair, parts, key)


@dataclass(frozen=True)
class Requests:
    url: str

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=120, **options)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, **{"timeout": 120, **options})


@dataclass(frozen=True)
class Endpoint(Requests):
    """An endpoint in this process, the model behind it, and its metrics."""

    model: LocalModel
    metrics: NotedMetrics


@contextmanager
def local_endpoint(town: Path, **values: Any) -> Iterator[Endpoint]:
    """Run the endpoint of `serve_config(town, **values)` on a free port of 127.0.0.1."""
    config, metrics = serve_config(town, **values), NotedMetrics()
    model = LocalModel(load_live(config, metrics))
    contents, seconds = read_contents(config, metrics), config.http.deadline_seconds
    read_through = ReadThrough(*contents, model, metrics, seconds)
    with _server(Gate(make_api(lambda: read_through), config.security.keys, metrics)) as url:
        yield Endpoint(url, model, metrics)


@contextmanager
def _server(app: Any) -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
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
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ")))
        for lines in blocks
        if not lines[0].startswith(":")
    ]
