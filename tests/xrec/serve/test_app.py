"""The application on a real Ray Serve.

Answers are the same as without Ray; replicas are killed under load; clients disconnect.
"""

import json
import socket
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from select import select
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest
import ray
import requests
from ray import serve

from tests.world.program import wait_until
from tests.xrec.serve.local_endpoint import (
    ITEMS,
    USERS,
    NotedMetrics,
    Requests,
    held_port,
    rows_of,
    serve_config,
    sse,
)
from xrec.config import ServeConfig
from xrec.jobs.serve import checked
from xrec.serve.app import APP, Generator, serve_options
from xrec.serve.deployment import deploy, drain
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
    """The counters of the model replica."""

    num_pending: int
    num_abandoned: int
    num_streams: int


class Watched(Generator):
    """A model replica whose counters a test can read."""

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


def explained(answer: requests.Response) -> list[Any]:
    return list(answer.json()["explanations"])


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
    body = {"pairs": [{**pairs[7], "fresh": True}], "parts": "unchecked"}
    *parts, whole, _ = sse(served.post("/v1/explanations/stream", body))
    assert whole[1]["answer"]["explanation"] == here[7]["explanation"]
    assert len([name for name, _ in parts if name == "part"]) > 2
    wait_until(lambda: served.get("/readyz").text == "ready\n")


FRESH = [{"user_id": user, "item_id": item, "fresh": True} for user in USERS for item in ITEMS][:64]


def test_client_that_goes_away_stops_its_generation(served):
    def leave() -> int:
        """Send a request, and disconnect once the pairs have reached the model or are answered."""
        body = json.dumps({"pairs": FRESH}).encode()
        head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        address = ("127.0.0.1", served.config.http.port)
        with socket.create_connection(address) as client:
            client.sendall(f"POST /v1/explanations HTTP/1.1\r\n{head}\r\n\r\n".encode() + body)
            wait_until(lambda: served.model().num_pending or select([client], [], [], 0)[0])
        wait_until(lambda: not served.model().num_pending)
        return served.model().num_abandoned

    wait_until(leave)


def test_client_that_leaves_a_stream_stops_the_pairs_behind(served):
    before = served.model().num_streams
    with served.post("/v1/explanations/stream", {"pairs": FRESH}, stream=True) as response:
        next(response.iter_lines())

    def rests() -> bool:
        num_streams = served.model().num_streams
        time.sleep(0.3)
        return served.model() == Model(0, ANY, num_streams)

    wait_until(rests)
    assert 0 < served.model().num_streams - before < len(FRESH)


@pytest.mark.slow
@pytest.mark.parametrize(("deployment", "costs_hits"), [("Generator", False), ("Frontend", True)])
def test_replica_killed_under_load_costs_its_requests_only_and_comes_back(
    served, endpoint, town, deployment, costs_hits
):
    known = [{"user_id": user, "item_id": item} for user, item in rows_of(town / "explanations")]
    answers: dict[bool, list[requests.Response]] = {True: [], False: []}
    is_over = threading.Event()

    def ask(number: int) -> None:
        """Request a pair of the backfill, or a fresh one, until `is_over`."""
        of, pairs = answers[number > 0], FRESH if number else known
        (expected,) = explained(endpoint.post("/v1/explanations", {"pairs": [pairs[number]]}))
        while not is_over.is_set():
            answer = served.post("/v1/explanations", {"pairs": [pairs[number]]})
            if answer.status_code == 200:
                assert explained(answer)[0].get("explanation") == expected.get("explanation")
            of.append(answer)

    def more(num_hits: int, num_fresh: int) -> None:
        """Wait for that many more answers with status 200."""
        good = lambda of: sum(answer.status_code == 200 for answer in answers[of])  # noqa: E731
        hits, fresh = good(False) + num_hits, good(True) + num_fresh
        wait_until(lambda: good(False) >= hits and good(True) >= fresh)

    (killed,) = replicas(deployment)
    with ThreadPoolExecutor(5) as threads:
        asking = [threads.submit(ask, number) for number in range(5)]
        try:
            more(0, 8)
            ray.kill(replicas(deployment)[killed])
            more(10, 0)
            wait_until(lambda: replicas(deployment) and killed not in replicas(deployment))
            more(0, 8)
        finally:
            is_over.set()
    for each in asking:
        each.result()
    assert check_refusals(answers[True], is_of_frontend=costs_hits) <= 8
    assert check_refusals(answers[False], is_of_frontend=costs_hits) <= (2 if costs_hits else 0)
    wait_until(lambda: served.get("/readyz").status_code == 200)


def test_endpoint_that_is_stopped_finishes_what_it_began_and_refuses_the_rest(served):
    """This test is the last one, because the gates keep refusing requests after a drain."""
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
