"""Texts from words alone, by a model without an adapter or by an endpoint."""

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.errors import raises
from tests.world.endpoint import Answer, Asked, stub_endpoint
from tests.xrec.backfill.runs import DECODING, pairs_of, published_rows
from xrec.backfill.driver import run_backfill
from xrec.backfill.plan import open_backfill
from xrec.backfill.task import load_task_explainer
from xrec.config import EngineConfig
from xrec.errors import ModelError
from xrec.text.writers import load_explainer, load_finisher

PAIRS = [f"u{user} i{item}" for user in range(4) for item in range(3)]
ASKED = re.compile(r"Guest number (\d+)\.\nItem:  Place (\d+)\.")
PROMPT = {
    "instruction": "Explain.",
    "user": "User: {user} {user_profile}",
    "item": "Item: {item} {item_title}. {item_profile}",
}

pytestmark = pytest.mark.usefixtures("actors_here")


def _pair(asked: Asked) -> str:
    match = ASKED.search(asked.words)
    assert match is not None, asked.words
    return f"u{match[1]} i{match[2]}"


def _liked(asked: Asked) -> Answer:
    text = f"Guest of [title], enjoy {_pair(asked)}."
    return Answer(text=text, num_tokens=(31, 9), delay_seconds=0.02)


@pytest.fixture
def endpoint(runs, monkeypatch):
    """Return a function that makes the values of a run that uses the endpoint at a URL."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    monkeypatch.setattr("xrec.text.endpoint.MAX_RETRIES", 2)

    def values(url: str, **engine: Any) -> dict[str, Any]:
        named = {"kind": "endpoint", "base_url": url, "model": "stub", **engine}
        own = {"workspace": str(runs.folder / "own"), "dataset": str(runs.workspace / "dataset")}
        return {**own, "engine": named, "prompt": PROMPT, "llm": None, "decoding": DECODING}

    return values


def test_endpoint_writes_each_pair_once_and_needs_no_model_graph_or_adapter(
    runs, endpoint, tmp_path
):
    def behave(asked: Asked) -> Answer:
        answer = _liked(asked)
        return replace(answer, text=f"<think>\nA guest, a garden.\n</think>\n\n{answer.text}")

    with stub_endpoint(behave) as stub:
        values = endpoint(stub.url, concurrency=3)
        gone = {name: str(tmp_path / "nothing") for name in ("graph", "adapter")}
        config = runs.config(*PAIRS, **values).with_artifacts(gone)
        manifest = runs.run(*PAIRS, toy=load_task_explainer, **values, **gone)
    rows = published_rows(runs.output)
    assert pairs_of(rows) == PAIRS
    assert sorted(map(_pair, stub.asked)) == PAIRS
    assert 1 < stub.most_at_once <= 3
    for row in rows:
        pair = f"{row['user_id']} {row['item_id']}"
        assert row["explanation"] == f"Guest of Place {pair[-1]}, enjoy {pair}."
        assert (row["num_prompt_tokens"], row["num_generated_tokens"]) == (31, 9)
    costs = manifest.metrics["costs"]
    assert (costs["num_prompt_tokens"], costs["num_generated_tokens"]) == (31 * 12, 9 * 12)
    body = stub.asked[0].body
    assert body["messages"][0]["content"].startswith("Explain.\nUser:  Guest number")
    assert (body["temperature"], body["max_completion_tokens"]) == (0, 4)
    assert all(each.headers["authorization"] == "Bearer sk-not-to-be-seen" for each in stub.asked)
    assert "sk-not" not in open_backfill(config).record.identity.config.__repr__()


def test_prompt_and_model_identify_a_run_but_graph_and_base_url_do_not(runs, endpoint):
    def run_of(**changed: Any) -> str:
        values = {**endpoint("http://127.0.0.1:1/v1"), **changed}
        return open_backfill(runs.config(*PAIRS, **values)).record.identity.run

    first = run_of()
    assert run_of() == first
    assert run_of(engine={"kind": "endpoint", "base_url": "http://b/v1", "model": "stub"}) == first
    assert run_of(graph="s3://none/graph") == first
    assert run_of(engine={"kind": "endpoint", "model": "other"}) != first
    assert run_of(prompt={**PROMPT, "instruction": "Say why."}) != first


def test_failed_request_becomes_a_typed_row_that_can_be_retried(runs, endpoint):
    def behave(asked: Asked) -> Answer:
        bad = {"u0 i0": Answer(status=400), "u1 i1": Answer(status=500), "u2 i2": Answer(text="")}
        return bad.get(_pair(asked), _liked(asked))

    with stub_endpoint(behave) as stub:
        values = endpoint(stub.url)
        runs.run(*PAIRS, toy=load_task_explainer, **values)
        failed = {f"{r['user_id']} {r['item_id']}": r for r in published_rows(runs.output, True)}
        reasons = {pair: row["reason"] for pair, row in failed.items()}
        assert reasons == {
            "u0 i0": "bad_request",
            "u1 i1": "endpoint_error",
            "u2 i2": "empty_text",
        }
        stub.behave, num_before = _liked, len(stub.asked)
        runs.run(*PAIRS, toy=load_task_explainer, retry_failed="all", **values)
    assert sorted(map(_pair, stub.asked[num_before:])) == sorted(failed)
    assert pairs_of(published_rows(runs.output)) == PAIRS


def test_refused_text_is_sampled_again_with_another_seed_and_temperature(runs, endpoint):
    def behave(asked: Asked) -> Answer:
        return _liked(asked) if asked.num_before else Answer(text="Visit www.example.com today.")

    text = {**DECODING["text"], "retry_temperature": 0.7}
    decoding = {"max_new_tokens": 40, "text": text}
    with stub_endpoint(behave) as stub:
        values = {**endpoint(stub.url), "decoding": decoding}
        manifest = runs.run("u0 i0", toy=load_task_explainer, **values)
    assert [each.body["temperature"] for each in stub.asked] == [0, 0.7]
    assert [each.body["seed"] for each in stub.asked] == [0, 1]
    (row,) = published_rows(runs.output)
    assert (row["explanation"], row["refused"]) == ("Guest of Place 0, enjoy u0 i0.", "solicits")
    assert manifest.metrics["costs"]["num_prompt_tokens"] > 31  # the refused text is billed too


def test_model_without_an_adapter_writes_from_words(runs):
    config = runs.config(*PAIRS[:3], prompt=PROMPT).model_copy(update={"adapter": None})
    run_backfill(config, open_backfill(config))
    assert pairs_of(published_rows(runs.output)) == PAIRS[:3]
    dataset, pairs, _finisher = load_finisher(config)
    assert pairs.builder.vocabulary.num_ids == pairs.builder.vocabulary.num_text_tokens
    assert dataset.num_users == 12
    vllm = config.model_copy(update={"engine": EngineConfig(kind="vllm")})
    with raises(ModelError, "needs_adapter", key="engine.kind", saw="vllm"):
        load_explainer(vllm, "cpu")
