"""What an endpoint answers from: versions that come, go, and are taken down; memory; the model."""

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from tests.world.here import PoolHere, TaskOf, plan_of
from tests.world.program import wait_until
from tests.xrec.serve.local_endpoint import NotedMetrics, key, sse
from xrec import bulk
from xrec.backfill.lookup import Explained
from xrec.backfill.plan import EXPLANATIONS
from xrec.bulk.takedown import Takedowns
from xrec.config import KeyConfig, ServeConfig, identity_of, parse_config
from xrec.data import NamedEvidence
from xrec.data.ids import IdIndex
from xrec.serve import artifacts
from xrec.serve.api import make_api
from xrec.serve.artifacts import PublishedTexts
from xrec.serve.catalogue import Catalogue
from xrec.serve.gate import RequestGate
from xrec.serve.messages import (
    Explanation,
    NoExplanation,
    PairRequest,
    Parts,
    RecommendedItem,
)
from xrec.serve.metrics import Metrics
from xrec.serve.model import OVERLOADED, Draft, Event, ModelHandle, PairError
from xrec.serve.problems import ProblemError
from xrec.serve.read_through import ReadThrough


class Writing(ModelHandle):
    """A model that writes the same text for every pair, and streams it after these drafts."""

    def __init__(
        self, text: str, aspects: Sequence[NamedEvidence] = (), drafts: Sequence[str] = ()
    ):
        self._text = Explained(text, 9, 7, "stop", "model", "written", tuple(aspects))
        self._drafts = drafts

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        return [self._text] * len(pairs)

    async def stream(
        self, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Event, None]:
        for text in self._drafts:
            yield Draft(text, is_checked=True)
        yield self._text


class Hanging(ModelHandle):
    """A model that never responds and records its cancellation or, if full, refuses all pairs."""

    def __init__(self, *, is_full: bool):
        self._is_full, self.is_stopped = is_full, False

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        if self._is_full:
            return [PairError(OVERLOADED, "no room")] * len(pairs)
        try:
            return await asyncio.Future()
        finally:
            self.is_stopped = True


def answering(
    model: ModelHandle,
    titles: Sequence[str] = ("The Fox",),
    seconds: float = 30,
) -> ReadThrough:
    """Return a read-through over a catalog whose items `i0`, `i1`, ... have these titles."""
    catalogue = SimpleNamespace(
        dataset=SimpleNamespace(
            item_ids=IdIndex(pa.chunked_array([[f"i{index}" for index in range(len(titles))]]))
        ),
        item_texts=lambda item: (titles[item], ""),
    )
    published = SimpleNamespace(lookup=None, model_fingerprint="model", takedowns=Takedowns({}))
    return ReadThrough(catalogue, published, model, Metrics(), seconds)


def answer(read_through: ReadThrough) -> Explanation:
    pair = PairRequest(user_id="u", item_id="i0")
    (found,) = asyncio.run(read_through.explain([pair]))
    assert isinstance(found, Explanation)
    return found


def test_text_by_another_model_is_not_taken_from_memory():
    read_through = answering(Writing("of the model"))
    assert [answer(read_through).is_cached for _ in range(2)] == [False, True]
    read_through.published.model_fingerprint = "another"
    assert not answer(read_through).is_cached


@pytest.mark.parametrize(
    ("is_full", "status", "reason"), [(True, 429, OVERLOADED), (False, 504, "deadline")]
)
def test_model_that_is_full_or_hangs_ends_the_request_which_may_be_sent_again(
    is_full, status, reason
):
    model = Hanging(is_full=is_full)
    with pytest.raises(ProblemError) as refused:
        answer(answering(model, seconds=0.01))
    told = refused.value
    assert (told.status_code, told.reason, told.headers["Retry-After"]) == (status, reason, "2")
    assert model.is_stopped != is_full


MODEL = dict.fromkeys(("base_model", "adapter", "graph"), "toy")
USERS, ITEMS = [f"u{number}" for number in range(50)], [f"i{number}" for number in range(4)]
MODEL_SAYS = "of the model"


def publish(uri: str, number: int, inputs: dict[str, str] = MODEL) -> None:
    """Publish a text for each pair that contains the pair and `number`."""
    config = config_of(uri)
    said = {"decoding": identity_of(config.decoding), "llm": identity_of(config.llm)}
    row = {
        **dict.fromkeys(("num_prompt_tokens", "num_generated_tokens"), 1),
        **dict.fromkeys(("finish_reason", "model_fingerprint", "content_key"), "x"),
        "aspects": [],
        "kind": "written",
        "refused": "",
    }

    def explain(pairs: pa.Table) -> bulk.Outcome:
        made = [
            {**row, **pair, "explanation": f"{pair['user_id']} {pair['item_id']} by {number}"}
            for pair in pairs.to_pylist()
        ]
        failed = EXPLANATIONS.failed_schema.empty_table()
        return bulk.Outcome(pa.Table.from_pylist(made, EXPLANATIONS.ok_schema), failed)

    pairs = [
        {"user_id": user, "item_id": item, "rank": len(ITEMS) - place, "score": place / 2}
        for user in USERS
        for place, item in enumerate(ITEMS)
    ]
    settings = {**said, "number": number, "pairs": {"kind": "recommendations"}}
    rows = pa.Table.from_pylist(pairs)
    run = plan_of(uri, "explanations", EXPLANATIONS, rows, settings, inputs=inputs)
    counts = lambda summary: ({"explanations": summary.num_ok, "failed": 0}, {})  # noqa: E731
    bulk.complete(run, PoolHere(), lambda: TaskOf(explain), "explanations", counts)


@pytest.fixture
def uri(tmp_path):
    """The URI of a table published with the number 0."""
    uri = str(tmp_path / "out")
    publish(uri, 0)
    return uri


def asked(read_through: ReadThrough, *users: str, item: str = "i1", **more: Any) -> list[Any]:
    """Return the answers to these users."""
    pairs = [PairRequest(user_id=user, item_id=item, **more) for user in users]
    return list(asyncio.run(read_through.explain(pairs)))


def config_of(uri: str) -> ServeConfig:
    values = {"workspace": uri, "artifacts": {"explanations": uri}, "llm": {"model": "m"}}
    return parse_config(ServeConfig, values)


def reading(uri: str, model: Writing | None = None) -> ReadThrough:
    read_through = answering(model or Writing(MODEL_SAYS), ["The Fox"] * len(ITEMS))
    read_through.published = PublishedTexts(config_of(uri), MODEL, Metrics())
    catalogue = read_through.catalogue
    catalogue.as_recommended = partial(Catalogue.as_recommended, catalogue)
    catalogue.dataset.user_ids = IdIndex(pa.chunked_array([["u1", "u11", "u2"]]))
    return read_through


def numbers_of(pairs: Sequence[PairRequest], answers: Sequence[Any]) -> set[str]:
    """Return the numbers of the versions that the answers are from, or wrong answers whole."""
    found = set()
    for pair, answer in zip(pairs, answers, strict=True):
        text = answer.explanation if isinstance(answer, Explanation) else answer.problem.type
        match = re.fullmatch(rf"{pair.user_id} {pair.item_id} by (\d)", text)
        found.add(match[1] if match else f"{pair.user_id} {pair.item_id}: {text}")
    return found


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"no parquet"), Path.unlink])
def test_pair_whose_file_is_damaged_or_gone_goes_to_the_model(uri, spoil):
    for path in Path(uri).glob("part-*"):
        spoil(path)
    (found,) = asked(reading(uri), "u1")
    assert (found.explanation, found.source) == (MODEL_SAYS, "live")


def test_version_by_another_model_is_not_used(uri):
    metrics = NotedMetrics()
    published = PublishedTexts(config_of(uri), MODEL, metrics)
    publish(uri, 1, dict.fromkeys(MODEL, "another"))
    assert not asyncio.run(published.look())
    assert published.lookup.manifest.version == 0
    assert metrics.values["refreshes", "refused"] == 1


def test_client_gets_no_wrong_mixed_or_missing_answer_while_versions_change(uri):
    read_through = reading(uri)
    seen: Counter[str] = Counter()

    def change() -> None:
        options = {"retention_hours": 0, "enforce_retention_duration": False}
        wait_until(lambda: "0" in seen)
        for number in (1, 2):
            before = bulk.published(uri).version
            publish(uri, number)
            wait_until(lambda number=number: str(number) in seen)
            bulk.rollback(uri, before)
            deltalake.DeltaTable(uri).vacuum(dry_run=False, **options)
            publish(uri, number + 2)
            deltalake.DeltaTable(uri).vacuum(dry_run=False, **options)
            wait_until(lambda number=number + 2: str(number) in seen)

    async def ask() -> None:
        looking = artifacts.repeat(read_through.published.look, 0.01)
        watch = asyncio.create_task(looking)
        changing = asyncio.create_task(asyncio.to_thread(change))
        place = 0
        while not changing.done():
            users = [USERS[(place + step * 37) % len(USERS)] for step in range(5)]
            pairs = [PairRequest(user_id=user, item_id=item) for user in users for item in ITEMS]
            answers = await read_through.explain(pairs)
            seen[" | ".join(sorted(numbers_of(pairs, answers)))] += 1
            place += 1
            await asyncio.sleep(0.02)
        watch.cancel()
        await changing

    asyncio.run(ask())
    assert set(seen) == set("01234"), seen


def test_taken_down_text_is_not_served_from_anywhere_until_it_is_lifted(uri):
    read_through = reading(uri)

    def ask(user: str, item: str, **more: Any) -> str:
        asyncio.run(read_through.published.look_at_takedowns())
        (answer,) = asked(read_through, user, item=item, **more)
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


def test_recommendations_are_the_published_pairs_by_rank_without_those_taken_down(uri):
    read_through = reading(uri)

    def best(k: int) -> list[tuple[int, str, float | None]]:
        asyncio.run(read_through.published.look_at_takedowns())
        found = asyncio.run(read_through.recommend("u1", k))
        return [(item.rank, item.item_id, item.score) for item in found]

    assert best(2) == [(1, "i3", 1.5), (2, "i2", 1.0)]
    bulk.take_down(uri, rows=[{"user_id": "u1", "item_id": "i3"}], reason="x")
    assert best(9) == [(2, "i2", 1.0), (3, "i1", 0.5), (4, "i0", 0.0)]
    with pytest.raises(ProblemError) as refused:
        asyncio.run(read_through.recommend("u3", 1))
    assert refused.value.reason == "unknown_user"
    for file in Path(uri).glob("part-*"):
        file.write_bytes(b"no parquet")
    with pytest.raises(ProblemError) as refused:
        asyncio.run(read_through.recommend("u11", 1))
    assert refused.value.status_code == 503


def test_takedowns_are_kept_if_their_list_cannot_be_read(uri):
    bulk.take_down(uri, rows=[{"user_id": "u1"}], reason="x")
    published = reading(uri).published
    bulk.take_down(uri, rows=[{"user_id": "u2"}], reason="x")
    Path(uri, "_xrec/takedowns/000002.json").write_text("{")
    asyncio.run(published.look_at_takedowns())
    assert published.takedowns.of_row({"user_id": "u1", "item_id": "i"}) == 1


def test_stream_never_shows_a_phrase_that_is_taken_down(tmp_path):
    uri, text = str(tmp_path / "out"), "It is calm. It is rude."
    bulk.take_down(uri, phrase="rude", reason="x")
    read_through = reading(uri, Writing(text, drafts=("It is calm.", text)))
    pair = PairRequest(user_id="u1", item_id="i1")

    async def read() -> list[Any]:
        return [each async for each in read_through.stream(pair, "checked")]

    *drafts, last = asyncio.run(read())
    assert [each.text for each in drafts] == ["It is calm.", ""]  # the second one takes it back
    assert last.problem.type == "/problems/taken_down"


def test_takedown_is_kept_if_the_output_is_deleted_and_recreated(uri):
    def are_taken_down() -> list[bool]:
        asyncio.run(read_through.published.look())
        asyncio.run(read_through.published.look_at_takedowns())
        return [isinstance(each, NoExplanation) for each in asked(read_through, "u1", "u2")]

    bulk.take_down(uri, rows=[{"user_id": "u1"}], reason="no")
    read_through = reading(uri)
    assert are_taken_down() == [True, False]
    shutil.rmtree(uri)
    publish(uri, 1)
    bulk.take_down(uri, rows=[{"user_id": "u2"}], reason="no")
    assert are_taken_down() == [False, True]
    shutil.rmtree(f"{uri}/_xrec")  # what was taken down stays so while the list is gone
    assert are_taken_down() == [False, True]


@pytest.mark.parametrize(
    ("text", "kind", "support", "name"),
    [
        (
            "At least 20 people who chose The Fox, as you did, also chose this.",
            "others",
            "i0",
            "The Fox",
        ),
        ("Because you like Italian places.", "category", None, "Italian"),
        ("A quiet garden.", "history", "i0", "The Fox"),
        ("A quiet garden.", "popular", None, None),
    ],
)
def test_history_of_a_user_is_shown_to_a_key_with_evidence_or_for_that_user(
    text, kind, support, name
):
    options = {"shop": {}, "desk": {"scopes": ("explain", "evidence")}, "own": {"users": ["u"]}}
    keys = [KeyConfig(**key(name, name, **given)) for name, given in options.items()]
    model = Writing(text)
    category = name if kind == "category" else None
    evidence = {"kind": kind, "item_id": support, "category": category, "at_least": 20}
    model._text = replace(model._text, **{f"evidence_{n}": of for n, of in evidence.items()})
    item = {"rank": 1, "score": 1.0, "item_id": "i0", "title": "The Inn", "answer": None}

    def current() -> ReadThrough:
        read_through = answering(model)
        catalogue: Any = read_through.catalogue
        catalogue.dataset.user_ids = IdIndex(pa.chunked_array([["u"]]))
        catalogue.recommend = lambda user: [RecommendedItem(**item)]
        return read_through

    client = TestClient(RequestGate(make_api(current), keys, Metrics()))

    def ask(secret: str) -> tuple[list[dict[str, Any]], str]:
        """Return the answers of the four routes that give texts, and all that they sent."""
        given = {"headers": {"X-API-Key": secret}}
        body = {"pairs": [{"user_id": "u", "item_id": "i0"}]}
        many = client.post("/v1/explanations", json=body, **given)
        one = client.get("/v1/explanations/u/i0", **given)
        best = client.get("/v1/users/u/recommendations", **given)
        stream = client.post("/v1/explanations/stream", json=body, **given)
        (streamed,) = (data["answer"] for event, data in sse(stream) if event == "explanation")
        answers = [*many.json()["explanations"], one.json(), streamed]
        answers += [each["answer"] for each in best.json()["items"]]
        return answers, "".join(sent.text for sent in (many, one, best, stream))

    people = {"kind": kind, "item_id": support, "name": name, "at_least": 20}
    for secret in ("desk", "own"):
        assert [answer["people"] for answer in ask(secret)[0]] == [people] * 4
    answers, sent = ask("shop")
    if name is not None and name in text:
        problems = [answer.get("problem", answer) for answer in answers]
        assert [problem["type"] for problem in problems] == ["/problems/scope"] * 4
        assert name not in sent
    else:
        assert [(each["explanation"], each["people"]) for each in answers] == [(text, None)] * 4
