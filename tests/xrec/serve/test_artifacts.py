"""Which artifacts a replica uses, and how they change under load: nights, rollbacks, adapters."""

import asyncio
import gc
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, groupby
from typing import Any

import httpx

from tests.errors import raises
from tests.world.workspace import make_town
from tests.xrec.serve.local_endpoint import (
    USERS,
    NotedMetrics,
    Replicas,
    backfill_config,
    make_backfill,
    rows_of,
    serve_config,
)
from xrec.adapter.artifact import read_adapter
from xrec.bulk import rollback
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.jobs.serve import checked
from xrec.serve import app
from xrec.serve.app import Frontend, Generator
from xrec.serve.artifacts import choice_of, chosen, repeat
from xrec.storage import open_location


def test_texts_by_another_model_are_refused_before_the_start(town):
    with raises(ArtifactMismatchError, "another_run", "adapter"):
        checked(serve_config(town, adapter=f"{town}/adapter-2"))


def test_choice_names_artifacts_or_leaves_the_published_ones_and_a_bad_one_is_ignored(
    town, tmp_path
):
    config, metrics = serve_config(town, explanations=str(tmp_path / "out")), NotedMetrics()
    with raises(ConfigError, "extra_forbidden", "user_config.llm"):
        chosen(config, {**choice_of(config), "llm": "/etc/passwd"})

    async def follow() -> None:
        generator = Generator(config, metrics=metrics)
        frontend = Frontend(config, Replicas([generator]), metrics)

        async def adapter_after(adapter: str | None) -> str:
            """Return the adapter in use after two checks and the loading between them."""
            await frontend.reconfigure({**choice_of(config), "adapter": adapter})
            await frontend.refresh()
            await asyncio.gather(*generator._loading.values())
            await frontend.refresh()
            return frontend._read_through().catalogue.fingerprints["adapter"]

        for replica in (generator, frontend):
            await replica.reconfigure(choice_of(config))
        first, second = (
            read_adapter(open_location(f"{town}/{name}")).fingerprint
            for name in ("adapter", "adapter-2")
        )
        assert await adapter_after(None) == first
        assert await adapter_after(f"{town}/adapter-2") == second
        assert await adapter_after(f"{town}/missing") == second
        assert metrics.values["swaps", "frontend", "refused"] == 2
        assert await adapter_after(None) == first
        assert metrics.values["swaps", "frontend", "taken"] == 2
        assert metrics.values["swaps", "generator", "taken"] == 1
        models = [live.explainer.model for live in generator.loaded.values()]
        assert len({model.lm_head.weight.data_ptr() for model in models}) == 1 < len(models)

    asyncio.run(follow())


def test_periodic_check_that_fails_is_repeated():
    async def play() -> None:
        calls, comes_again = list[int](), asyncio.Event()

        async def look() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("a bug")
            comes_again.set()

        looking = asyncio.create_task(repeat(look, 0))
        await asyncio.wait_for(comes_again.wait(), 60)
        looking.cancel()

    asyncio.run(play())


@dataclass
class Client:
    """A client that keeps sending requests and records each answer's night, or a wrong answer."""

    http: httpx.AsyncClient
    texts: list[dict[tuple[str, str], str]]
    seen: list[int | str] = field(default_factory=list)

    async def ask(self) -> None:
        known = sorted(self.texts[0].keys() & self.texts[1].keys())
        for place in count():
            pairs = [known[(place + 7 * step) % len(known)] for step in range(4)]
            asked = [{"user_id": user, "item_id": item} for user, item in pairs]
            if place % 3:
                body = {"pairs": [{**asked[0], "fresh": place % 3 == 1}, *asked[1:]]}
                answer = await self.http.post("/v1/explanations", json=body)
                found = answer.json().get("explanations", ())
            else:
                user = USERS[place % 2]
                answer = await self.http.get(f"/v1/users/{user}/recommendations?k=3")
                found = [each["answer"] for each in answer.json().get("items", ())]
            texts = {(each["user_id"], each["item_id"]): each.get("explanation") for each in found}
            nights = [
                night
                for night in (0, 1)
                if all(self.texts[night].get(pair) == text for pair, text in texts.items())
            ]
            self.seen.append(nights[0] if len(nights) == 1 else answer.text)
            await asyncio.sleep(0.05)


def test_models_and_table_change_together_under_load_and_back(town, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(app, "WATCH_SECONDS", 0.05)
    load, one = app.load_live, threading.Lock()  # transformers loads one model at a time
    read, is_read, may_load = app.read_contents, threading.Event(), threading.Event()

    def load_in_turn(*arguments: Any, **options: Any) -> Any:
        with one:
            assert may_load.wait(60)
            return load(*arguments, **options)

    def read_and_tell(*arguments: Any) -> Any:
        contents = read(*arguments)
        is_read.set()
        return contents

    monkeypatch.setattr(app, "load_live", load_in_turn)
    monkeypatch.setattr(app, "read_contents", read_and_tell)
    may_load.set()
    root, uri = tmp_path / "project", tmp_path / "project" / "explanations"
    shutil.copytree(town, root)
    night = make_town(root / "nights" / "1", interactions_per_user=7)
    artifacts = {kind: str(night / kind) for kind in ("dataset", "graph", "adapter")}
    make_backfill(backfill_config(root, str(uri), **artifacts), [*rows_of(uri)])
    texts = [rows_of(town / "explanations"), rows_of(uri)]
    rollback(str(uri), 0)
    config = serve_config(root, models={"device": "cpu", "num_processes": 2})

    async def play() -> list[Client]:
        generators = [Generator(config) for _ in range(2)]
        frontend = Frontend(config, Replicas(generators))
        gc.unfreeze()  # what was imported for the tests
        for replica in (*generators, frontend):
            await replica.reconfigure(choice_of(config))
            assert gc.get_freeze_count()  # a full collection would hold the event loop for 0.3 s
            gc.unfreeze()
        to_app = httpx.ASGITransport(frontend.__serve_build_asgi_app__(), client=("127.0.0.1", 1))
        http = httpx.AsyncClient(transport=to_app, base_url="http://127.0.0.1", timeout=120)
        clients = [Client(http, texts) for _ in range(3)]
        asking = [asyncio.create_task(client.ask()) for client in clients]

        async def until(condition: Callable[[], bool]) -> None:
            while not condition():
                for each in asking:
                    assert not each.done(), await each
                await asyncio.sleep(0.01)

        async def all_see(night: int) -> None:
            await until(lambda: all(each.seen and each.seen[-1] == night for each in clients))
            with monkeypatch.context() as patch:  # the frontend asks for no others any more
                patch.setattr(app, "KEPT_SECONDS", 0.0)
                await until(lambda: max(len(each.loaded) for each in generators) == 1)

        async with asyncio.timeout(120):
            await all_see(0)
            may_load.clear()
            is_read.clear()
            await asyncio.to_thread(rollback, str(uri), 1)
            await asyncio.to_thread(is_read.wait, 60)
            counts = [len(each.seen) + 10 for each in clients]
            await until(lambda: all(len(c.seen) > n for c, n in zip(clients, counts, strict=True)))
            may_load.set()  # until then the frontend waits for the models
            await all_see(1)
            await asyncio.to_thread(rollback, str(uri), 0)
            await all_see(0)
        for each in asking:
            each.cancel()
        return clients

    for client in asyncio.run(play()):
        assert [night for night, _ in groupby(client.seen)] == [0, 1, 0]
