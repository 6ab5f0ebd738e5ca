"""A refresh and a rollback while clients ask: models and table change together, and by themselves.

The application is real but for Ray: two model replicas in this process, of which each call gets
any, and a frontend. The night's town has the ids of the first, and other texts and vectors.
"""

import asyncio
import random
import threading
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from ray.serve.exceptions import RayServeException

from tests.world.workspace import make_town
from tests.xrec.serve.town import (
    ITEMS,
    USERS,
    backfill_config,
    make_backfill,
    rows_of,
    serve_config,
)
from xrec import bulk
from xrec.errors import ModelError
from xrec.serve import app, artifacts
from xrec.serve.app import Frontend, Generator
from xrec.serve.artifacts import choice_of

NIGHTS = ("", "nights/1")
KINDS = ("dataset", "graph", "adapter")


class Replicas:
    """A handle of model replicas in this process."""

    def __init__(self, generators: list[Generator]):
        self._generators = generators

    def options(self, **_: Any) -> "Replicas":
        return self

    def broadcast(self, name: str, models: str) -> Any:
        async def results_async(**_: Any) -> list[Any]:
            return [await getattr(each, name)(models) for each in self._generators]

        return SimpleNamespace(results_async=results_async)

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            try:
                return await getattr(random.choice(self._generators), name)(*arguments)
            except ModelError as error:
                raise RayServeException(str(error)) from error

        return SimpleNamespace(remote=lambda *some: asyncio.ensure_future(call(*some)))


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    """The workspace after a first night: the artifacts of the night are beside the first ones."""
    root = make_town(tmp_path_factory.mktemp("nights"))
    make_town(root / NIGHTS[1], seed=1)
    return root


def publish(root: Path, night: str, out: str, num_users: int) -> dict[tuple[str, str], str]:
    """Publish what a run of all jobs (night "") or a refresh writes of users; return the texts."""
    uris = {kind: str(root / night / kind) for kind in KINDS} if night else {}
    pairs = [(user, item) for user in USERS[:num_users] for item in ITEMS]
    make_backfill(backfill_config(root, str(root / out), **uris), pairs)
    return rows_of(root / out)


class Client:
    """Asks all the while, and keeps which night each answer is of, or what is wrong with it."""

    def __init__(self, http: httpx.AsyncClient, root: Path):
        self._http, self.seen = http, list[str]()
        self._texts = {night: publish(root, night, f"all/{night}", 12) for night in NIGHTS}
        tables = {night: pq.read_table(root / night / "dataset/items.parquet") for night in NIGHTS}
        self._titles = {
            night: dict(
                zip(*(table[name].to_pylist() for name in ("item_id", "title")), strict=True)
            )
            for night, table in tables.items()
        }
        self._known = sorted(self._texts[""].keys() & self._texts[NIGHTS[1]].keys())

    async def ask(self, until: asyncio.Event) -> None:
        place = 0
        while not until.is_set():
            pairs = [self._known[(place + 7 * step) % len(self._known)] for step in range(4)]
            place += 1
            if place % 3 == 0:
                await self._recommended(pairs[0][0])
            else:
                await self._explained(pairs, is_fresh=place % 3 == 1)

    async def _explained(self, pairs: list[tuple[str, str]], *, is_fresh: bool) -> None:
        asked = [{"user_id": user, "item_id": item} for user, item in pairs]
        asked[0]["fresh"] = is_fresh
        found = await self._http.post("/v1/explanations", json={"pairs": asked})
        texts = [each.get("explanation") for each in found.json().get("explanations", ())]
        self._note(found, lambda night: texts == [self._texts[night][pair] for pair in pairs])

    async def _recommended(self, user: str) -> None:
        found = await self._http.get(f"/v1/users/{user}/recommendations?k=3")

        def is_of(night: str) -> bool:
            return all(
                item["title"] == self._titles[night][item["item_id"]]
                and item["answer"].get("explanation")
                == self._texts[night].get((user, item["item_id"]))
                for item in found.json()["items"]
            )

        self._note(found, is_of)

    def _note(self, found: httpx.Response, is_of: Callable[[str], bool]) -> None:
        nights = [night for night in NIGHTS if found.status_code == 200 and is_of(night)]
        self.seen.append(nights[0] if len(nights) == 1 else f"{found.status_code} {found.text}")


def test_models_and_table_change_together_under_load_and_so_they_do_back(towns, monkeypatch):
    monkeypatch.setattr(artifacts, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(app, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(app, "KEPT_SECONDS", 0.5)
    load, one = app.load_live, threading.Lock()  # transformers loads one model at a time

    def load_in_turn(*arguments: Any) -> Any:
        with one:
            return load(*arguments)

    monkeypatch.setattr(app, "load_live", load_in_turn)
    publish(towns, "", "explanations", 4)
    config = serve_config(towns, models={"device": "cpu", "num_replicas": 2})

    async def play() -> list[Client]:
        generators = [Generator(config) for _ in range(2)]
        frontend = Frontend(config, Replicas(generators))
        for replica in (*generators, frontend):
            await replica.reconfigure(choice_of(config))
        to_app = httpx.ASGITransport(frontend.__serve_build_asgi_app__(), client=("127.0.0.1", 1))
        http = httpx.AsyncClient(transport=to_app, base_url="http://127.0.0.1", timeout=120)
        clients = await asyncio.to_thread(lambda: [Client(http, towns) for _ in range(3)])
        is_over = asyncio.Event()
        asking = [asyncio.create_task(client.ask(is_over)) for client in clients]

        async def until(night: str) -> None:
            while not all(client.seen and client.seen[-1] == night for client in clients):
                await asyncio.sleep(0.05)
            while max(len(each._loaded) for each in generators) > 1:
                await asyncio.sleep(0.05)

        async with asyncio.timeout(120):
            await until("")
            await asyncio.to_thread(publish, towns, NIGHTS[1], "explanations", 6)
            await until(NIGHTS[1])
            await asyncio.to_thread(bulk.rollback, str(towns / "explanations"), 0)
            await until("")
        is_over.set()
        await asyncio.gather(*asking)
        return clients

    for client in asyncio.run(play()):
        assert [night for night, _ in groupby(client.seen)] == ["", NIGHTS[1], ""]
