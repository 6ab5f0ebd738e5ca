"""Which artifacts a replica uses, and how they change under load: nights, rollbacks, adapters."""

import asyncio
import gc
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.errors import raises
from tests.world.workspace import make_town
from tests.xrec.serve.local_endpoint import (
    ITEMS,
    USERS,
    NotedMetrics,
    Replicas,
    backfill_config,
    dataset_of,
    make_backfill,
    rows_of,
    serve_config,
)
from tests.xrec.serve.test_published import Writing, answering
from xrec.adapter.artifact import read_adapter
from xrec.bulk import rollback
from xrec.config import ServeConfig, parse_config
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.jobs.serve import checked
from xrec.serve import app
from xrec.serve.app import Frontend, Generator, read_contents
from xrec.serve.artifacts import PublishedTexts, choice_of, chosen, repeat
from xrec.serve.messages import Explanation, PairRequest
from xrec.serve.metrics import Metrics
from xrec.storage import open_location


class Backfill:
    """A backfill that can be extended, and the endpoint's view of it."""

    def __init__(self, town: Path, uri: str, **values: Any):
        self.town, self.uri, self._values = town, uri, values
        self.pairs = list(zip(USERS, ITEMS, strict=False))
        self.metrics = NotedMetrics()

    def make(self, num_pairs: int, **values: Any) -> None:
        config = backfill_config(self.town, self.uri, **self._values, **values)
        make_backfill(config, self.pairs[:num_pairs])

    def read(self) -> PublishedTexts:
        config = serve_config(self.town, explanations=self.uri, **self._values)
        return read_contents(config, self.metrics)[1]


@pytest.fixture
def backfill(town, tmp_path):
    return Backfill(town, str(tmp_path / "out"))


def seen(published: PublishedTexts) -> tuple[int, int] | None:
    """Check for a new version; return the number of rows and the version in use."""
    asyncio.run(published.look())
    lookup = published.lookup
    return None if lookup is None else (lookup.num_rows, lookup.manifest.version)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"no parquet"), Path.unlink])
def test_backfill_whose_files_are_broken_or_gone_leaves_the_pair_to_the_model(backfill, spoil):
    backfill.make(1)
    for path in Path(backfill.uri).glob("part-*.parquet"):
        spoil(path)
    read_through = answering(Writing("of the model"))
    read_through.published = backfill.read()
    user, item = backfill.pairs[0]
    pair = PairRequest(user_id=user, item_id=item)
    (answer,) = asyncio.run(read_through.explain([pair], None))
    assert isinstance(answer, Explanation)
    assert (answer.explanation, answer.source) == ("of the model", "live")


def test_backfill_of_another_model_is_refused_at_the_start_and_changes_nothing_later(backfill):
    backfill.make(1)
    published = backfill.read()
    another = str(backfill.town / "adapter-2")
    backfill.make(1, adapter=another)
    assert seen(published) == (1, 0)
    assert backfill.metrics.values["refreshes", "refused"] == 1
    for refused in (read_contents, lambda config, _: checked(config)):
        with pytest.raises(ArtifactMismatchError):
            refused(serve_config(backfill.town, explanations=backfill.uri), Metrics())


CONFIG = parse_config(
    ServeConfig,
    {
        "workspace": "s3://bucket/run",
        "llm": {"model": "m"},
        "artifacts": {"adapter": "s3://bucket/adapter-7"},
    },
)


def test_user_config_names_artifacts_and_nothing_else():
    other = chosen(CONFIG, {**choice_of(CONFIG), "adapter": "s3://bucket/adapter-8"})
    names = ("adapter", "graph")
    assert [other.artifact(name) for name in names] == [
        "s3://bucket/adapter-8",
        "s3://bucket/run/graph",
    ]
    assert other.llm == CONFIG.llm
    with raises(ConfigError, "extra_forbidden", "user_config.llm"):
        chosen(CONFIG, {**choice_of(CONFIG), "llm": "/etc/passwd"})


def test_artifacts_that_the_choice_does_not_name_are_the_published_ones_and_a_bad_choice_is_ignored(
    town, tmp_path
):
    config = serve_config(town, explanations=str(tmp_path / "out"))

    async def follow() -> None:
        generator = Generator(config)
        frontend = Frontend(config, Replicas([generator]))
        frontend._metrics = generator._metrics = metrics = NotedMetrics()

        async def adapter_after(adapter: str | None) -> str:
            """Return the adapter in use after two checks, between which a model is loaded."""
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
        models = [live.explainer.model for live in generator._loaded.values()]
        assert len({model.lm_head.weight.data_ptr() for model in models}) == 1 < len(models)

    asyncio.run(follow())


def test_look_that_failed_is_followed_by_the_next_one():
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


KINDS = ("dataset", "graph", "adapter")


def publish(root: Path, night: Path, uri: Path, num_users: int) -> dict[tuple[str, str], str]:
    """Publish the texts of the first users, made from the artifacts in the folder `night`."""
    uris = {kind: str(night / kind) for kind in KINDS} if night != root else {}
    pairs = [(user, item) for user in USERS[:num_users] for item in ITEMS]
    make_backfill(backfill_config(root, str(uri), **uris), pairs)
    return rows_of(uri)


@dataclass
class Client:
    """A client that keeps requesting pairs and records each answer's night, or a wrong answer."""

    http: httpx.AsyncClient
    texts: list[dict[tuple[str, str], str]]
    titles: list[dict[str, str]]
    seen: list[int | str] = field(default_factory=list)

    async def ask(self) -> None:
        known = sorted(self.texts[0].keys() & self.texts[1].keys())
        for place in count():
            pairs = [known[(place + 7 * step) % len(known)] for step in range(4)]
            asked = [{"user_id": user, "item_id": item} for user, item in pairs]
            names = dict[str, str]()
            if place % 3:
                body = {"pairs": [{**asked[0], "fresh": place % 3 == 1}, *asked[1:]]}
                answer = await self.http.post("/v1/explanations", json=body)
                found = answer.json().get("explanations", ())
            else:
                user = USERS[place % 2]  # both are in the tables of both nights
                answer = await self.http.get(f"/v1/users/{user}/recommendations?k=3")
                items = answer.json().get("items", ())
                found, names = (
                    [each["answer"] for each in items],
                    {each["item_id"]: each["title"] for each in items},
                )
            texts = {(each["user_id"], each["item_id"]): each.get("explanation") for each in found}
            nights = [
                night
                for night in (0, 1)
                if all(self.texts[night].get(pair) == text for pair, text in texts.items())
                and names.items() <= self.titles[night].items()
            ]
            self.seen.append(nights[0] if len(nights) == 1 else answer.text)
            await asyncio.sleep(0.05)


def test_models_and_table_change_together_under_load_and_so_they_do_back(
    town, tmp_path, monkeypatch
):
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
    shutil.copytree(town, root, ignore=shutil.ignore_patterns("explanations"))
    nights = [root, make_town(root / "nights" / "1", interactions_per_user=7)]
    publish(root, root, uri, 2)
    texts = [publish(root, night, tmp_path / f"all-{night.name}", 5) for night in nights]
    tables = [dataset_of(night).items for night in nights]
    columns = [[table[name].to_pylist() for name in ("item_id", "title")] for table in tables]
    titles = [dict(zip(*each, strict=True)) for each in columns]
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
        clients = [Client(http, texts, titles) for _ in range(3)]
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
                await until(lambda: max(len(each._loaded) for each in generators) == 1)

        async with asyncio.timeout(120):
            await all_see(0)
            may_load.clear()
            is_read.clear()
            await asyncio.to_thread(publish, root, nights[1], uri, 3)
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
