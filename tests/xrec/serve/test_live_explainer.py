"""Live texts: the same as in a batch; limits, threads and streams.

By default, a client never gets a refused sentence or a part of one.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
import requests
import torch
from ray.exceptions import RayTaskError

from tests.errors import raises
from tests.world.program import wait_until
from tests.xrec.serve.local_endpoint import (
    DECODING,
    ITEMS,
    USERS,
    Endpoint,
    NotedMetrics,
    ScriptedEngine,
    backfill_config,
    dataset_of,
    serve_config,
    sse,
)
from xrec.adapter.pairs import Pair
from xrec.backfill.lookup import Explained
from xrec.config import DecodingConfig, EngineConfig
from xrec.errors import ModelError
from xrec.generate.engine import Completion
from xrec.generate.explainer import MOST_TEXTS
from xrec.generate.loading import load_explainer, sources_of
from xrec.graph.fold_in import FoldIn
from xrec.llm.prompt import PairTexts
from xrec.serve.live_explainer import LiveExplainer, load_live
from xrec.serve.messages import PairRequest
from xrec.serve.model import ModelHandle, PairError
from xrec.serve.problems import ProblemError

Answers = list[Explained | PairError]
WRITTEN = DecodingConfig.model_validate(DECODING)


@pytest.fixture
def live(endpoint):
    return endpoint.model.live


@pytest.fixture(scope="module")
def closed(town):
    """An explainer for batches, with a row for a new user."""
    sources, engine = sources_of(backfill_config(town, "unused")), EngineConfig(max_rows=4)
    return load_explainer(sources, device="cpu", engine=engine, num_reserved_users=1)


def asked(user: str, item: str, history: tuple[str, ...] = (), **values: Any) -> PairRequest:
    return PairRequest(user_id=user, item_id=item, history=list(history), **values)


def explained(live: LiveExplainer, pairs: Sequence[PairRequest]) -> Answers:
    return asyncio.run(live.explain(pairs))


def results_of(answers: Answers) -> list[str]:
    """Return the text of each pair, or the reason why it has none."""
    return [each.text if isinstance(each, Explained) else each.reason for each in answers]


@pytest.fixture
def trying(live):
    """An explainer with rules that refuse all its texts and draw each a second time."""
    values = {"max_new_tokens": 24, "text": {"retry_temperature": 1.0}}
    decoding = DecodingConfig.model_validate(values)
    return LiveExplainer(live.explainer, decoding, NotedMetrics(), keys=())


def test_pairs_get_the_texts_of_a_batch_in_order(endpoint, live, closed):
    values = endpoint.metrics.values
    values.clear()
    answers = explained(live, [asked(user, item) for user in USERS for item in ITEMS[:4]])
    indices = [Pair(user, item) for user in range(len(USERS)) for item in range(4)]
    prompts = [closed.pairs.prompt(pair) for pair in indices]
    said = [closed.pairs.texts(pair) for pair in indices]
    written = closed.explain(prompts, said, WRITTEN)
    for answer, each in zip(answers, sorted(written, key=lambda each: each.index), strict=True):
        if isinstance(answer, Explained):
            assert (answer.text, each.failure) == (each.text, None)
            assert answer.num_generated_tokens == each.num_generated_tokens
            assert answer.model_fingerprint == closed.model_fingerprint
        else:
            assert answer.reason == each.failure.reason
    assert len(set(results_of(answers))) > len(USERS)
    assert (live.num_pending, ("abandoned",) in values) == (0, False)
    assert 0 < values[("first_token_seconds",)] <= values[("generation_seconds",)]
    numbers = [each.num_generated_tokens for each in answers if isinstance(each, Explained)]
    assert values["tokens", "generated"] == sum(numbers)


def test_new_user_with_a_history_gets_the_text_of_its_vector(live, closed):
    histories = [tuple(ITEMS[:3]), (ITEMS[5], ITEMS[7])]
    answers = explained(live, [asked("newcomer", ITEMS[4], each) for each in histories * 4])
    dataset, graph, new = closed.dataset, closed.graph, len(USERS)
    edges = torch.from_numpy(dataset.interaction_edges("train"))
    fold_in = FoldIn.of(graph.users[:new], graph.items, edges)
    texts = replace(closed.pairs.texts(Pair(0, 4)), user_profile="")
    prompt = closed.pairs.builder.build(new, 4, texts)
    expected = []
    for history in histories:
        rows = [dataset.item_index(item) for item in history]
        graph.users[new] = fold_in.vector(torch.tensor(rows))
        (one,) = closed.explain([prompt], [texts], WRITTEN)
        expected.append((one.text, one.num_prompt_tokens))
    assert expected[0] != expected[1]
    found = [(each.text, each.num_prompt_tokens) for each in answers]
    assert found == expected * 4


def test_texts_in_a_request_replace_those_of_the_dataset(live, closed):
    own_texts = {"user_profile": "Likes trains.", "item_title": "Station"}
    answers = explained(live, [asked(USERS[0], ITEMS[0], profiles=own_texts)])
    item_profile = closed.pairs.texts(Pair(0, 0)).item_profile
    texts = PairTexts(item_profile=item_profile, **own_texts)
    prompt = closed.pairs.builder.build(0, 0, texts)
    (expected,) = closed.explain([prompt], [texts], WRITTEN)
    assert results_of(answers) == [expected.text]


def test_simultaneous_requests_count_before_they_start_and_are_refused_as_a_whole(town, live):
    keys = [{"name": name, "sha256": 64 * digit} for name, digit in (("shop", "0"), ("app", "1"))]
    engine = {"max_rows": 1, "kv_cache_gib": 0.05}
    config = serve_config(town, engine=engine, keys=keys)
    live = load_live(config, NotedMetrics(), max_waiting_pairs=11, like=live)
    pairs = [asked(USERS[0], ITEMS[0]), asked(USERS[1], ITEMS[1])]

    async def accepted(*keys: str) -> list[bool]:
        answers = await asyncio.gather(*(live.explain(pairs, key) for key in keys))
        assert all(len(set(map(type, each))) == 1 for each in answers)
        return [results_of(each) != ["overloaded"] * 2 for each in answers]

    # There is room for 12 pairs, and for three of one key.
    assert asyncio.run(accepted("shop", "shop", "app", "shop")) == [True, False, True, False]
    assert asyncio.run(accepted(*"abcdefg")) == [*[True] * 6, False]
    assert live.num_pending == 0


def test_client_input_is_prepared_in_one_thread_and_texts_are_checked_in_others(
    trying, monkeypatch
):
    """Neither the event loop nor the engine waits, even if texts are streamed or refused."""
    threads = defaultdict[str, list[str]](list)

    def note(name: str, do: Any, *args: Any) -> Any:
        threads[name].append(threading.current_thread().name)
        return do(*args)

    explainer = trying.explainer
    prepared = {
        "build": explainer.pairs.builder,
        "failure_of_any": explainer.finisher,
        "find": explainer.dataset.item_ids,
    }
    checked = dict.fromkeys(
        ("finish", "fallback", "unfinished", "whole_sentences"), explainer.finisher
    )
    for name, thing in (prepared | checked).items():
        monkeypatch.setattr(thing, name, partial(note, name, getattr(thing, name)))

    async def ask() -> None:
        pair = asked(USERS[0], ITEMS[0])
        await trying.explain([pair, asked("newcomer", ITEMS[0], tuple(ITEMS[1:4]))])
        for parts in ("checked", "unchecked"):
            assert [event async for event in trying.stream(pair, parts)]

    asyncio.run(ask())
    assert threads.keys() == prepared.keys() | checked.keys()
    # Tokenizers are not thread-safe.
    assert {name for each in prepared for name in threads[each]} == {"xrec-prepare_0"}
    assert len(threads["finish"]) > 3 * MOST_TEXTS
    assert all(name.startswith("asyncio_") for each in checked for name in threads[each])


def test_bug_in_a_rule_fails_only_its_pair(trying, monkeypatch):
    live = trying
    finish = live.explainer.finisher.finish

    def faulty(completion: Completion, prompt: Any, texts: PairTexts, decoding: Any) -> Any:
        if texts.item_title == "Station":
            raise ZeroDivisionError
        return finish(completion, prompt, texts, decoding)

    monkeypatch.setattr(live.explainer.finisher, "finish", faulty)
    good, bad = asked(USERS[0], ITEMS[0]), {"item_title": "Station"}
    pairs = [good, asked(USERS[0], ITEMS[0], profiles=bad), good]
    assert results_of(explained(live, pairs)) == ["no_full_sentence", "bug", "no_full_sentence"]
    assert (live.num_pending, live.engine.failure) == (0, None)


def test_failed_engine_fails_waiting_and_later_requests(town, live, monkeypatch):
    def broken() -> list[Any]:
        raise RuntimeError("no memory")

    live = load_live(serve_config(town), NotedMetrics(), like=live)
    monkeypatch.setattr(live.engine.core, "step", broken)
    for num_users in (3, 1):
        with raises(ModelError, "engine_failed"):
            explained(live, [asked(user, ITEMS[0]) for user in USERS[:num_users]])
    assert isinstance(live.engine.failure, RuntimeError)


@pytest.mark.parametrize(("cause", "status"), [(ValueError(), 500), (ModelError("starts"), 503)])
def test_bug_in_a_replica_is_not_reported_as_a_restart(cause, status):
    handle = MagicMock()
    handle.explain.remote = AsyncMock(side_effect=RayTaskError("explain", "traceback", cause))
    with pytest.raises(ProblemError) as refused:
        asyncio.run(ModelHandle(handle, "models", {}).explain([]))
    assert refused.value.status_code == status


PAIR = {"user_id": USERS[0], "item_id": ITEMS[0], "fresh": True}
CALM, QUIET = "You would love [title].", "It is calm at night."
GARDEN = "It has old trees and a small garden."
RUDE = "The rubbish is old."  # "rubbish" is on the list of unsafe words
SECOND_TRY = {"retry_temperature": 0.4}
LONG = "You would love [title] for its quiet garden, its tea and its old trees in the sun."


@dataclass
class Stage:
    """An endpoint whose model writes what a test says."""

    endpoint: Endpoint
    titles: list[str]
    unsafe_words: Path

    def post(
        self, route: str, *texts: str, ends: bool = True, rules: Any = None, **body: Any
    ) -> requests.Response:
        """Return the response for the pair; the model writes one of `texts` per try."""
        model, checks = self.endpoint.model, {"unsafe_words": str(self.unsafe_words)}
        text = {"checks": checks, "retry_temperature": None, **(rules or {})}
        decoding, metrics = DecodingConfig.model_validate({"text": text}), self.endpoint.metrics
        live = model.live = LiveExplainer(model.live.explainer, decoding, metrics, keys=())
        filled = [text.replace("{other}", self.titles[1]) for text in texts]
        live.engine = ScriptedEngine(live, *filled, ends=ends)
        return self.endpoint.post(
            f"/v1/explanations{route}", {"pairs": [PAIR], **body}, stream=not ends
        )

    def events(self, *texts: str, **values: Any) -> list[tuple[str, Any]]:
        """Return the events of a stream except the last one, "done", without the index 0."""
        *events, last = sse(self.post("/stream", *texts, **values))
        assert last == ("done", {})
        assert {data.pop("index") for _, data in events} == {0}
        return events

    def filled(self, text: str) -> str:
        return text.replace("[title]", self.titles[0])


@pytest.fixture
def stage(endpoint, live, town, tmp_path, monkeypatch):
    words = tmp_path / "unsafe.txt"
    words.write_text("rubbish\n")
    monkeypatch.setattr(endpoint.model, "live", live)  # the posts of a stage replace it
    return Stage(endpoint, dataset_of(town).items["title"].to_pylist(), words)


def parts_of(events: list[tuple[str, Any]]) -> list[str]:
    """Return the parts, with "<" where the earlier ones are withdrawn."""
    return ["<" if name == "withdrawn" else data["text"] for name, data in events[:-1]]


def left_of(events: list[tuple[str, Any]]) -> str:
    """Return the text that a client has at the end."""
    return "|".join(parts_of(events)).rpartition("<")[2].replace("|", "")


def test_unchecked_stream_sends_each_part_as_a_draft(stage):
    *drafts, withdrawn, (_, last) = stage.events(f"{QUIET} {RUDE}", parts="unchecked")
    assert len(drafts) > 10
    assert {data["is_checked"] for _, data in drafts} == {False}
    assert "rubbish" in "".join(data["text"] for _, data in drafts)
    assert withdrawn == ("withdrawn", {})
    assert last["answer"]["problem"]["type"] == "/problems/unsafe"


@pytest.mark.parametrize(
    ("tries", "rules", "parts", "end"),
    [
        ([RUDE], {"fallback": "none"}, [], "unsafe"),
        ([f"{RUDE} {QUIET} {CALM}"], {}, [], "unsafe"),
        (["You would love {other}."], {"fallback": "abstain"}, [], "abstained"),
        ([RUDE, QUIET], SECOND_TRY, [QUIET], ""),
        ([f"{QUIET} {RUDE}"], {}, [QUIET, "<"], "unsafe"),
        ([f"{QUIET} {RUDE} {CALM}", CALM], SECOND_TRY, [QUIET, "<", CALM], ""),
        (
            [f"{LONG} {RUDE}", f"{CALM} {QUIET} So"],
            SECOND_TRY,
            [LONG, "<", CALM, f" {QUIET}", " So"],
            "",
        ),
        ([f"{QUIET} {RUDE}", f"{QUIET} {CALM}"], SECOND_TRY, [QUIET, f" {CALM}"], ""),
        ([f"{QUIET} {CALM} {RUDE}"], {"max_words": 11}, [QUIET, f" {CALM}"], ""),
    ],
)
def test_refused_sentence_is_not_sent_and_earlier_ones_are_withdrawn(
    stage, tries, rules, parts, end
):
    response = stage.post("/stream", *tries, rules=rules)
    assert "rubbish" not in response.text.partition('"problem"')[0]
    assert stage.titles[1] not in response.text.partition('"problem"')[0]
    *events, _ = sse(response)
    assert parts_of(events) == [stage.filled(part) for part in parts]
    problem = events[-1][1]["answer"].get("problem", {"type": ""})
    assert problem["type"].rpartition("/")[2] == end


@pytest.mark.parametrize("parts", ["checked", "unchecked"])
@pytest.mark.parametrize(
    ("tries", "rules"),
    [
        ([LONG], {}),
        ([f"{QUIET} {CALM} {GARDEN} So"], {}),
        ([f"{QUIET} {CALM} {GARDEN}"], {"max_words": 11}),
        ([f"{QUIET} {RUDE}"], {}),
        ([f"{QUIET} {RUDE}", f"{QUIET} {CALM}"], SECOND_TRY),
        (["So calm. " * 5], {"refuses_repetition": True}),
        (["{other} is calm.", "It is calm"], SECOND_TRY),
    ],
)
def test_stream_ends_with_the_text_of_the_other_route(stage, tries, rules, parts):
    whole = stage.post("", *tries, rules=rules).json()["explanations"][0]
    events = stage.events(*tries, rules=rules, parts=parts)
    assert events[-1] == ("explanation", {"answer": whole})
    assert left_of(events) == whole.get("explanation", "")


@pytest.mark.parametrize("begun", [f"{QUIET} So it is go", f"{QUIET} {CALM} {RUDE} An"])
def test_client_that_disconnects_in_mid_sentence_stops_the_model(stage, begun):
    model, values = stage.endpoint.model, stage.endpoint.metrics.values
    before, num_asked = values.get(("abandoned",), 0), len(model.asked)
    with stage.post("/stream", begun, ends=False, pairs=[PAIR, PAIR]) as response:
        lines = response.iter_lines(decode_unicode=True)
        assert next(lines) == "event: part"
        assert QUIET in next(lines)
        assert model.live.num_pending == 1
    wait_until(lambda: not model.live.num_pending)
    assert values["abandoned",] == before + 1
    assert len(model.asked) == num_asked + 1  # the second pair does not reach the model
