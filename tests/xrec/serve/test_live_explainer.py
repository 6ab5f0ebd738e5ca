"""Live texts: those of the engine for batches and of `xrec explain`; limits, threads and streams.

What a client has when a stream ends is what the other route answers, and by default no client ever
has a part of a sentence, or a sentence, that is refused.
"""

import asyncio
import threading
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
    ITEMS,
    USERS,
    Endpoint,
    NotedMetrics,
    ScriptedEngine,
    backfill_config,
    dataset_of,
    local_endpoint,
    serve_config,
    sse,
)
from xrec.adapter.pairs import Pair
from xrec.backfill.lookup import Explained
from xrec.config import DecodingConfig, EngineConfig, ServeConfig
from xrec.errors import ModelError
from xrec.generate.engine import Completion
from xrec.generate.explainer import MOST_TEXTS
from xrec.generate.loading import load_explainer, sources_of
from xrec.graph.fold_in import FoldIn
from xrec.llm.prompt import PairTexts
from xrec.serve.live_explainer import LiveExplainer
from xrec.serve.live_explainer import load_live as load
from xrec.serve.messages import PairRequest
from xrec.serve.model import ModelHandle, PairError
from xrec.serve.problems import ProblemError

Answers = list[Explained | PairError]


@pytest.fixture(scope="module")
def live(town):
    """An explainer that tests do not change."""
    return load_live(serve_config(town))


ENGINE = EngineConfig(max_rows=4, kv_cache_gib=0.05)


@pytest.fixture(scope="module")
def closed(town):
    return load_explainer(sources_of(backfill_config(town, "unused")), device="cpu", engine=ENGINE)


def asked(user: str, item: str, history: tuple[str, ...] = (), **values: Any) -> PairRequest:
    return PairRequest(user_id=user, item_id=item, history=list(history), **values)


def explained(live: LiveExplainer, pairs: Sequence[PairRequest]) -> Answers:
    return asyncio.run(live.explain(pairs))


def results_of(answers: Answers) -> list[str]:
    """Return the text of each pair, or the reason why it has none."""
    return [each.text if isinstance(each, Explained) else each.reason for each in answers]


def load_live(config: ServeConfig, **options: int) -> LiveExplainer:
    return load(config, NotedMetrics(), **options)


def trying_twice(town: Path) -> LiveExplainer:
    """Return an explainer whose texts are all refused and retried."""
    decoding = {"max_new_tokens": 24, "text": {"retry_temperature": 1.0}}
    return load_live(serve_config(town, decoding=decoding))


def test_pairs_get_the_closed_engines_texts_in_order(town, closed):
    live = load_live(serve_config(town))
    answers = explained(live, [asked(user, item) for user in USERS for item in ITEMS[:4]])
    indices = [Pair(user, item) for user in range(len(USERS)) for item in range(4)]
    prompts = [closed.pairs.prompt(pair) for pair in indices]
    said = [closed.pairs.texts(pair) for pair in indices]
    written = closed.explain(prompts, said, serve_config(town).decoding)
    for answer, each in zip(answers, sorted(written, key=lambda each: each.index), strict=True):
        if isinstance(answer, Explained):
            assert (answer.text, each.failure) == (each.text, None)
            assert answer.num_generated_tokens == each.num_generated_tokens
            assert answer.model_fingerprint == closed.model_fingerprint
        else:
            assert answer.reason == each.failure.reason
    assert len(set(results_of(answers))) > len(USERS)
    values = live._metrics.values
    assert (live.num_pending, ("abandoned",) in values) == (0, False)
    assert 0 < values[("first_token_seconds",)] <= values[("generation_seconds",)]
    numbers = [each.num_generated_tokens for each in answers if isinstance(each, Explained)]
    assert values["tokens", "generated"] == sum(numbers)


def test_new_user_with_a_history_gets_the_text_of_its_vector(live, town):
    histories = [tuple(ITEMS[:3]), (ITEMS[5], ITEMS[7])]
    answers = explained(live, [asked("newcomer", ITEMS[4], each) for each in histories * 4])
    sources = sources_of(backfill_config(town, "unused"))
    explainer = load_explainer(sources, device="cpu", engine=ENGINE, num_reserved_users=1)
    dataset, graph, new = explainer.dataset, explainer.graph, len(USERS)
    edges = torch.from_numpy(dataset.interaction_edges("train"))
    fold_in = FoldIn.of(graph.users[:new], graph.items, edges)
    texts = replace(explainer.pairs.texts(Pair(0, 4)), user_profile="")
    prompt = explainer.pairs.builder.build(new, 4, texts)
    expected = []
    for history in histories:
        rows = [dataset.item_index(item) for item in history]
        graph.users[new] = fold_in.vector(torch.tensor(rows))
        (one,) = explainer.explain([prompt], [texts], serve_config(town).decoding)
        expected.append((one.text, one.num_prompt_tokens))
    assert expected[0] != expected[1]
    found = [(each.text, each.num_prompt_tokens) for each in answers]
    assert found == expected * 4


def test_texts_of_the_request_stand_in_the_prompt_in_place_of_the_datasets(live, closed, town):
    own_texts = {"user_profile": "Likes trains.", "item_title": "Station"}
    answers = explained(live, [asked(USERS[0], ITEMS[0], profiles=own_texts)])
    item_profile = closed.pairs.texts(Pair(0, 0)).item_profile
    texts = PairTexts(item_profile=item_profile, **own_texts)
    prompt = closed.pairs.builder.build(0, 0, texts)
    (expected,) = closed.explain([prompt], [texts], serve_config(town).decoding)
    assert results_of(answers) == [expected.text]


def test_requests_that_come_at_once_are_counted_at_once_and_refused_as_a_whole(town):
    """The pairs of an accepted request count before their work starts."""
    keys = [{"name": name, "sha256": 64 * digit} for name, digit in (("shop", "0"), ("app", "1"))]
    engine = {"max_rows": 1, "kv_cache_gib": 0.05}
    config = serve_config(town, engine=engine, keys=keys)
    live = load_live(config, max_waiting_pairs=11)
    pairs = [asked(USERS[0], ITEMS[0]), asked(USERS[1], ITEMS[1])]

    async def accepted(*keys: str) -> list[bool]:
        answers = await asyncio.gather(*(live.explain(pairs, key) for key in keys))
        assert all(len(set(map(type, each))) == 1 for each in answers)
        return [results_of(each) != ["overloaded"] * 2 for each in answers]

    # There is room for 12 pairs, and for three of one key.
    assert asyncio.run(accepted("shop", "shop", "app", "shop")) == [True, False, True, False]
    assert asyncio.run(accepted(*"abcdefg")) == [*[True] * 6, False]
    assert live.num_pending == 0


def test_texts_are_read_and_checked_beside_the_event_loop_and_the_engine(town, monkeypatch):
    """This includes texts that are streamed or refused."""
    live, threads = trying_twice(town), list[tuple[str, threading.Thread]]()

    def note(name: str, do: Any, *args: Any) -> Any:
        threads.append((name, threading.current_thread()))
        return do(*args)

    wanted = {"failure_of_any", "finish", "fallback", "unfinished", "whole_sentences"}
    for name in wanted:
        do = getattr(live.explainer.finisher, name)
        monkeypatch.setattr(live.explainer.finisher, name, partial(note, name, do))

    async def ask() -> None:
        pair = asked(USERS[0], ITEMS[0])
        await live.explain([pair])
        for parts in ("checked", "unchecked"):
            assert [event async for event in live.stream(pair, parts)]

    asyncio.run(ask())
    names = [name for name, _ in threads]
    assert set(names) == wanted
    assert names.count("finish") == 3 * MOST_TEXTS
    assert threading.main_thread() not in {thread for _, thread in threads}
    assert "xrec-model" not in {thread.name for _, thread in threads}


def test_fault_of_a_rule_costs_its_pair_only(town, monkeypatch):
    live = trying_twice(town)
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


def test_failed_engine_is_told_to_all_who_wait_and_to_all_who_come(town, monkeypatch):
    def broken() -> list[Any]:
        raise RuntimeError("no memory")

    live = load_live(serve_config(town))
    monkeypatch.setattr(live.engine.core, "step", broken)
    for num_users in (3, 1):
        with raises(ModelError, "engine_failed"):
            explained(live, [asked(user, ITEMS[0]) for user in USERS[:num_users]])
    assert isinstance(live.engine.failure, RuntimeError)


def test_what_clients_send_is_looked_up_split_and_tokenized_off_the_event_loop(live, monkeypatch):
    threads, explainer = set[int](), live.explainer

    def note(call: Any, *of: Any) -> Any:
        threads.add(threading.get_ident())
        return call(*of)

    for thing, name in (
        (explainer.pairs.builder, "build"),
        (explainer.finisher, "failure_of_any"),
        (explainer.dataset.item_ids, "find"),
    ):
        monkeypatch.setattr(thing, name, partial(note, getattr(thing, name)))
    explained(live, [asked("newcomer", ITEMS[0], tuple(ITEMS[1:4])) for _ in range(3)])
    assert len(threads) == 1  # one at a time, as tokenizers are not made for several threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(("cause", "status"), [(ValueError(), 500), (ModelError("starts"), 503)])
def test_bug_in_a_replica_does_not_read_as_a_restart(cause, status):
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
        live, checks = self.endpoint.model.live, {"unsafe_words": str(self.unsafe_words)}
        text = {"checks": checks, "retry_temperature": None, **(rules or {})}
        live._decoding = DecodingConfig.model_validate({"text": text})
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


@pytest.fixture(scope="module")
def stage(town, tmp_path_factory):
    words = tmp_path_factory.mktemp("words") / "unsafe.txt"
    words.write_text("rubbish\n")
    with local_endpoint(town) as endpoint:
        engine = endpoint.model.live.engine
        yield Stage(endpoint, dataset_of(town).items["title"].to_pylist(), words)
        endpoint.model.live.engine = engine


def parts_of(events: list[tuple[str, Any]]) -> list[str]:
    """Return the parts, with "<" where the earlier ones are withdrawn."""
    return ["<" if name == "withdrawn" else data["text"] for name, data in events[:-1]]


def left_of(events: list[tuple[str, Any]]) -> str:
    """Return the text that a client has at the end."""
    return "|".join(parts_of(events)).rpartition("<")[2].replace("|", "")


def test_unchecked_stream_sends_all_as_it_is_written_and_says_so(stage):
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
def test_refused_sentence_never_reaches_the_client_and_those_before_it_are_withdrawn(
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
    ("tries", "rules", "max_words"),
    [
        ([LONG], {}, None),
        ([LONG], {}, 9),
        ([f"{QUIET} {CALM} {GARDEN} So"], {}, 4),
        ([f"{QUIET} {CALM} {QUIET}"], {}, 12),
        ([f"{QUIET} {CALM} {GARDEN}"], {"max_words": 11}, None),
        ([f"{QUIET} {CALM} {GARDEN}"], {"max_words": 11}, 5),
        ([f"{QUIET} {RUDE}"], {}, None),
        ([f"{QUIET} {RUDE}", f"{QUIET} {CALM}"], SECOND_TRY, None),
        (["So calm. " * 5], {"refuses_repetition": True}, None),
        (["{other} is calm.", "It is calm"], SECOND_TRY, None),
    ],
)
def test_client_has_in_the_end_what_the_other_route_answers(stage, tries, rules, max_words, parts):
    whole = stage.post("", *tries, rules=rules, max_words=max_words).json()["explanations"][0]
    events = stage.events(*tries, rules=rules, max_words=max_words, parts=parts)
    assert events[-1] == ("explanation", {"answer": whole})
    assert left_of(events) == whole.get("explanation", "")


@pytest.mark.parametrize("begun", [f"{QUIET} So it is go", f"{QUIET} {CALM} {RUDE} An"])
def test_client_that_goes_away_in_mid_sentence_stops_the_model(stage, begun):
    live = stage.endpoint.model.live
    values = stage.endpoint.metrics.values
    before = values.get(("abandoned",), 0)
    with stage.post("/stream", begun, ends=False) as response:
        lines = response.iter_lines(decode_unicode=True)
        assert next(lines) == "event: part"
        assert QUIET in next(lines)
        assert live.num_pending == 1
    wait_until(lambda: not live.num_pending)
    assert values["abandoned",] == before + 1
