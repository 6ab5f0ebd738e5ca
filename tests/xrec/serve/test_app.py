"""The application on a real Ray Serve.

Answers are the same as without Ray; replicas are killed and artifacts are swapped under load;
clients disconnect.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
import requests
from ray import serve

from jobs.serve import checked, deploy
from tests.xrec.serve.local_endpoint import Endpoint, sse
from tests.xrec.serve.town import backfill_config, ids_of, make_backfill, serve_config
from xrec.backfill import read_explanations
from xrec.config.serve import ServeConfig
from xrec.serve.app import APP
from xrec.serve.deployment_file import serve_options


@dataclass(frozen=True)
class Served:
    """The town's endpoint on Ray Serve."""

    url: str
    config: ServeConfig

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=120)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, **{"timeout": 120, **options})

    def at_work(self) -> tuple[int, int]:
        """Return the number of pairs at the model replica, and how many were abandoned so far."""
        found: tuple[int, int] = (
            serve.get_deployment_handle("Generator", APP).at_work.remote().result(timeout_s=60)
        )
        return found


@pytest.fixture(scope="module")
def served(ray_cluster: None, town: Path) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = checked(
        serve_config(town, http={"port": port}, explanations=str(town / "explanations"))
    )
    options = serve_options(config)
    serve.start(proxy_location=options["proxy_location"], http_options=options["http_options"])
    deploy(config)
    yield Served(f"http://127.0.0.1:{port}", config)
    serve.shutdown()


def replicas(deployment: str) -> dict[str, Any]:
    """Return the actors of a deployment's replicas, by name."""
    named = [
        entry
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if f"#{deployment}#" in entry["name"]
    ]
    return {entry["name"]: ray.get_actor(entry["name"], entry["namespace"]) for entry in named}


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

    def wait_for(self, count: int, status: int = 200) -> None:
        """Wait until `count` more answers with `status` have come."""
        before, deadline = self._count(status), time.monotonic() + 120
        while self._count(status) < before + count:
            assert time.monotonic() < deadline, f"{count} more answers with {status} did not come"
            time.sleep(0.02)

    def _count(self, status: int) -> int:
        return sum(answer.status_code == status for answer in list(self.answers))

    def _run(self, number: int) -> None:
        while not self._is_over.is_set():
            self.answers.append(self.ask(number))
            number += self.num_threads


def check_refusals(answers: list[requests.Response]) -> int:
    """Check that every answer is 200, or 503 with Retry-After and a problem; count the latter."""
    others = [answer for answer in answers if answer.status_code != 200]
    for answer in others:
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["type"] == "/problems/model_unavailable"
    return len(others)


def test_answers_are_those_without_ray(served: Served, endpoint: Endpoint, town: Path) -> None:
    users, items = ids_of(town)
    pairs = [{"user_id": user, "item_id": item} for user in users[4:8] for item in items[3:6]]
    pairs.append({"user_id": "newcomer", "item_id": items[0], "history": items[1:3]})
    pairs.append({"user_id": "nobody", "item_id": items[0]})
    here, there = (
        [
            {name: value for name, value in answer.items() if name != "is_cached"}
            for answer in one.post("/v1/explanations", {"pairs": pairs}).json()["explanations"]
        ]
        for one in (endpoint, served)
    )
    assert here == there
    assert {answer.get("source") for answer in there} == {"backfill", "live", None}
    body = {"user_id": users[1], "item_id": items[2], "explanation": "You would enjoy it."}
    one, other = (each.post("/v1/evidence", body).json() for each in (endpoint, served))
    one_likelihood, other_likelihood = one.pop("likelihood"), other.pop("likelihood")
    assert one == other
    # The last bits depend on what is computed in the same pass.
    assert one_likelihood["others_nll"] == pytest.approx(other_likelihood["others_nll"], abs=1e-5)
    for name in ("own_nll", "gain"):
        assert one_likelihood[name] == pytest.approx(other_likelihood[name], abs=1e-5)
    events = sse(served.post("/v1/explanations/stream", {"pairs": [{**pairs[7], "fresh": True}]}))
    assert events[-2][1]["answer"]["explanation"] == there[7]["explanation"]
    assert len(events) > 4
    assert served.get("/readyz").text == "ready\n"


def test_request_id_comes_back_once(served: Served) -> None:
    answer = requests.get(f"{served.url}/v1/nothing", headers={"X-Request-ID": "abc-1"}, timeout=60)
    assert answer.raw.headers.getlist("x-request-id") == ["abc-1"]
    assert answer.json()["request_id"] == "abc-1"
    answer = served.get("/v1/nothing")
    assert answer.raw.headers.getlist("x-request-id") == [answer.json()["request_id"]]


def test_client_that_goes_away_stops_its_generation(served: Served, town: Path) -> None:
    users, items = ids_of(town)
    pairs = [{"user_id": user, "item_id": item, "fresh": True} for user in users for item in items][
        :64
    ]

    def leave(seconds: float) -> None:
        with suppress(requests.exceptions.Timeout, requests.exceptions.ConnectionError):
            served.post("/v1/explanations", {"pairs": pairs}, timeout=(10, seconds))

    def leave_in_between(seconds: float) -> None:
        with served.post("/v1/explanations/stream", {"pairs": pairs}, stream=True) as response:
            next(response.iter_lines())

    for abandon in (leave, leave_in_between):
        _, before = served.at_work()
        # A client may leave before its pairs have reached the model; then there is nothing to stop.
        for seconds in (0.05, 0.1, 0.2, 0.4, 0.8):
            abandon(seconds)
            deadline = time.monotonic() + 10
            while served.at_work() <= (0, before) and time.monotonic() < deadline:
                time.sleep(0.02)
            if served.at_work()[1] > before:
                break
        assert served.at_work()[1] > before
        deadline = time.monotonic() + 60
        while served.at_work()[0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.slow
def test_model_replica_killed_under_load_costs_its_requests_only_and_comes_back(
    served: Served, endpoint: Endpoint, town: Path
) -> None:
    users, items = ids_of(town)
    rows = read_explanations(str(town / "explanations")).to_pylist()
    pairs = [{"user_id": user, "item_id": item, "fresh": True} for user in users for item in items]
    texts = [
        answer.get("explanation")  # the toy model's texts are refused now and then
        for start in (0, 60)
        for answer in endpoint.post(
            "/v1/explanations", {"pairs": pairs[start : start + 60]}
        ).json()["explanations"]
    ]

    def live(number: int) -> requests.Response:
        answer = served.post("/v1/explanations", {"pairs": [pairs[number % len(pairs)]]})
        if answer.status_code == 200:
            (explained,) = answer.json()["explanations"]
            assert explained.get("explanation") == texts[number % len(pairs)]
        return answer

    def hit(number: int) -> requests.Response:
        row = rows[number % len(rows)]
        answer = served.get(f"/v1/explanations/{row['user_id']}/{row['item_id']}")
        assert answer.json()["explanation"] == row["explanation"]
        return answer

    (killed,) = replicas("Generator")
    with Load(live) as generated, Load(hit, 1) as hits:
        generated.wait_for(8)
        ray.kill(replicas("Generator")[killed])
        hits.wait_for(10)
        while killed in replicas("Generator") or not replicas("Generator"):
            time.sleep(0.05)
        generated.wait_for(8)
    assert {answer.status_code for answer in hits.answers} == {200}
    assert check_refusals(generated.answers) <= 2 * generated.num_threads
    assert served.get("/readyz").status_code == 200


@pytest.mark.slow
def test_frontend_killed_under_load_costs_its_requests_only_and_comes_back(
    served: Served, town: Path
) -> None:
    rows = read_explanations(str(town / "explanations")).to_pylist()

    def hit(number: int) -> requests.Response:
        row = rows[number % len(rows)]
        answer = served.get(f"/v1/explanations/{row['user_id']}/{row['item_id']}")
        if answer.status_code == 200:
            assert answer.json()["explanation"] == row["explanation"]
        return answer

    (killed,) = replicas("Frontend")
    with Load(hit) as load:
        load.wait_for(8)
        ray.kill(replicas("Frontend")[killed])
        while killed in replicas("Frontend") or not replicas("Frontend"):
            time.sleep(0.05)
        load.wait_for(8)
    assert check_refusals(load.answers) <= 2 * load.num_threads


def explained_by(
    town: Path, adapter: str, folder: Path, users: list[str], items: list[str]
) -> set[tuple[str, str]]:
    """Return the pairs for which the model with `adapter` writes a text that can be used.

    The toy model's texts are refused now and then, for example for a part of a place-holder.
    """
    output = folder / f"texts-{adapter}"
    config = backfill_config(town, str(output), adapter=str(town / adapter))
    make_backfill(config, [(user, item) for user in users for item in items])
    rows = read_explanations(str(output)).to_pylist()
    return {(row["user_id"], row["item_id"]) for row in rows}


@pytest.mark.slow
def test_new_backfill_and_new_adapter_swapped_under_load_give_no_5xx(
    served: Served, town: Path, tmp_path: Path
) -> None:
    users, items = ids_of(town)
    old = served.get(f"/v1/explanations/{users[0]}/{items[0]}").json()["model_fingerprint"]
    config = backfill_config(
        town, str(tmp_path / "explanations-2"), adapter=str(town / "adapter-2")
    )
    make_backfill(config, [(user, item) for user in users[:3] for item in items])
    rows = {
        (row["user_id"], row["item_id"]): row
        for row in read_explanations(config.explanations or "").to_pylist()
    }
    (new,) = {row["model_fingerprint"] for row in rows.values()}
    assert new != old

    pairs = sorted(
        set.intersection(
            *(explained_by(town, name, tmp_path, users, items) for name in ("adapter", "adapter-2"))
        )
    )

    def ask(number: int) -> requests.Response:
        user, item = pairs[number % len(pairs)]
        return served.post(
            "/v1/explanations",
            {"pairs": [{"user_id": user, "item_id": item, "fresh": number % 3 == 0}]},
        )

    def answered_by(answer: requests.Response) -> Any:
        return answer.json()["explanations"][0]["model_fingerprint"]

    before = {name for deployment in ("Frontend", "Generator") for name in replicas(deployment)}
    with Load(ask) as load:
        load.wait_for(20)
        deploy(
            checked(
                served.config.model_copy(
                    update={"adapter": str(town / "adapter-2"), "explanations": config.explanations}
                )
            )
        )
        deadline = time.monotonic() + 120
        while {answered_by(answer) for answer in load.answers[-40:]} != {new}:
            assert time.monotonic() < deadline
            load.wait_for(5)
        count = len(load.answers)
    assert {answer.status_code for answer in load.answers} == {200}
    assert {answered_by(answer) for answer in load.answers} == {old, new}
    assert {answered_by(answer) for answer in load.answers[count:]} == {new}
    # The replicas are the same ones: the change was made in place.
    assert {
        name for deployment in ("Frontend", "Generator") for name in replicas(deployment)
    } == before
    user, item = users[2], items[9]
    answer = served.get(f"/v1/explanations/{user}/{item}").json()
    assert (answer["source"], answer["explanation"]) == (
        "backfill",
        rows[user, item]["explanation"],
    )
    deploy(served.config)
