"""The client against the endpoint itself, and against one that is busy or refuses."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import xrec
from tests.xrec.serve.conftest import NUM_BACKFILLED_USERS
from xrec.errors import EndpointAccessError, EndpointError, EndpointUnreachableError, UnknownIdError
from xrec.serve.client import Client
from xrec.serve.messages import MAX_PAIRS, Explanation, NoExplanation

Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[str, list[str | None]]]:
    """A server that gives these answers, the last one for ever; its URL, and the keys it saw."""
    left, keys = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            keys.append(self.headers["Authorization"])
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", keys
    server.shutdown()
    server.server_close()


def test_client_explains_any_number_of_pairs_in_their_order(endpoint):
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


def test_client_recommends_and_names_who_is_not_known(endpoint):
    (user,) = endpoint.get("/v1/users?limit=1").json()["users"]
    with Client(endpoint.url) as client:
        found = client.recommend(user, 2, explain=False)
        assert [item.rank for item in found.items] == [1, 2]
        with pytest.raises(UnknownIdError, match=r"404: .*no/body"):
            client.recommend("no/body")


def test_client_asks_a_busy_endpoint_again_with_its_key():
    body = json.dumps({"explanations": []}).encode()
    busy: Answer = (429, {"Retry-After": "0"}, b"")
    with answering(busy, busy, (200, {}, body)) as (url, keys), Client(url, "sesame") as client:
        assert client.explain([("u", "i")]) == []
        assert client.explain([]) == []
    assert keys == ["Bearer sesame"] * 3


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((401, {}, b'{"detail": "no such key"}'), EndpointAccessError, "401: no such key"),
        ((502, {}, b"<html>Bad Gateway"), EndpointError, "502: <html>Bad Gateway"),
        ((429, {"Retry-After": "0"}, b'{"detail": "busy"}'), EndpointError, "429: busy"),
    ],
)
def test_client_says_why_it_was_refused(answer, error, words):
    with answering(answer) as (url, _), Client(url) as client, pytest.raises(error, match=words):
        client.explain([("u", "i")])


def test_client_of_nothing_says_so():
    with pytest.raises(EndpointUnreachableError, match="check the URL"):
        Client("http://127.0.0.1:9").explain([("u", "i")])
