"""Live texts against those of the engine for batches and of `xrec explain`.

They are of known users, new users with a history, and pairs with own texts. Limits are tested too.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from ray.exceptions import RayTaskError

from tests.xrec.serve.local_endpoint import NotedMetrics
from tests.xrec.serve.town import ITEMS, USERS, backfill_config, serve_config
from xrec.adapter.pairs import Pair
from xrec.backfill.lookup import Explained
from xrec.config.llm import EngineConfig
from xrec.config.serve import ServeConfig
from xrec.data.evidence import AspectEvidence
from xrec.errors import ModelError
from xrec.generate.engine import Completion
from xrec.generate.loading import load_explainer, sources_of
from xrec.graph.fold_in import FoldIn
from xrec.llm.prompt import PairTexts
from xrec.serve import live_explainer
from xrec.serve.live_explainer import LiveExplainer
from xrec.serve.live_explainer import load_live as load
from xrec.serve.messages import PairRequest
from xrec.serve.model import ModelHandle, PairError
from xrec.serve.problems import ProblemError


def load_live(config: ServeConfig) -> LiveExplainer:
    return load(config, NotedMetrics())


Answers = list[Explained | PairError]
NARROW = {"engine": {"max_rows": 1, "kv_cache_gib": 0.25}}
TEA = (AspectEvidence("tea", 4, 9, 2, 3), AspectEvidence("late hour", 2, 9, 0, 3))


@pytest.fixture(scope="module")
def live(town):
    """An explainer that tests ask, and do not change."""
    return load_live(serve_config(town))


@pytest.fixture(scope="module")
def closed(town):
    engine = EngineConfig(max_rows=4, kv_cache_gib=0.05)
    return load_explainer(sources_of(backfill_config(town, "unused")), device="cpu", engine=engine)


def asked(user: str, item: str, history: tuple[str, ...] = (), **values: Any) -> PairRequest:
    return PairRequest(user_id=user, item_id=item, history=list(history), **values)


def explained(live: LiveExplainer, pairs: Sequence[PairRequest]) -> Answers:
    return asyncio.run(live.explain(pairs))


def texts_of(answers: Answers) -> list[str]:
    return [answer.text if isinstance(answer, Explained) else "" for answer in answers]


def reasons_of(answers: Answers) -> list[str]:
    return [answer.reason if isinstance(answer, PairError) else "" for answer in answers]


def choosing(live: LiveExplainer, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> LiveExplainer:
    """The explainer, with these changes of what its pairs say."""
    pairs = live._explainer.pairs
    found = pairs.texts_of
    monkeypatch.setattr(
        pairs, "texts_of", lambda some: [replace(one, **changes) for one in found(some)]
    )
    return live


def test_pairs_get_the_closed_engines_texts_in_order(live, closed, town):
    answers = explained(live, [asked(user, item) for user in USERS for item in ITEMS[:4]])
    indices = [Pair(user, item) for user in range(len(USERS)) for item in range(4)]
    prompts = [closed.pairs.prompt(pair) for pair in indices]
    said = [closed.pairs.texts(pair) for pair in indices]
    written = closed.explain(prompts, said, serve_config(town).decoding)
    expected = sorted(written, key=lambda explanation: explanation.index)
    assert texts_of(answers) == [each.text if each.failure is None else "" for each in expected]
    for answer, each in zip(answers, expected, strict=True):
        if isinstance(answer, Explained):
            assert answer.num_generated_tokens == each.num_generated_tokens
            assert answer.model_fingerprint == closed.model_fingerprint
    assert len(set(texts_of(answers))) > len(USERS)
    values = live._metrics.values
    assert (live.num_pending, ("abandoned",) in values) == (0, False)
    assert 0 < values[("first_token_seconds",)] <= values[("generation_seconds",)]
    written = [answer for answer in answers if isinstance(answer, Explained)]
    assert values["tokens", "generated"] == sum(each.num_generated_tokens for each in written)


def test_new_user_with_a_history_gets_the_text_of_its_vector(live, town):
    histories = [tuple(ITEMS[:3]), (ITEMS[5], ITEMS[7])] * 4
    answers = explained(live, [asked("newcomer", ITEMS[4], history) for history in histories])
    engine = EngineConfig(max_rows=4, kv_cache_gib=0.05)
    sources = sources_of(backfill_config(town, "unused"))
    explainer = load_explainer(sources, device="cpu", engine=engine, num_reserved_users=1)
    dataset, graph, new = explainer.dataset, explainer.graph, len(USERS)
    edges = torch.from_numpy(dataset.interaction_edges("train"))
    fold_in = FoldIn.of(graph.users[:new], graph.items, edges)
    texts = replace(explainer.pairs.texts(Pair(0, 4)), user_profile="")
    prompt = explainer.pairs.builder.build(new, 4, texts)
    for answer, history in zip(answers[:2], histories, strict=False):
        rows = [dataset.item_index(item) for item in history]
        graph.users[new] = fold_in.vector(torch.tensor(rows))
        (expected,) = explainer.explain([prompt], [texts], serve_config(town).decoding)
        assert isinstance(answer, Explained)
        assert (answer.text, answer.num_prompt_tokens) == (
            expected.text,
            expected.num_prompt_tokens,
        )
    assert texts_of(answers) == texts_of(answers[:2]) * 4
    assert answers[0] != answers[1]


def test_texts_of_the_request_stand_in_the_prompt_in_place_of_the_datasets(live, closed, town):
    own_texts = {"user_profile": "Likes trains.", "item_title": "Station"}
    answers = explained(live, [asked(USERS[0], ITEMS[0], profiles=own_texts)])
    item_profile = closed.pairs.texts(Pair(0, 0)).item_profile
    texts = PairTexts(item_profile=item_profile, **own_texts)
    prompt = closed.pairs.builder.build(0, 0, texts)
    (expected,) = closed.explain([prompt], [texts], serve_config(town).decoding)
    assert texts_of(answers) == [expected.text]


def test_no_text_is_asked_for_that_would_be_refused_whatever_it_says(town, monkeypatch):
    rules = {"checks": {"unsupported": True}, "fallback": "none"}
    decoding = {**serve_config(town).decoding.model_dump(), "text": rules}
    live = load_live(serve_config(town, decoding=decoding))
    choosing(live, monkeypatch, menu=frozenset())
    pair = asked(USERS[0], ITEMS[0], profiles={"item_profile": ""})
    monkeypatch.setattr(live.engine, "at_work", None)
    assert reasons_of(explained(live, [pair])) == ["unsupported"]


def test_requests_that_come_at_once_are_counted_at_once_and_refused_as_a_whole(town, monkeypatch):
    """Pairs of requests that were accepted count before their work begins."""
    monkeypatch.setattr(live_explainer, "MAX_WAITING_PAIRS", 3)
    live = load_live(serve_config(town, **NARROW))
    pairs = [asked(USERS[0], ITEMS[0]), asked(USERS[1], ITEMS[1])]

    async def ask() -> list[Answers]:
        return list(await asyncio.gather(*(live.explain(pairs) for _ in range(4))))

    accepted, refused = [""] * 2, ["overloaded"] * 2
    reasons = list(map(reasons_of, asyncio.run(ask())))
    assert reasons == [accepted, accepted, refused, refused]
    assert live.num_pending == 0


def test_fault_of_a_rule_costs_its_pair_only(town, monkeypatch):
    decoding = {**serve_config(town).decoding.model_dump(), "text": {"retry_temperature": 1.0}}
    live = load_live(serve_config(town, decoding=decoding))
    finish = live._explainer.finisher.finish

    def faulty(completion: Completion, prompt: Any, texts: PairTexts, decoding: Any) -> Any:
        if texts.item_title == "Station":
            raise ZeroDivisionError
        return finish(completion, prompt, texts, decoding)

    monkeypatch.setattr(live._explainer.finisher, "finish", faulty)
    good, bad = asked(USERS[0], ITEMS[0]), {"item_title": "Station"}
    pairs = [good, asked(USERS[0], ITEMS[0], profiles=bad), good]
    assert reasons_of(explained(live, pairs)) == ["no_full_sentence", "bug", "no_full_sentence"]
    assert (live.num_pending, live.engine.failure) == (0, None)


def test_failed_engine_is_told_to_all_who_wait_and_to_all_who_come(town, monkeypatch):
    def broken() -> list[Any]:
        raise RuntimeError("no memory")

    live = load_live(serve_config(town))
    monkeypatch.setattr(live.engine.core, "step", broken)
    for num_users in (3, 1):
        with pytest.raises(ModelError, match="the model failed: no memory"):
            explained(live, [asked(user, ITEMS[0]) for user in USERS[:num_users]])
    assert isinstance(live.engine.failure, RuntimeError)


def test_what_clients_send_is_looked_up_split_and_tokenized_off_the_event_loop(town, monkeypatch):
    live = load_live(serve_config(town))
    threads = set[int]()
    builder, finisher = live._explainer.pairs.builder, live._explainer.finisher
    dataset = live._explainer.dataset

    def note(call: Any, *of: Any) -> Any:
        threads.add(threading.get_ident())
        return call(*of)

    for thing, name in (
        (builder, "build"),
        (finisher, "failure_of_any"),
        (dataset.item_ids, "find"),
    ):
        monkeypatch.setattr(thing, name, partial(note, getattr(thing, name)))

    async def explain() -> int:
        await live.explain([asked("newcomer", ITEMS[0], tuple(ITEMS[1:4])) for _ in range(3)])
        return threading.get_ident()

    loop = asyncio.run(explain())
    assert len(threads) == 1  # one at a time, as tokenizers are not made for several threads
    assert loop not in threads


@pytest.mark.parametrize(
    ("cause", "status", "reason"),
    [(ValueError("a bug"), 500, "bug"), (ModelError("not loaded yet"), 503, "unavailable")],
)
def test_bug_in_a_replica_does_not_read_as_a_restart(cause, status, reason):
    class Failing:
        def options(self, **_: Any) -> "Failing":
            return self

        @property
        def explain(self) -> Any:
            return self

        async def remote(self, *_: Any) -> Any:
            raise RayTaskError("explain", "traceback", cause)

    model = ModelHandle(Failing(), "models")
    with pytest.raises(ProblemError) as refused:
        asyncio.run(model.explain([asked(USERS[0], ITEMS[0])]))
    assert (refused.value.status_code, refused.value.reason) == (status, reason)
