"""The application on a real Ray Serve.

Answers are the same as without Ray; replicas are killed and artifacts are swapped under load;
clients disconnect.
"""

import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest
import ray
import requests
from ray import serve

from tests.xrec.serve.local_endpoint import (
    ITEMS,
    USERS,
    Endpoint,
    NotedMetrics,
    Requests,
    backfill_config,
    held_port,
    make_backfill,
    rows_of,
    serve_config,
    sse,
)
from xrec.backfill import read_explanations
from xrec.config import ServeConfig
from xrec.jobs.serve import checked, deploy, drain
from xrec.serve.app import APP, Generator, serve_options
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.model import Event


@dataclass(frozen=True)
class Served(Requests):
    config: ServeConfig

    def model(self) -> "Model":
        handle = serve.get_deployment_handle("Generator", APP)
        found: Model = handle.model.remote().result(timeout_s=60)
        return found


class Model(NamedTuple):
    """What the model replica has at work, and has seen so far."""

    num_pending: int
    num_abandoned: int
    num_streams: int


class Watched(Generator):
    """The model replica, which a test can look at."""

    def __init__(self, config: ServeConfig):
        super().__init__(config)
        self._metrics = NotedMetrics()
        self._num_streams = 0

    async def stream(
        self, models: str, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Event, None]:
        self._num_streams += 1
        async with aclosing(super().stream(models, pair, parts, key)) as events:
            async for event in events:
                yield event

    async def model(self) -> Model:
        num_abandoned = int(self._metrics.values.get(("abandoned",), 0))
        (live,) = self._loaded.values()
        return Model(live.num_pending, num_abandoned, self._num_streams)


@pytest.fixture(scope="module")
def served(ray_cluster, town):
    with held_port() as port, pytest.MonkeyPatch.context() as patch:
        # A replica that is killed may take long to come back on a busy machine.
        http = {"port": port, "deadline_seconds": 120}
        explanations = str(town / "explanations")
        config = checked(serve_config(town, http=http, explanations=explanations))
        serve.start(**serve_options(config))
        patch.setattr("xrec.serve.app.Generator", Watched)
        deploy(config)
        yield Served(f"http://127.0.0.1:{port}", config)
        serve.shutdown()


def replicas(deployment: str) -> dict[str, Any]:
    """Return the actors of a deployment's replicas, by name."""
    return {
        entry["name"]: ray.get_actor(entry["name"], entry["namespace"])
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if f"#{deployment}#" in entry["name"]
    }


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)


def explained(answer: requests.Response) -> list[Any]:
    return list(answer.json()["explanations"])


@dataclass
class Load:
    """Threads that send requests until the `with` ends, and the answers."""

    ask: Callable[[int], requests.Response]
    num_threads: int = 4
    answers: list[requests.Response] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(self.num_threads)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        """Wait until `count` more answers with status 200 have come."""
        before = self._count()
        wait_until(lambda: self._count() >= before + count)

    def _count(self) -> int:
        return sum(answer.status_code == 200 for answer in list(self.answers))

    def _run(self, number: int) -> None:
        while not self._is_over.is_set():
            self.answers.append(self.ask(number))
            number += self.num_threads


def check_refusals(answers: list[requests.Response], *, is_of_frontend: bool) -> int:
    """Check that every answer is 200, or 503 with Retry-After and a problem; count the latter.

    Ray Serve itself answers 500 for a request whose frontend died.
    """
    others = [answer for answer in answers if answer.status_code != 200]
    for answer in others:
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["type"] == "/problems/unavailable"
        else:
            assert (answer.status_code, is_of_frontend) == (500, True), answer.text
    return len(others)


def test_answers_are_those_without_ray(served, endpoint):
    pairs = [{"user_id": user, "item_id": item} for user in USERS[4:8] for item in ITEMS[3:6]]
    pairs.append({"user_id": "newcomer", "item_id": ITEMS[0], "history": ITEMS[1:3]})
    pairs.append({"user_id": "nobody", "item_id": ITEMS[0]})
    here, there = (
        explained(one.post("/v1/explanations", {"pairs": pairs})) for one in (endpoint, served)
    )
    for answer in (*here, *there):
        answer.pop("is_cached", None)
    assert here == there
    assert {answer.get("source") for answer in there} == {"backfill", "live", None}
    body = {"user_id": USERS[1], "item_id": ITEMS[2]}
    one, other = (each.post("/v1/evidence", body).json() for each in (endpoint, served))
    assert one == other
    pair = {**pairs[7], "fresh": True}
    body = {"pairs": [pair], "parts": "unchecked"}
    events = sse(served.post("/v1/explanations/stream", body))
    (whole,) = explained(endpoint.post("/v1/explanations", {"pairs": [pairs[7]]}))
    assert events[-2][1]["answer"]["explanation"] == whole["explanation"]
    parts = [data for name, data in events if name == "part"]
    assert len(parts) > 2
    assert parts[0]["is_checked"] is False
    wait_until(lambda: served.get("/readyz").text == "ready\n")


def test_request_id_comes_back_once(served):
    answer = requests.get(f"{served.url}/v1/nothing", headers={"X-Request-ID": "abc-1"}, timeout=60)
    assert answer.raw.headers.getlist("x-request-id") == ["abc-1"]
    assert answer.json()["request_id"] == "abc-1"
    answer = served.get("/v1/nothing")
    assert answer.raw.headers.getlist("x-request-id") == [answer.json()["request_id"]]


FRESH = [{"user_id": user, "item_id": item, "fresh": True} for user in USERS for item in ITEMS][:64]


def test_client_that_goes_away_stops_its_generation(served):
    # A client may leave before its pairs have reached the model; then there is nothing to stop.
    for seconds in (0.05, 0.1, 0.2, 0.4, 0.8):
        with suppress(requests.exceptions.Timeout, requests.exceptions.ConnectionError):
            served.post("/v1/explanations", {"pairs": FRESH}, timeout=(10, seconds))
        with suppress(AssertionError):
            wait_until(lambda: served.model().num_abandoned, 10)
            break
    assert served.model().num_abandoned
    wait_until(lambda: not served.model().num_pending)


def test_client_that_leaves_a_stream_stops_the_pairs_behind(served):
    before = served.model().num_streams
    with served.post("/v1/explanations/stream", {"pairs": FRESH}, stream=True) as response:
        next(response.iter_lines())

    def rests() -> bool:
        num_streams = served.model().num_streams
        time.sleep(1)
        return served.model() == Model(0, ANY, num_streams)

    wait_until(rests)
    assert 0 < served.model().num_streams - before < len(FRESH)


def texts_of(endpoint: Endpoint, pairs: list[dict[str, Any]]) -> list[str | None]:
    """Return the answers without Ray; None where a text of the toy model is refused."""
    return [
        answer.get("explanation")
        for start in range(0, len(pairs), 60)
        for answer in explained(
            endpoint.post("/v1/explanations", {"pairs": pairs[start : start + 60]})
        )
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("deployment", "costs_hits"), [("Generator", False), ("Frontend", True)])
def test_replica_killed_under_load_costs_its_requests_only_and_comes_back(
    served, endpoint, town, deployment, costs_hits
):
    known = [{"user_id": user, "item_id": item} for user, item in rows_of(town / "explanations")]
    fresh = [{"user_id": user, "item_id": item, "fresh": True} for user in USERS for item in ITEMS]
    expected = {"hits": texts_of(endpoint, known), "live": texts_of(endpoint, fresh)}

    def asking(what: str, pairs: list[dict[str, Any]]) -> Callable[[int], requests.Response]:
        def ask(number: int) -> requests.Response:
            place = number % len(pairs)
            answer = served.post("/v1/explanations", {"pairs": [pairs[place]]})
            if answer.status_code == 200:
                assert explained(answer)[0].get("explanation") == expected[what][place]
            return answer

        return ask

    (killed,) = replicas(deployment)
    with Load(asking("live", fresh)) as live, Load(asking("hits", known), 1) as hits:
        live.wait_for(8)
        ray.kill(replicas(deployment)[killed])
        hits.wait_for(10)
        wait_until(lambda: replicas(deployment) and killed not in replicas(deployment))
        live.wait_for(8)
    assert check_refusals(live.answers, is_of_frontend=costs_hits) <= 2 * live.num_threads
    assert check_refusals(hits.answers, is_of_frontend=costs_hits) <= (2 if costs_hits else 0)
    wait_until(lambda: served.get("/readyz").status_code == 200)


@pytest.mark.slow
def test_new_backfill_and_new_adapter_swapped_under_load_give_no_5xx(served, town, tmp_path):
    old = served.get(f"/v1/explanations/{USERS[0]}/{ITEMS[0]}").json()["model_fingerprint"]
    made = {}
    for name in ("adapter", "adapter-2"):
        config = backfill_config(town, str(tmp_path / name), adapter=str(town / name))
        make_backfill(config, [(user, item) for user in USERS for item in ITEMS])
        made[name] = rows_of(tmp_path / name)
    (new,) = set(read_explanations(str(tmp_path / name))["model_fingerprint"].to_pylist())
    assert new != old
    # The toy model's texts are refused now and then; these pairs have one by either adapter.
    pairs = sorted(made["adapter"].keys() & made["adapter-2"].keys())

    def ask(number: int) -> requests.Response:
        user, item = pairs[number % len(pairs)]
        pair = {"user_id": user, "item_id": item, "fresh": number % 3 == 0}
        return served.post("/v1/explanations", {"pairs": [pair]})

    def models(answers: list[requests.Response]) -> set[str]:
        return {explained(answer)[0]["model_fingerprint"] for answer in answers}

    def all_replicas() -> set[str]:
        return {name for deployment in ("Frontend", "Generator") for name in replicas(deployment)}

    before = all_replicas()
    swapped = {"adapter": str(town / "adapter-2"), "explanations": str(tmp_path / "adapter-2")}
    with Load(ask) as load:
        load.wait_for(20)
        deploy(checked(served.config.model_copy(update=swapped)))
        wait_until(lambda: models(load.answers[-40:]) == {new})
        count = len(load.answers)
        load.wait_for(5)
    assert {answer.status_code for answer in load.answers} == {200}
    assert models(load.answers) == {old, new}
    assert models(load.answers[count:]) == {new}
    assert all_replicas() == before  # the change was made in place
    user, item = pairs[-1]
    answer = served.get(f"/v1/explanations/{user}/{item}").json()
    assert (answer["source"], answer["explanation"]) == ("backfill", made["adapter-2"][user, item])
    deploy(served.config)


def test_endpoint_that_is_stopped_finishes_what_it_began_and_refuses_the_rest(served):
    """This comes last: `deploy` would not take the gates' refusal back."""
    with served.post("/v1/explanations/stream", {"pairs": FRESH[:8]}, stream=True) as response:
        lines = response.iter_lines(decode_unicode=True)
        begun = next(lines)
        draining = threading.Thread(target=drain, args=(served.config,))
        draining.start()
        wait_until(lambda: served.get("/v1/items").status_code == 503)
        refused, ended = served.get("/v1/items"), [begun, *lines]
    check_refusals([refused], is_of_frontend=False)
    assert served.get("/readyz").status_code == 503
    assert "event: done" in ended
    draining.join(60)
    assert not draining.is_alive()
