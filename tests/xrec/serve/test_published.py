"""A client asks all the while, and versions are published, rolled back, vacuumed and taken down."""

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
from fastapi.testclient import TestClient

from tests.world.here import PoolHere, TaskOf, plan_of
from tests.xrec.serve.test_app import wait_until
from tests.xrec.serve.test_read_through import Writing, answering
from xrec import bulk
from xrec.backfill.plan import EXPLANATIONS
from xrec.config.base import parse_config
from xrec.config.identity import identity_of
from xrec.config.serve import ServeConfig
from xrec.data.ids import IdIndex
from xrec.serve import artifacts
from xrec.serve.api import make_api
from xrec.serve.artifacts import PublishedTexts
from xrec.serve.gate import Gate
from xrec.serve.messages import Explanation, NoExplanation, PairRequest, Parts
from xrec.serve.metrics import Metrics
from xrec.serve.model import Draft, Event
from xrec.serve.read_through import ReadThrough
from xrec.storage.forgotten import Forgotten

MODEL = dict.fromkeys(("base_model", "adapter", "graph"), "toy")
USERS, ITEMS = [f"u{number}" for number in range(200)], [f"i{number}" for number in range(4)]
MODEL_SAYS = "of the model"


def publish(uri: str, number: int) -> None:
    """Publish texts that name their pair and this number."""
    config = config_of(uri)
    said = {"decoding": identity_of(config.decoding), "llm": identity_of(config.llm)}

    def explain(rows: pa.Table) -> bulk.Outcome:
        made = [
            {
                **row,
                "explanation": f"{row['user_id']} {row['item_id']} by {number}",
                **dict.fromkeys(("num_prompt_tokens", "num_generated_tokens"), 1),
                **dict.fromkeys(("finish_reason", "model_fingerprint", "content_key"), "x"),
                "aspects": [],
                "kind": "written",
                "refused": "",
            }
            for row in rows.to_pylist()
        ]
        failed = EXPLANATIONS.failed_schema.empty_table()
        return bulk.Outcome(pa.Table.from_pylist(made, EXPLANATIONS.ok_schema), failed)

    pairs = [{"user_id": user, "item_id": item} for user in USERS for item in ITEMS]
    rows = pa.Table.from_pylist(pairs)
    said = {**said, "number": number}
    run = plan_of(uri, "explanations", EXPLANATIONS, rows, said, inputs=MODEL)
    counts = lambda summary: ({"explanations": summary.num_ok, "failed": 0}, {})  # noqa: E731
    bulk.complete(run, PoolHere(), lambda: TaskOf(explain), "explanations", counts)


def config_of(uri: str) -> ServeConfig:
    values = {"workspace": uri, "explanations": uri, "llm": {"model": "m"}}
    return parse_config(ServeConfig, values)


def reading(uri: str, model: Writing | None = None) -> ReadThrough:
    read_through = answering(model or Writing(MODEL_SAYS), ["The Fox"] * len(ITEMS))
    read_through.published = PublishedTexts(config_of(uri), MODEL, Metrics())
    return read_through


def numbers_of(pairs: Sequence[PairRequest], answers: Sequence[Any]) -> set[str]:
    """Of which versions the answers are; what is not as it should be stands for itself."""
    found = set()
    for pair, answer in zip(pairs, answers, strict=True):
        text = answer.explanation if isinstance(answer, Explanation) else answer.problem.type
        match = re.fullmatch(rf"{pair.user_id} {pair.item_id} by (\d)", text)
        found.add(match[1] if match else f"{pair.user_id} {pair.item_id}: {text}")
    return found


def test_client_that_asks_all_the_while_gets_no_wrong_mixed_or_missing_answer(tmp_path):
    uri = str(tmp_path / "out")
    publish(uri, 0)
    read_through = reading(uri)
    seen: Counter[str] = Counter()

    def change() -> None:
        options = {"retention_hours": 0, "enforce_retention_duration": False}
        for number in (1, 2, 3):
            before = bulk.published(uri).version
            publish(uri, number)
            wait_until(lambda number=number: str(number) in seen)
            bulk.rollback(uri, before)
            deltalake.DeltaTable(uri).vacuum(dry_run=False, **options)
            publish(uri, number + 3)
            deltalake.DeltaTable(uri).vacuum(dry_run=False, **options)
            wait_until(lambda number=number + 3: str(number) in seen)

    async def ask() -> None:
        looking = artifacts.again_and_again(read_through.published.look, 0.05)
        watch = asyncio.create_task(looking)
        changing = asyncio.create_task(asyncio.to_thread(change))
        place = 0
        while not changing.done():
            users = [USERS[(place + step * 37) % len(USERS)] for step in range(5)]
            pairs = [PairRequest(user_id=user, item_id=item) for user in users for item in ITEMS]
            answers = await read_through.explain(pairs, None)
            seen[" | ".join(sorted(numbers_of(pairs, answers)))] += 1
            place += 1
            await asyncio.sleep(0)
        watch.cancel()
        await changing

    asyncio.run(ask())
    assert set(seen) == set("0123456"), seen


def test_version_whose_files_a_vacuum_deleted_is_left_for_the_one_that_came_since(tmp_path):
    uri = str(tmp_path / "out")
    publish(uri, 0)
    read_through = reading(uri)
    pairs = [PairRequest(user_id=user, item_id="i0") for user in USERS[:3]]
    assert numbers_of(pairs[:1], asyncio.run(read_through.explain(pairs[:1], None))) == {"0"}
    gone = list(Path(uri).glob("part-*"))
    publish(uri, 1)
    for path in gone:
        path.unlink()
    # The first user's rows of version 0 are in memory still.
    assert numbers_of(pairs, asyncio.run(read_through.explain(pairs, None))) == {"1"}


def test_what_is_taken_down_is_not_answered_from_anywhere_until_it_is_lifted(tmp_path):
    uri = str(tmp_path / "out")
    publish(uri, 0)
    read_through = reading(uri)

    def ask(user: str, item: str, **more: Any) -> str:
        asyncio.run(read_through.published.look_at_takedowns())
        pair = PairRequest(user_id=user, item_id=item, **more)
        (answer,) = asyncio.run(read_through.explain([pair], None))
        if isinstance(answer, NoExplanation):
            return f"{answer.problem.status} {answer.problem.type.rpartition('/')[2]}"
        return f"{answer.source} {answer.explanation}"

    live = f"live {MODEL_SAYS}"
    assert ask("u1", "i1") == "backfill u1 i1 by 0"
    assert ask("new", "i1") == live
    bulk.take_down(uri, rows=[{"user_id": "u1", "item_id": "i1"}, {"user_id": "new"}], reason="x")
    assert {ask("u1", "i1"), ask("u1", "i1", fresh=True), ask("new", "i1")} == {"410 taken_down"}
    assert ask("u1", "i2") == "backfill u1 i2 by 0"
    assert ask("new", "i1", history=["i2"]) == "410 taken_down"
    bulk.lift(uri, 1, "x")
    asyncio.run(read_through.published.look())
    assert (ask("u1", "i1"), ask("new", "i1")) == (live, live)
    bulk.take_down(uri, phrase="OF  the model", reason="x")
    bulk.take_down(uri, phrase="i3 by", reason="x")
    assert {ask("u1", "i1"), ask("other", "i1"), ask("u2", "i3")} == {"410 taken_down"}
    assert ask("u2", "i2") == "backfill u2 i2 by 0"


def test_forgotten_user_is_known_to_no_route(tmp_path):
    uri, people = str(tmp_path / "out"), Forgotten(b"key")
    publish(uri, 0)
    read_through = reading(uri)
    catalogue = read_through.catalogue
    catalogue.dataset.user_ids = IdIndex(pa.chunked_array([["u1", "u11", "u2"]]))
    catalogue.recommend = lambda *of: []
    api = make_api(lambda: read_through)
    api = Gate(api, (), Metrics())
    client = TestClient(api, "http://127.0.0.1", client=("127.0.0.1", 1))
    pair = {"user_id": "u1", "item_id": "i1"}

    def ask() -> tuple[list[str], list[int]]:
        asyncio.run(read_through.published.look_at_takedowns())
        of_user = [f"/v1/users/u1{end}/recommendations" for end in ("", "1")]
        answers = [client.get(path) for path in (*of_user, "/v1/explanations/u1/i1")]
        users = client.get("/v1/users?prefix=u1").json()["users"]
        return users, [each.status_code for each in answers]

    assert ask() == (["u1", "u11"], [200, 200, 200])
    people = Forgotten(b"key", frozenset({people.hash_of("u1")}))
    bulk.take_down(uri, forgotten=people, reason="x")
    assert ask() == (["u11"], [404, 200, 404])
    assert client.post("/v1/evidence", json=pair).status_code == 404


def test_look_keeps_what_is_known_if_the_list_cannot_be_read(tmp_path):
    uri = str(tmp_path / "out")
    publish(uri, 0)
    bulk.take_down(uri, rows=[{"user_id": "u1"}], reason="x")
    published = reading(uri).published
    bulk.take_down(uri, rows=[{"user_id": "u2"}], reason="x")
    (tmp_path / "out/_xrec/takedowns/000002.json").write_text("{")
    asyncio.run(published.look_at_takedowns())
    assert published.takedowns.of_row({"user_id": "u1", "item_id": "i"}) == 1


class Streaming(Writing):
    """Writes "It is calm." and then "It is rude.", a sentence after the other."""

    async def stream(
        self, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Event, None]:
        for text in ("It is calm.", "It is calm. It is rude."):
            yield Draft(text, is_checked=True)
        (whole,) = await self.explain([pair])
        yield whole


def test_stream_never_shows_a_phrase_that_is_taken_down(tmp_path):
    uri = str(tmp_path / "out")
    bulk.take_down(uri, phrase="rude", reason="x")
    read_through = reading(uri, Streaming("It is calm. It is rude."))
    pair = PairRequest(user_id="u1", item_id="i1")

    async def read() -> list[Any]:
        return [each async for each in read_through.stream(pair, None, "checked")]

    *drafts, last = asyncio.run(read())
    assert [each.text for each in drafts] == ["It is calm.", ""]  # the second one takes it back
    assert last.problem.type == "/problems/taken_down"


def test_takedown_is_kept_also_if_the_output_was_deleted_and_made_again(tmp_path):
    uri = str(tmp_path / "out")
    pairs = [PairRequest(user_id=user, item_id="i1") for user in ("u1", "u2")]

    async def taken_down() -> list[bool]:
        await read_through.published.look()
        await read_through.published.look_at_takedowns()
        return [
            not isinstance(each, Explanation) for each in await read_through.explain(pairs, None)
        ]

    for number, user in enumerate(("u1", "u2")):
        shutil.rmtree(uri, ignore_errors=True)
        publish(uri, number)
        bulk.take_down(uri, rows=[{"user_id": user}], reason="no")
        if number == 0:
            read_through = reading(uri)
            assert asyncio.run(taken_down()) == [True, False]
    assert asyncio.run(taken_down()) == [False, True]
    shutil.rmtree(f"{uri}/_xrec")  # what was taken down stays so while the list is gone
    assert asyncio.run(taken_down()) == [False, True]
