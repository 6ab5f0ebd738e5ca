"""The endpoint in this process, over real HTTP; only Ray Serve and its handles are left out.

Its town, what a backfill made of it, and a model that writes what a test says are here too.
"""

import asyncio
import hashlib
import json
import random
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import requests
import uvicorn
from ray.serve.exceptions import RayServeException

from tests.world.here import PoolHere
from tests.world.shop import with_uris
from tests.world.workspace import NUM_ITEMS, NUM_USERS
from tests.xrec.backfill.runs import with_pairs
from xrec.backfill import read_explanations
from xrec.backfill.driver import finish
from xrec.backfill.lookup import Explained
from xrec.backfill.plan import open_backfill
from xrec.backfill.task import explain_task
from xrec.bulk import drive
from xrec.config import BackfillConfig, ServeConfig, parse_config
from xrec.data import Dataset, read_dataset
from xrec.errors import ModelError
from xrec.generate.engine import Advance, Completion, TextParams
from xrec.generate.shared_engine import EngineRequest
from xrec.schemas import PAIRS
from xrec.serve.api import make_api
from xrec.serve.app import Generator, read_contents
from xrec.serve.gate import RequestGate
from xrec.serve.live_explainer import LiveExplainer, load_live
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.metrics import Metrics
from xrec.serve.model import Event, ModelHandle, NoModel, PairError
from xrec.serve.read_through import ReadThrough
from xrec.storage import Manifest, open_location

USERS = sorted(f"resident-{number}" for number in range(1, NUM_USERS + 1))
ITEMS = sorted(f"place-{number}" for number in range(1, NUM_ITEMS + 1))
DECODING = {
    "max_new_tokens": 12,
    "text": {"max_words": None, "refuses_repetition": False},
}
"""Limits on texts are off, because a toy model does not write sentences."""


def serve_config(town: Path, **values: Any) -> ServeConfig:
    """Return the endpoint's config; `values` replace the defaults."""
    defaults = {
        "workspace": str(town),
        "llm": {"model": str(town / "llm")},
        "decoding": DECODING,
        "engine": {"max_rows": 8, "kv_cache_gib": 0.05},
        "models": {"device": "cpu"},
    }
    return parse_config(ServeConfig, with_uris({**defaults, **values}))


def backfill_config(town: Path, explanations: str, **values: Any) -> BackfillConfig:
    """Return the config of a backfill with the same model and decoding."""
    defaults = {
        "workspace": str(town),
        "explanations": explanations,
        "llm": {"model": str(town / "llm")},
        "decoding": DECODING,
        "pairs": {"kind": "split", "split": "test"},
        "rows_per_chunk": 4,
        "max_failed_share": 1.0,
        "gate": None,
        "actors": {"device": "cpu"},
    }
    return parse_config(BackfillConfig, with_uris({**defaults, **values}))


def make_backfill(config: BackfillConfig, pairs: list[tuple[str, str]]) -> Manifest:
    """Backfill `pairs` with an actor in this process, without Ray, and return the manifest."""
    rows = [dict(zip(PAIRS.names, pair, strict=True)) for pair in pairs]
    run = open_backfill(with_pairs(config, pa.Table.from_pylist(rows, PAIRS)))
    drive(run, PoolHere(), explain_task(config, run.record.identity))
    manifest = finish(config, run)
    assert manifest is not None
    return manifest


def rows_of(folder: Path) -> dict[tuple[str, str], str]:
    """Return a backfill's explanations by pair, read without the endpoint's code."""
    rows = read_explanations(str(folder)).to_pylist()
    return {(row["user_id"], row["item_id"]): row["explanation"] for row in rows}


def dataset_of(town: Path) -> Dataset:
    return read_dataset(open_location(str(town / "dataset")))


def key(name: str, secret: str, **values: Any) -> dict[str, Any]:
    """Return the config of a key."""
    return {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), **values}


class NotedMetrics(Metrics):
    """Metrics that are kept in `values`, by name and labels, instead of being passed to Ray."""

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
    """A model in this process that records the requested pairs and keys."""

    def __init__(self, live: LiveExplainer):
        self.live, self.is_ready = live, True
        self.asked: list[PairRequest] = []
        self.keys: list[str] = []

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        self.asked += pairs
        self.keys.append(key)
        return await self.live.explain(pairs, key)

    def stream(self, pair: PairRequest, parts: Parts, key: str = "") -> AsyncGenerator[Event, None]:
        self.asked.append(pair)
        self.keys.append(key)
        return self.live.stream(pair, parts, key)


class Replicas:
    """A handle to model replicas in this process; each call goes to a random one."""

    def __init__(self, generators: Sequence[Generator]):
        self._generators = generators

    def options(self, **_: Any) -> "Replicas":
        return self

    def broadcast(self, name: str, *arguments: Any) -> Any:
        async def results_async(**_: Any) -> list[Any]:
            return [await getattr(each, name)(*arguments) for each in self._generators]

        return SimpleNamespace(results_async=results_async)

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            try:
                return await getattr(random.choice(self._generators), name)(*arguments)
            except ModelError as error:
                raise RayServeException(str(error)) from error

        def remote(*arguments: Any) -> Any:
            if name != "stream":
                return asyncio.ensure_future(call(*arguments))
            return random.choice(self._generators).stream(*arguments)

        return SimpleNamespace(remote=remote)


@dataclass(frozen=True)
class Requests:
    url: str

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=120, **options)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, **{"timeout": 120, **options})


@dataclass(frozen=True)
class Endpoint(Requests):
    """An endpoint in this process, its event loop, the model behind it, and its metrics."""

    loop: asyncio.AbstractEventLoop
    model: Any
    metrics: NotedMetrics


@contextmanager
def held_port() -> Iterator[int]:
    """Yield a reserved port for a server that binds it with SO_REUSEADDR."""
    with socket.socket() as holder:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def local_endpoint(
    town: Path, live: LiveExplainer | None = None, **values: Any
) -> Iterator[Endpoint]:
    """Run the endpoint of `serve_config(town, **values)` on a free port of 127.0.0.1.

    It shares the model of another endpoint if that is given.
    """
    config, metrics = serve_config(town, **values), NotedMetrics()
    writes = config.writer != "sentences"
    model = LocalModel(live or load_live(config, metrics)) if writes else NoModel()
    contents, seconds = read_contents(config, metrics), config.http.deadline_seconds
    read_through = ReadThrough(*contents, model, metrics, seconds)
    gate = RequestGate(make_api(lambda: read_through), config.keys, metrics)
    with socket.create_server(("127.0.0.1", 0)) as door:
        server = uvicorn.Server(uvicorn.Config(gate, log_level="warning", lifespan="on"))
        serving, loop = server.serve([door]), asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(serving,), daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{door.getsockname()[1]}"
            yield Endpoint(url, loop, model, metrics)
        finally:
            server.should_exit = True
            thread.join(60)
            loop.close()


def sse(response: requests.Response) -> list[tuple[str, Any]]:
    """Return the name and data of each server-sent event."""
    blocks = [block.split("\n") for block in response.text.strip().split("\n\n")]
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ")))
        for lines in blocks
        if not lines[0].startswith(":")
    ]


class ScriptedEngine:
    """An engine that writes the given texts token by token, one per try of the same prompt.

    The last text is never finished unless it `ends`.
    """

    def __init__(self, live: LiveExplainer, *texts: str, ends: bool = True):
        self.core, self.failure, self._ends = live.engine.core, None, ends
        encode = live.explainer.pairs.builder.encode_explanation
        self._scripts = [encode(text)[:-1] for text in texts]

    @contextmanager
    def at_work(self, requests: Sequence[EngineRequest]) -> Iterator[None]:
        (request,) = requests
        asyncio.get_running_loop().set_default_executor(Here())
        self._write(request, self._scripts.pop(0), 1)
        yield

    def resubmit(self, request: EngineRequest, params: TextParams) -> None:
        self._write(request, self._scripts.pop(0), 1)

    def _write(self, request: EngineRequest, ids: list[int], length: int) -> None:
        completion = Completion(0, ids, "stop") if length == len(ids) and self._ends else None
        request.tell(Advance(0, ids[:length], completion))
        if length < len(ids):
            loop = asyncio.get_running_loop()
            loop.call_later(0.002, self._write, request, ids, length + 1)


class Here(ThreadPoolExecutor):
    """An executor that works at once in the loop's thread, so each token is read in turn."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **values: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **values))
        except Exception as error:  # noqa: BLE001  it goes to whoever waits
            done.set_exception(error)
        return done
