"""The client against the endpoint itself, and against a transport with other answers."""

import json

import httpx2
import pytest

import xrec
from tests.xrec.serve.conftest import NUM_BACKFILLED_USERS
from xrec.errors import (
    EndpointAccessError,
    EndpointError,
    EndpointUnreachableError,
    UnknownIdError,
    XRecError,
)
from xrec.serve.client import Client
from xrec.serve.messages import MAX_PAIRS, Explanation, NoExplanation
from xrec.serve.problems import Problem, ProblemError

PAIR = ("u", "i")
EMPTY = httpx2.Response(200, json={"explanations": []})


def refusal(status: int, reason: str, **headers: str) -> httpx2.Response:
    """What the endpoint sends for a refused request."""
    sent = ProblemError(status, reason, f"because of {reason}").response("1f")
    return httpx2.Response(status, headers=headers, content=sent.body)


def client_of(*answers: httpx2.Response, **options: object) -> tuple[Client, list[httpx2.Request]]:
    """A client that gets these answers, the last one for all further requests; what it sends."""
    left, sent = list(answers), []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return left.pop(0) if len(left) > 1 else left[0]

    transport = httpx2.MockTransport(answer)
    return Client("http://endpoint", transport=transport, **options), sent


def test_explain_answers_any_number_of_pairs_in_order(endpoint):
    users = endpoint.get("/v1/users?limit=100").json()["users"][:NUM_BACKFILLED_USERS]
    items = [each["item_id"] for each in endpoint.get("/v1/items").json()["items"][:5]]
    pairs = [(user, item) for user in users for item in items] * 3 + [("nobody", items[0])]
    assert len(pairs) > MAX_PAIRS
    with xrec.Client(endpoint.url) as client:
        answers = client.explain(pairs)
    assert [(each.user_id, each.item_id) for each in answers] == pairs
    refused = [each for each in answers[:-1] if not isinstance(each, Explanation)]
    assert {each.problem.type for each in refused} <= {"/problems/solicits"}  # texts of a toy
    assert len(refused) < len(pairs) / 2
    last = answers[-1]
    assert isinstance(last, NoExplanation)
    assert last.problem.type == "/problems/unknown_user"


def test_explain_takes_the_history_of_a_new_user(endpoint):
    items = [each["item_id"] for each in endpoint.get("/v1/items").json()["items"]]
    new = xrec.PairRequest(user_id="newcomer", item_id=items[0], history=items[1:3])
    with Client(endpoint.url) as client:
        with_history, without = client.explain([new, ("newcomer", items[0])])
    assert not isinstance(with_history, NoExplanation) or "unknown" not in with_history.problem.type
    assert without.problem.type == "/problems/unknown_user"
    assert endpoint.model.asked[-2].history == items[1:3]


def test_stream_gives_the_texts_that_explain_gives(endpoint):
    (user,) = endpoint.get("/v1/users?limit=1").json()["users"]
    items = [each["item_id"] for each in endpoint.get("/v1/items").json()["items"]]
    pairs = [(user, item) for item in items[:8]]
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


def test_recommend_and_evidence_name_who_is_unknown(endpoint):
    (user,) = endpoint.get("/v1/users?limit=1").json()["users"]
    with Client(endpoint.url) as client:
        best = client.recommend(user, 2, explain=False)
        assert [item.rank for item in best.items] == [1, 2]
        evidence = client.evidence(user, best.items[0].item_id)
        assert (evidence.rank, evidence.item_title) == (1, best.items[0].title)
        with pytest.raises(UnknownIdError, match="no/body") as of_user:
            client.recommend("no/body")
        with pytest.raises(UnknownIdError) as of_item:
            client.evidence(user, "nothing")
    assert (of_user.value.reason, of_item.value.reason) == ("unknown_user", "unknown_item")


def test_a_busy_endpoint_is_asked_again_with_the_key():
    busy = refusal(429, "concurrency", **{"Retry-After": "0"})
    down = httpx2.Response(503, headers={"Retry-After": "0"}, text="<html>of a proxy")
    client, sent = client_of(busy, down, EMPTY, key="sesame")
    assert client.explain([PAIR]) == []
    assert client.explain([]) == []
    assert [request.headers["Authorization"] for request in sent] == ["Bearer sesame"] * 3


@pytest.mark.parametrize("after", ["0", "9999"])
def test_an_endpoint_that_stays_busy_is_an_error_and_a_long_wait_at_once(after):
    client, sent = client_of(refusal(429, "rate", **{"Retry-After": after}))
    with pytest.raises(EndpointError, match="429: because of rate"):
        client.explain([PAIR])
    assert len(sent) == (4 if after == "0" else 1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(401, "key"), EndpointAccessError),
        (refusal(403, "scope"), EndpointAccessError),
        (httpx2.Response(401, text="<html>of a proxy"), EndpointAccessError),
        (refusal(422, "not_well_formed"), EndpointError),
        (refusal(404, "unknown_user"), UnknownIdError),
        (refusal(404, "not_found"), EndpointError),
        (httpx2.Response(404, text="Path '/v1/explanations' not found."), EndpointError),
        (httpx2.Response(404, json={"detail": "of another server"}), EndpointError),
        (httpx2.Response(302, headers={"Location": "/login"}), EndpointError),
        (httpx2.Response(200, text="<html>Welcome"), EndpointError),
        (httpx2.Response(200, json={"other": []}), EndpointError),
    ],
)
def test_errors_say_what_was_refused(answer, error):
    client, _ = client_of(answer)
    for ask in (
        lambda: client.explain([PAIR]),
        lambda: client.evidence(*PAIR),
        lambda: client.recommend("u"),
        lambda: list(client.stream([PAIR])) if not answer.is_success else client.explain([PAIR]),
    ):
        with pytest.raises(XRecError) as raised:
            ask()
        assert type(raised.value) is error


def test_an_unknown_id_in_a_batch_is_that_pairs_answer_and_a_wrong_url_an_error(endpoint):
    with Client(f"{endpoint.url}/wrong") as client, pytest.raises(EndpointError) as raised:
        client.explain([PAIR])
    assert not isinstance(raised.value, UnknownIdError)


def sse(*events: tuple[str, object]) -> httpx2.Response:
    lines = [f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events]
    return httpx2.Response(200, text=": keep-alive\n\n".join(lines))


def test_a_stream_that_breaks_off_or_ends_with_a_problem_is_an_error():
    part = "part", {"index": 0, "text": "It", "is_checked": True}
    problem = Problem(type="/problems/deadline", title="", status=504, detail="too slow")
    client, _ = client_of(
        sse(part), sse(part, ("problem", problem.model_dump())), sse(("done", {}))
    )
    for error in (EndpointUnreachableError, EndpointError):
        events = client.stream([PAIR])
        assert next(events).text == "It"
        with pytest.raises(error) as raised:
            next(events)
        assert type(raised.value) is error
    assert list(client.stream([PAIR])) == []


def test_an_endpoint_that_does_not_answer_is_named():
    with pytest.raises(EndpointUnreachableError, match="check the URL"):
        Client("http://127.0.0.1:9").explain([PAIR])
