"""Live texts of a language model behind an endpoint, and what they may cost per day."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.errors import raises
from tests.world.endpoint import Answer, Asked, stub_endpoint
from tests.xrec.serve.local_endpoint import (
    ITEMS,
    USERS,
    backfill_config,
    local_endpoint,
    make_backfill,
    serve_config,
    sse,
)
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.jobs.serve import checked
from xrec.serve.money import DailyMoney, seconds_until_tomorrow
from xrec.storage import open_location

LIVE = {"user_id": USERS[1], "item_id": ITEMS[1]}
STORED = {"user_id": USERS[0], "item_id": ITEMS[0]}
PRICES = {"million_prompt_tokens": 1e6, "million_reply_tokens": 1e6}  # 1 for each token


@pytest.fixture
def words():
    """An endpoint that recommends the item, for 40 tokens."""

    def behave(asked: Asked) -> Answer:
        return Answer(text="You would like [title].", num_tokens=(30, 10))

    with stub_endpoint(behave) as stub:
        yield stub


@pytest.fixture
def values(town, tmp_path, words):
    """The values of a project that has only a dataset, an endpoint, and a published text."""
    engine = {"kind": "endpoint", "base_url": words.url, "model": "m", "api_key_variable": None}
    made: dict[str, Any] = {"dataset": str(town / "dataset"), "llm": None, "engine": engine}
    config = backfill_config(tmp_path, str(tmp_path / "explanations"), **made)
    make_backfill(config, [tuple(STORED.values())])
    words.asked.clear()
    return {**made, "neighbors": None}


def _answers(endpoint: Any, *pairs: dict[str, Any]) -> list[Any]:
    response = endpoint.post("/v1/explanations", {"pairs": pairs})
    assert response.status_code == 200, response.text
    return [
        each.get("source") or each["problem"]["type"] for each in response.json()["explanations"]
    ]


def test_endpoint_writes_what_is_not_stored_for_known_and_new_users(values, tmp_path, words):
    new = {"user_id": "newcomer", "item_id": ITEMS[2], "history": ITEMS[:2]}
    profile = {**LIVE, "profiles": {"user_profile": "Collects old clocks."}}
    with local_endpoint(tmp_path, **values) as endpoint:
        assert _answers(endpoint, STORED, LIVE, new, profile) == ["backfill", *["live"] * 3]
        text = endpoint.get(f"/v1/explanations/{USERS[1]}/{ITEMS[1]}").json()
    assert text["is_cached"]
    assert text["explanation"].startswith("You would like ")
    assert len(words.asked) == 3
    assert sum("Collects old clocks." in each.words for each in words.asked) == 1


def test_endpoint_without_a_model_says_what_is_not_published(town, tmp_path, caplog):
    made = {"dataset": str(town / "dataset"), "llm": None, "neighbors": None}
    with local_endpoint(tmp_path, **made) as endpoint:
        missing = "/problems/not_published"
        assert _answers(endpoint, LIVE, {**LIVE, "fresh": True}) == [missing] * 2
        assert endpoint.get("/readyz").status_code == 200
        response = endpoint.get(f"/v1/explanations/{USERS[1]}/{ITEMS[1]}")
        assert (response.status_code, response.json()["type"]) == (404, missing)
        stream = sse(endpoint.post("/v1/explanations/stream", {"pairs": [LIVE]}))
        assert [name for name, _ in stream] == ["explanation", "done"]
    assert "until it is published, pairs get the problem not_published" in caplog.text


def test_money_of_a_day_ends_live_texts_and_leaves_stored_ones(values, tmp_path, words):
    own = {"prices": PRICES, "max_money_per_day": 250.0}
    others = [{**LIVE, "item_id": item} for item in ITEMS[2:]]
    with local_endpoint(tmp_path, **values, **own) as endpoint:
        assert _answers(endpoint, LIVE) == ["live"]
        for other in others:
            (last,) = _answers(endpoint, other)
        assert last == "/problems/over_budget"
        assert _answers(endpoint, STORED, others[-1]) == ["backfill", last]
        response = endpoint.get(f"/v1/explanations/{LIVE['user_id']}/{others[-1]['item_id']}")
        assert (response.status_code, response.json()["type"]) == (429, last)
        assert 0 < int(response.headers["Retry-After"]) <= 86400
    num_asked = len(words.asked)
    assert 40 * num_asked <= 250
    with local_endpoint(tmp_path, **values, **own) as endpoint:  # a restart gets no new money
        assert _answers(endpoint, others[-1]) == [last]
    assert len(words.asked) == num_asked


def test_money_is_shared_by_processes_and_new_each_day(tmp_path):
    day = datetime(2026, 12, 1, 23, 59, 59, tzinfo=UTC)
    folder, now = open_location(str(tmp_path / "money")), [day]
    first, second = (DailyMoney(folder, 10, PRICES, lambda: now[0]) for _ in range(2))
    assert first.cost(3, 4) == 7
    today = "2026-12-01"
    late = first.reserve(4)
    assert [late, second.reserve(4), second.reserve(4)] == [(today, 4), (today, 4), None]
    second.settle((today, 4), 1)
    assert [second.reserve(3), second.reserve(3), first.reserve(3)] == [(today, 3), None, None]
    assert DailyMoney(folder, 10, PRICES, lambda: now[0]).reserve(3) is None
    assert seconds_until_tomorrow(day) == 2
    now[0] = datetime(2026, 12, 2, tzinfo=UTC)
    assert [first.reserve(9), second.reserve(2)] == [("2026-12-02", 9), None]
    first.settle(late, 0)  # does not add to the money of the new day
    assert first.reserve(2) is None


def test_texts_of_another_model_and_a_missing_key_are_refused_before_the_start(
    values, tmp_path, town
):
    checked(serve_config(tmp_path, **values))
    other = {**values, "engine": {**values["engine"], "model": "other"}}
    with raises(ArtifactMismatchError, "another_run"):
        checked(serve_config(tmp_path, **other))
    keyed = {**values, "engine": {**values["engine"], "api_key_variable": "XREC_NO_SUCH_KEY"}}
    with raises(ConfigError, "key_missing", key="XREC_NO_SUCH_KEY"):
        checked(serve_config(tmp_path, **keyed))
