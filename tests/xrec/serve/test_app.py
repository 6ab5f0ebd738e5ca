"""The application on a real Ray Serve: answers, clients that disconnect, replicas that die.

At every push, test_command_serves_what_the_project_published_until_ctrl_c in tests/xrec/nights
starts Ray Serve, and asks for a stored text and a live one.
"""

import json
import operator
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from select import select
from typing import Any

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

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Served(Requests):
    config: ServeConfig

    def metric(self, name: str) -> float:
        """Return a metric of the model replica."""
        handle = serve.get_deployment_handle("Generator", APP)
        return float(handle.metric.remote(name).result(timeout_s=60))


class Watched(Generator):
    """A model replica whose metrics a test can read."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments, metrics=NotedMetrics())

    async def metric(self, name: str) -> float:
        return self._metrics.values.get((name,), 0)


@pytest.fixture(scope="module")
def served(ray_cluster, town):
    with held_port() as port, pytest.MonkeyPatch.context() as patch:
        # On a busy machine it may take long until a killed replica is replaced.
        http = {"port": port, "deadline_seconds": 120}
        explanations = str(town / "explanations")
        config = checked(serve_config(town, http=http, explanations=explanations))
        serve.start(**serve_options(config))
        patch.setattr("xrec.serve.app.Generator", Watched)
        deploy(config)
        yield Served(f"http://127.0.0.1:{port}", config)
        # Otherwise `serve.shutdown` takes seconds. The controller, which would restart the others,
        # is the first by name.
        for _, actor in sorted(actors("").items()):
            ray.kill(actor)
        serve.shutdown()


def actors(part: str) -> dict[str, Any]:
    """Return the actors of Serve by name, if it contains `part`."""
    return {
        entry["name"]: ray.get_actor(entry["name"], entry["namespace"])
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if entry["namespace"] == "serve" and part in entry["name"]
    }


def explained(answer: requests.Response) -> list[Any]:
    return list(answer.json()["explanations"])


def num_refusals(answers: list[requests.Response], *, is_of_frontend: bool) -> int:
    """Return how many answers are 503 with Retry-After and a problem; all others must be 200.

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


def test_answers_are_the_same_as_without_ray(served, endpoint):
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


@pytest.mark.parametrize("route", ["", "/stream"])
def test_client_that_disconnects_stops_its_generation(served, route):
    def leave() -> bool:
        """Disconnect once the model is writing; return whether it abandoned a text."""
        before, body = served.metric("abandoned"), json.dumps({"pairs": FRESH}).encode()
        head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        address = ("127.0.0.1", served.config.http.port)
        with socket.create_connection(address) as client:
            client.sendall(f"POST /v1/explanations{route} HTTP/1.1\r\n{head}\r\n\r\n".encode())
            client.sendall(body)
            wait_until(lambda: served.metric("model_pairs") or select([client], [], [], 0)[0])
        wait_until(lambda: not served.metric("model_pairs"))
        return served.metric("abandoned") > before

    wait_until(leave)


@pytest.mark.parametrize(("deployment", "costs_hits"), [("Generator", False), ("Frontend", True)])
def test_replica_killed_under_load_fails_only_its_own_requests_and_is_replaced(
    served, endpoint, town, deployment, costs_hits
):
    user, item = next(iter(rows_of(town / "explanations")))
    pairs = [{"user_id": user, "item_id": item}, *FRESH[:4]]  # the first one is in the backfill
    expected = explained(endpoint.post("/v1/explanations", {"pairs": pairs}))
    answers: list[list[requests.Response]] = [[] for _ in pairs]
    is_over = threading.Event()

    def ask(place: int) -> None:
        while not is_over.is_set():
            answer = served.post("/v1/explanations", {"pairs": [pairs[place]]})
            if answer.status_code == 200:
                text = explained(answer)[0].get("explanation")
                assert text == expected[place].get("explanation")
            answers[place].append(answer)

    def num_good() -> list[int]:
        return [sum(answer.status_code == 200 for answer in each) for each in answers]

    def more(num_hits: int, num_fresh: int) -> None:
        """Wait for that many more answers with status 200 to each pair."""
        goal = [good + (num_fresh if place else num_hits) for place, good in enumerate(num_good())]
        wait_until(lambda: all(map(operator.ge, num_good(), goal)))

    (killed,) = actors(deployment)
    with ThreadPoolExecutor(len(pairs)) as threads:
        asking = [threads.submit(ask, place) for place in range(len(pairs))]
        try:
            more(0, 2)
            ray.kill(actors(deployment)[killed])
            more(10, 0)
            wait_until(lambda: actors(deployment) and killed not in actors(deployment))
            more(0, 2)
        finally:
            is_over.set()
    for each in asking:
        each.result()
    hits, *fresh = (num_refusals(each, is_of_frontend=costs_hits) for each in answers)
    assert sum(fresh) <= 8
    assert hits <= (2 if costs_hits else 0)
    wait_until(lambda: served.get("/readyz").status_code == 200)


def test_endpoint_that_is_stopped_finishes_open_requests_and_refuses_new_ones(served):
    """This test comes last, because a gate refuses all requests after a drain."""
    with served.post("/v1/explanations/stream", {"pairs": FRESH[:8]}, stream=True) as response:
        lines = response.iter_lines(decode_unicode=True)
        begun = next(lines)
        draining = threading.Thread(target=drain, args=(served.config,))
        draining.start()
        wait_until(lambda: served.get("/v1/items").status_code == 503)
        refused, ended = served.get("/v1/items"), [begun, *lines]
    assert num_refusals([refused], is_of_frontend=False) == 1
    assert served.get("/readyz").status_code == 503
    assert "event: done" in ended
    draining.join(60)
    assert not draining.is_alive()
