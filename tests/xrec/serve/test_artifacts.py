"""What a frontend answers from, and changes of artifacts in a running replica.

A later version of the backfill is taken without a restart. Another model's backfill is refused,
at the start and later.
"""

import asyncio
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.serve import checked
from tests.world.store import requests_of
from tests.xrec.serve.local_endpoint import NotedMetrics
from tests.xrec.serve.test_read_through import Writing, answering
from tests.xrec.serve.town import ITEMS, USERS, backfill_config, make_backfill, serve_config
from xrec.bulk import rollback
from xrec.config.base import parse_config
from xrec.config.serve import ServeConfig
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.serve.app import read_contents
from xrec.serve.artifacts import Followed, PublishedTexts, again_and_again, choice_of, chosen
from xrec.serve.catalogue import read_catalogue
from xrec.serve.messages import Explanation, PairRequest
from xrec.serve.metrics import Metrics
from xrec.storage import open_location, read_manifest


class Backfill:
    """A backfill that grows, and the endpoint's view of it."""

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
    """Return rows and version of what is published, after a look."""
    asyncio.run(published.look())
    lookup = published.lookup
    return None if lookup is None else (lookup.num_rows, lookup.manifest.version)


def test_catalogue_and_backfill_are_of_one_model_and_know_its_aspects(town):
    catalogue, published = read_contents(serve_config(town), Metrics())
    assert published.lookup is not None
    row = published.lookup.find(USERS[0], ITEMS[0])
    assert row is not None
    assert row.model_fingerprint == published.model_fingerprint
    assert catalogue.dataset.aspects is not None
    aspect = catalogue.dataset.aspects["aspect"][0].as_py()
    found = catalogue.aspect_names.find(f"You would enjoy its {aspect}.")
    assert [each.name for each in found] == [aspect]


def test_any_process_can_open_what_a_relative_uri_names(town, monkeypatch):
    monkeypatch.chdir(town)
    config = checked(serve_config(town, workspace=".", adapter="adapter"))
    monkeypatch.chdir("/")
    assert config.adapter == str(town / "adapter")
    assert read_catalogue(config).dataset.num_users == len(USERS)


def test_backfill_that_comes_later_grows_or_is_rolled_back_is_taken_up(backfill):
    published = backfill.read()
    assert seen(published) is None
    backfill.make(1)
    assert seen(published) == (1, 0)
    first = published.lookup
    assert first is not None
    assert seen(published) == (1, 0)
    assert published.lookup is first  # nothing was read, because nothing is new
    backfill.make(2)
    assert seen(published) == (2, 1)
    made = datetime.fromisoformat(published.lookup.manifest.created_at)
    assert backfill.metrics.values == {
        ("refreshes", "taken"): 2,
        ("backfill_rows",): 2,
        ("backfill_time",): made.timestamp(),
        ("backfill_gate",): 0,  # it was not judged
    }
    rollback(backfill.uri, 0)
    assert seen(published) == (1, 2)


def test_backfill_that_is_deleted_and_made_again_is_taken_up(backfill):
    backfill.make(1)
    published = backfill.read()
    shutil.rmtree(backfill.uri)
    backfill.make(2)
    assert seen(published) == (2, 0)
    shutil.rmtree(backfill.uri)
    assert seen(published) is None


def test_look_for_a_later_version_is_a_few_requests(town, s3, monkeypatch):
    backfill = Backfill(town, f"{s3.new_bucket()}/out", storage=s3.storage)
    backfill.make(1)
    published = backfill.read()
    first = published.lookup
    assert first is not None
    assert first.find(*backfill.pairs[0]) is not None
    with monkeypatch.context() as patch:
        asked = requests_of(patch)
        asyncio.run(published.look())
        assert len(asked) <= 2, asked
    assert published.lookup is first


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
    theirs = read_manifest(open_location(another), "adapter").fingerprint
    words = f"(?s)another model:.*adapter: '{theirs}' there.*serve the adapter that wrote"
    for refused in (read_contents, lambda config, _: checked(config)):
        with pytest.raises(ArtifactMismatchError, match=words):
            refused(serve_config(backfill.town, explanations=backfill.uri), Metrics())


CONFIG = parse_config(
    ServeConfig,
    {"workspace": "s3://bucket/run", "llm": {"model": "m"}, "adapter": "s3://bucket/adapter-7"},
)


def test_user_config_names_artifacts_and_nothing_else():
    other = chosen(CONFIG, {**choice_of(CONFIG), "adapter": "s3://bucket/adapter-8"})
    names = ("adapter", "graph")
    assert [other.artifact(name) for name in names] == [
        "s3://bucket/adapter-8",
        "s3://bucket/run/graph",
    ]
    assert other.llm == CONFIG.llm
    with pytest.raises(ConfigError, match="llm: unknown key"):
        chosen(CONFIG, {**choice_of(CONFIG), "llm": "/etc/passwd"})


def test_what_the_choice_does_not_name_is_of_the_last_night_and_a_bad_one_changes_nothing(
    town, tmp_path
):
    began: list[str] = []
    metrics, uri = NotedMetrics(), str(tmp_path / "out")
    config = serve_config(town, explanations=uri)
    another = {**choice_of(config), "adapter": str(town / "adapter-2")}

    async def take(config: ServeConfig, models: str) -> bool:
        began.append(config.artifact("adapter").removeprefix(f"{town}/"))
        return len(began) != 2

    async def follow() -> None:
        followed = Followed("generator", config, take, metrics)
        await followed.to(choice_of(config))
        await followed.to(another)
        for _ in range(3):
            await followed.look()
        assert began == ["adapter", "adapter-2", "adapter-2"]  # until it is taken
        for adapter in ("missing", "adapter-2", ""):
            await followed.to({**another, "adapter": f"{town}/{adapter}" if adapter else None})
            await followed.look()

    asyncio.run(follow())
    assert began[3:] == ["adapter"]  # the one that is there is not taken again
    outcomes = {name[-1]: count for name, count in metrics.values.items() if name[0] == "swaps"}
    assert outcomes == {"taken": 2, "refused": 1}


def test_look_that_failed_is_followed_by_the_next_one():
    async def play() -> int:
        calls, comes_again = list[int](), asyncio.Event()

        async def look() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("a bug")
            comes_again.set()

        looking = asyncio.create_task(again_and_again(look, 0))
        async with asyncio.timeout(60):
            await comes_again.wait()
        looking.cancel()
        return len(calls)

    assert asyncio.run(play()) >= 2
